"""The content of a mirror file: one record as canonical JSON, so that equal records are equal bytes.

Keys are sorted, indented by two spaces, non-ASCII characters stand as they are, and a newline ends the file::

    {
      "fields": {…},
      "model": "crm.contact",
      "pk": "ab12",
      "version": "00001763884800123456"
    }

Where indentation would make a file more than four times as large as what is in it, as it does to a million numbers in
sixty nested lists, it is one line.

Where the service could not publish the record, `fields` hold its key alone, and `"stub": {"field": …, "reason": …}`
says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from consumers.json_mirror import filenames
from eventbus.events.envelope import VERSION_DIGITS

MAX_VERSION: Final = (1 << 63) - 1
"""What an integer of the state holds; the clock in microseconds reaches it in 290,000 years."""

_MOST_INDENTED: Final = 3
_NEVER_MIND: Final = 4096
_DEEPEST: Final = 128
_CONTAINERS: Final = frozenset((dict, list))
_CANONICAL: Final = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


class Document(NamedTuple):
    """A mirror file, read."""

    model: str
    pk: Any
    version: int
    fields: Mapping[str, Any]
    stub: Mapping[str, Any] | None = None

    @property
    def directory(self) -> str:
        """Where its file belongs, relative to DATA_DIR."""
        service, _, entity = self.model.partition(".")
        return filenames.directory(service, entity)

    @property
    def filename(self) -> str:
        """The name its file has."""
        return filenames.filename(self.pk)


def encode(
    model: str, pk: Any, version: int, fields: Mapping[str, Any] | None, stub: Mapping[str, Any] | None = None
) -> bytes:
    """The bytes of the file."""
    content = {"fields": fields, "model": model, "pk": pk, "version": f"{version:0{VERSION_DIGITS}d}"}
    if stub is not None:
        content["stub"] = stub
    elif fields is not None and _CONTAINERS.isdisjoint(map(type, fields.values())):
        return orjson.dumps(content, option=_CANONICAL)  # a line a field: shorter than the field
    plain = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return plain + b"\n" if _is_blown_up(content, plain) else orjson.dumps(content, option=_CANONICAL)


def _is_blown_up(content: Mapping[str, Any], plain: bytes) -> bool:
    """Whether indentation takes more than _MOST_INDENTED times as much as all else, and more than a screen or so.

    Brackets and commas bound the lines and their depth from above at the cost of three scans; only a document that
    might be beyond is measured exactly.
    """
    bound = _MOST_INDENTED * len(plain) + _NEVER_MIND
    brackets = plain.count(b"[") + plain.count(b"{")
    lines = plain.count(b",") + 2 * brackets
    return lines * (2 * min(brackets, _DEEPEST) + 2) > bound and _indentation(content, bound) > bound


def _indentation(content: Any, enough: int) -> int:
    """Bytes that indentation adds, or some number above `enough` where they are more."""
    size, depth = 0, 0
    objects: list[Any] = [content]
    lists: list[Any] = []
    while (objects or lists) and size <= enough:
        depth += 1
        names = sum(map(len, objects))
        filled = sum(1 for each in objects if each) + sum(1 for each in lists if each)
        # A line for each child, and one for each closing bracket; a blank behind the name of each child.
        size += (names + sum(map(len, lists))) * (2 * depth + 1) + filled * (2 * depth - 1) + names
        below = [child for each in lists for child in each if type(child) in _CONTAINERS]
        below += [child for each in objects for child in each.values() if type(child) in _CONTAINERS]
        objects, lists = [each for each in below if type(each) is dict], [each for each in below if type(each) is list]
    return size


def decode(content: bytes) -> Document:
    """Read a file's bytes. Raises ValueError where they are not such a document."""
    match orjson.loads(content):
        case {"fields": dict(fields), "model": str(model), "pk": pk, "version": str(version), **more} if (
            is_identity(model, pk) and version.isdecimal() and int(version) <= MAX_VERSION
        ):
            stub = more.get("stub")
            return Document(model, pk, int(version), fields, stub if isinstance(stub, dict) else None)
    raise ValueError("not a document of the mirror")


def is_identity(model: Any, pk: Any) -> bool:
    """Whether these can be model and primary key of a record."""
    parts = pk if type(pk) is list else [pk]
    return (
        isinstance(model, str)
        and model.count(".") == 1
        and bool(parts)
        and pk is not None
        and not any(isinstance(part, dict | list) for part in parts)
    )
