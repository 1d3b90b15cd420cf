"""Names that an object of JSON has twice: parsers keep the last value, and say nothing of the one they lose."""

from __future__ import annotations

import json
from typing import Any

import orjson


def check_names(data: bytes, value: Any) -> None:
    """Raise ValueError where an object in this text, which was parsed as `value`, has a name twice.

    A lost name is missed by its quotes: only where those differ is it looked for.
    """
    try:
        if orjson.dumps(value).count(b'"') == data.count(b'"'):
            return
    except orjson.JSONEncodeError:  # deeper than orjson writes
        pass
    try:
        json.loads(data, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) < len(pairs):
        twice = next(name for name in names if sum(each == name for each, _ in pairs) > 1)
        raise ValueError(f"an object has two values of the name {twice[:200]!r}")
