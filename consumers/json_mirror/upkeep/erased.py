"""What was erased after this state was copied is erased again: an older backup brings nobody back."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from consumers.json_mirror import filenames
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.state import State
from consumers.json_mirror.state.erasing import hashed
from consumers.json_mirror.state.journal import MEASURED, asked
from eventbus.errors import counted
from eventbus.events import envelope

_LINES = "SELECT key, max(floor) FROM erased GROUP BY key"
_CHUNK = 1_000

log = logging.getLogger(__name__)


def erase_again(state: State, files: Files, history: Path) -> None:
    """Forget in state, journal and files what the file `history` says is erased and this state does not know of.

    Only for who holds the lock of the directory. A history that cannot be asked now is asked by the next start.
    """
    floors = _missing(state, history)
    if not floors:
        return
    paths = [record for record, version in _records(state) if version <= floors.get(hashed(record), -1)]
    files.begin()
    for path in paths:
        directory, _, name = path.rpartition("/")
        files.put(directory, name, None)
    files.sync_all()
    state.erase(paths, floors, list(_events(state, floors)))
    log.warning(
        "this state is older than an erasure: %s erased again",
        counted(len(paths), "record"),
        extra={"event": "erased_again", "records": len(paths)},
    )


def _missing(state: State, history: Path) -> dict[str, int]:
    if not history.exists():
        return {}
    try:
        lines = asked(history, _LINES)
    except sqlite3.Error as error:
        log.warning("the history cannot be asked what is erased: %s", error, extra={"reason": str(error)})
        return {}
    known = state.floors()
    return {key: floor for key, floor in lines if floor > known.get(key, -1)}


def _records(state: State) -> Iterator[tuple[str, int]]:
    for records in state.records():
        for record in records:
            yield record.path, record.version


def _events(state: State, floors: Mapping[str, int]) -> Iterator[int]:
    """The rows of the journal that tell of what is erased."""
    after = 0
    while rows := state.events(after, _CHUNK):
        after = rows[-1].id
        for row in rows:
            if row.body[:1] == b"{":
                event = envelope.decode(row.body, MEASURED)
                path = filenames.path(event.service, event.entity, event.pk)
                if event.version <= floors.get(hashed(path), -1):
                    yield row.id
