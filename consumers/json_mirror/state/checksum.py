"""A number for each record by which a flipped bit in the state is noticed, so that it never reaches a good file."""

from __future__ import annotations

from typing import Any
from zlib import crc32


def checksum(entity: int, name: str, version: int, document: bytes | None, rest: bytes | None) -> int:
    """Of all that stands in a record's row and matters: CRC-32, which one flipped bit always changes."""
    known = crc32(b"%d %b %d" % (entity, name.encode(), version))
    return crc32(rest or b"", known if document is None else crc32(document, known + 1))


def is_sound(entity: Any, name: Any, version: Any, document: Any, rest: Any, noted: Any) -> bool | None:
    """Whether a row is what was written; None where an older version has written it, without a checksum."""
    if type(name) is not str or type(version) is not int or not isinstance(document, bytes | None):
        return False
    if noted is None:
        return None
    try:
        return bool(checksum(entity, name, version, document, rest) == noted)
    except (TypeError, AttributeError, UnicodeError):
        return False  # the kind of a value has changed
