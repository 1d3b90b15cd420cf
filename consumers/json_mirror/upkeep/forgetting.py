"""Forgets one record whose version keeps every new event out: its next event counts then."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from consumers.json_mirror import filenames
from consumers.json_mirror.cache.base import Cache
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.state import State
from eventbus.errors import ConfigurationError
from eventbus.redaction import shown


def forget(record: str, state: State, files: Files, cache: Cache | None = None) -> int:
    """Forget `crm.contact/ab12` in state, files and cache; how many records it was, as `5` may be a text and a number.

    Raises ConfigurationError where this names no record.
    """
    model, slash, key = record.partition("/")
    service, dot, entity = model.partition(".")
    if not (service and dot and entity and slash):
        raise ConfigurationError(f"--forget {shown(record)}: write the record as crm.contact/ab12")
    directory, count = filenames.directory(service, entity), 0
    for filename in {filenames.filename(pk) for pk in _keys(key)}:
        if state.forget(directory, filename):
            count += 1
            files.begin()
            files.put(directory, filename, None, existed=True)
        if cache is not None:
            cache.forget(directory, filename)
    files.sync_all()
    return count


def _keys(text: str) -> Iterable[Any]:
    """The keys that a text may stand for: itself, or a number or list that is written so."""
    yield text
    try:
        other = json.loads(text)
    except ValueError:
        return
    if other is not None and not isinstance(other, str | dict):
        yield other
