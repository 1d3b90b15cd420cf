"""What a record holds at a version, and how an event makes a new version of it: field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from consumers.history.store.reading import damaged
from consumers.json_mirror import filenames
from consumers.json_mirror.disk import documents
from eventbus.redaction import shown


class Content(NamedTuple):
    """Fields of a record; `stub` says why there is only its key. A record that is deleted has no content: None."""

    fields: Mapping[str, Any]
    stub: Mapping[str, Any] | None = None


def merged(former: Content | None, fields: Mapping[str, Any], stub: Any, vouched: frozenset[str] | None) -> Content:
    """The next version: from the event what it vouches for, the rest as it was. `vouched` None is all.

    A field that the record did not have yet is taken from the event in any case: there is nothing better.
    """
    if vouched is None or former is None or stub is not None or former.stub is not None:
        return Content(fields, stub)
    known = former.fields
    return Content(
        {name: value if name in vouched or name not in known else known[name] for name, value in fields.items()}
    )


def strangers(made: Content, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values in the event that it does not vouch for and that differ from what is known: read before, or never."""
    if made.fields is fields or made.fields == fields:
        return {}
    return {name: value for name, value in fields.items() if made.fields[name] != value}


def encode(path: str, key: bytes | None, version: int, content: Content) -> bytes:
    """The bytes of the record's file. `key` is what `key_of` gave for it."""
    model, pk = identify(path, key)
    return documents.encode(model, pk, version, content.fields, content.stub)


def decode(path: str, document: bytes | None) -> Content | None:
    """The content of the newest file of the record at `path`; None where there is none. Raises HistoryDamaged."""
    read = decode_file(path, document)
    return None if read is None else Content(read.fields, read.stub)


def decode_file(path: str, document: bytes | None) -> documents.Document | None:
    """All that the file says. Raises HistoryDamaged."""
    try:
        return None if document is None else documents.decode(document)
    except ValueError as error:
        raise damaged(f"the newest version of {shown(path, 200)}", error) from error


def key_of(path: str, model: str, pk: Any) -> bytes | None:
    """What must be kept to know model and key again; None where the path says it."""
    try:
        if _told_by(path) == (model, pk):
            return None
    except ValueError:
        pass
    return orjson.dumps([model, pk])


def identify(path: str, key: bytes | None) -> tuple[str, Any]:
    """Model and primary key of the record at this path. Raises HistoryDamaged where neither says it."""
    try:
        if key is None:
            return _told_by(path)
        match orjson.loads(key):
            case [model, pk] if documents.is_identity(model, pk):
                return model, pk
        reason = f"{shown(key, 80)} is no model with a key"
    except ValueError as error:
        reason = str(error)
    raise damaged(f"the key of {shown(path, 200)}", reason)


def _told_by(path: str) -> tuple[str, Any]:
    directory, _, name = path.rpartition("/")
    return ".".join(filenames.decode_directory(directory)), filenames.decode_filename(name)
