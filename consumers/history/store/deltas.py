"""From a version of a record back to the one before it.

A delta stands with the *newer* version and holds the old values of what differs, as JSON that anybody can read. So a
new version is added without touching the older ones, the newest is whole, and forgetting the oldest takes nothing from
the others::

    {"phone": null}                          these fields had these values
    [{"phone": null}, ["fax"], {…}]          the same; `fax` was not there; the stub it had, or null
    [{…all fields…}, null, {…}]              the whole content before; made at every 64th version

NULL says that there was nothing before, or nothing that is kept. What is long is deflated.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import orjson

from consumers.history.store.content import Content

EVERY: Final = 64
"""So many versions at most are undone to reach one that is older."""
_NONE: Final[list[str]] = []
"""What is gone by a delta that does not tell of it, nor of the stub."""
_LONG: Final = 200
"""Bytes from which on deflating pays."""


def undo(newer: Content | None, older: Content | None, *, whole: bool = False) -> tuple[bytes | None, frozenset[str]]:
    """What leads from `newer` back to `older`, and the names of the fields that differ."""
    now, was = newer.fields if newer else {}, older.fields if older else {}
    values = {name: value for name, value in was.items() if name not in now or now[name] != value}
    if older is None:
        return None, frozenset(now)
    if now.keys() == was.keys():
        differing = frozenset(values)
        if not whole and newer is not None and newer.stub == older.stub is None:
            return _packed(values), differing
    else:
        differing = frozenset(values).union(name for name in now if name not in was)
    if whole or newer is None:
        return _packed([older.fields, None, older.stub]), differing
    return _packed([values, [name for name in now if name not in was], older.stub]), differing


def undone(newer: Content | None, delta: bytes | None) -> Content | None:
    """The content before. Raises ValueError where the delta is none, or not one of this content."""
    if delta is None:
        return None
    values, gone, stub = _parts(delta)
    if gone is None:
        return Content(values, stub)
    if newer is None:
        raise ValueError("it leads back from a content that is not there")
    if gone is _NONE:
        return Content({**newer.fields, **values}, newer.stub)
    return Content({**{name: value for name, value in newer.fields.items() if name not in gone}, **values}, stub)


def is_whole(delta: bytes | None) -> bool:
    """Whether it leads back without the newer content. Raises ValueError."""
    return delta is None or _parts(delta)[1] is None


def names(delta: bytes | None) -> frozenset[str] | None:
    """The fields that differ; None where the delta does not say it. Raises ValueError."""
    if delta is None:
        return None
    values, gone, _ = _parts(delta)
    return None if gone is None else frozenset(values).union(gone)


def _parts(delta: bytes) -> tuple[dict[str, Any], list[str] | None, dict[str, Any] | None]:
    """Values, the names of what was not there, the stub: as the three forms say them."""
    try:
        read = orjson.loads(delta if delta[:1] in b"{[" else zlib.decompress(delta))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    match read:
        case dict(values):
            return values, _NONE, None
        case [dict(values), list() | None as gone, dict() | None as stub] if gone is None or _are_names(gone):
            return values, gone, stub
    raise ValueError("it is not in one of the forms that lead back")


def _are_names(gone: list[Any]) -> bool:
    return all(isinstance(name, str) for name in gone)


def _packed(value: Any) -> bytes:
    text = orjson.dumps(value)
    if len(text) < _LONG:
        return text
    # A small window is set up faster.
    packer = zlib.compressobj(6, zlib.DEFLATED, 12 if len(text) < 4096 else 15, 5 if len(text) < 4096 else 8)
    return packer.compress(text) + packer.flush()
