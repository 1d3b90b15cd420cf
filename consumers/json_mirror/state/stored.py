"""A record as it is stored, and as it can be merged with what comes."""

from __future__ import annotations

import orjson

from consumers.base.merging import Merged
from consumers.json_mirror.errors import StateDamaged


def restored(version: int, document: bytes | None, rest: bytes | None) -> Merged:
    """The record of a row. Raises StateDamaged where that holds none."""
    if document is None:
        return Merged.restore(version, None)
    try:
        found = orjson.loads(document)
        return Merged.restore(version, found["fields"], found.get("stub"), rest)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StateDamaged("a record of the state is no document of the mirror; run it with --rebuild") from error
