"""PostgreSQL's arrays: a JSON list from and to the text `{1,NULL,"a b"}`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

_TOKEN: Final = re.compile(r'[{},]|"((?:[^"\\]|\\.)*)"|([^{},"]+)', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def reader(item: Callable[[Any], Any]) -> Callable[[Any], str]:
    """What makes the text of a list, with `item` for each value that is not null."""

    def text(value: Any) -> str:
        if not isinstance(value, list):
            raise ValueError("not a list")
        return f"{{{','.join(map(part, value))}}}"

    def part(value: Any) -> str:
        if isinstance(value, list):
            return text(value)
        if value is None:
            return "NULL"
        escaped = str(item(value)).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    return text


def writer(item: Callable[[str], Any]) -> Callable[[Any], list[Any]]:
    """What makes a list of the text. Raises ValueError for an array that begins elsewhere than at 1."""

    def parse(text: Any) -> list[Any]:
        if text[:1] != "{":
            raise ValueError("an array whose first item is not number 1")
        stack: list[list[Any]] = [[]]
        for match in _TOKEN.finditer(text):
            mark = match[0]
            if mark == "{":
                stack.append([])
            elif mark == "}":
                done = stack.pop()
                stack[-1].append(done)
            elif mark != ",":
                stack[-1].append(_value(match, item))
        ((found,),) = stack
        return found  # type: ignore[no-any-return]

    return parse


def _value(match: re.Match[str], item: Callable[[str], Any]) -> Any:
    if match[1] is not None:
        return item(_ESCAPED.sub(r"\1", match[1]))
    return None if match[2] == "NULL" else item(match[2])
