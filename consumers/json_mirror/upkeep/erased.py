"""What was erased after this state was copied is erased again: an older backup brings nobody back."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from consumers.json_mirror import filenames
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.errors import StateDamaged
from consumers.json_mirror.state import State
from consumers.json_mirror.state.erasing import hashed
from consumers.json_mirror.state.journal import MEASURED, asked
from eventbus.errors import BadEvent, counted
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
    paths = list(_records(state, floors))
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
        if not all(type(key) is str and type(floor) is int for key, floor in lines):
            raise sqlite3.DatabaseError("values of a wrong kind in `erased`")
    except sqlite3.Error as error:
        log.warning("the history cannot be asked what is erased: %s", error, extra={"reason": str(error)})
        return {}
    known = state.floors()
    return {key: floor for key, floor in lines if floor > known.get(key, -1)}


def _records(state: State, floors: Mapping[str, int]) -> Iterator[str]:
    for records in state.records():
        for record in records:
            floor = floors.get(hashed(record.path))
            if floor is not None and record.sound is False:
                raise StateDamaged(
                    f"{record.path} is erased, and its row in the state is spoilt: whether it came back later cannot "
                    "be told; run the mirror with --rebuild"
                )
            if floor is not None and record.version <= floor:
                yield record.path


def _events(state: State, floors: Mapping[str, int]) -> Iterator[int]:
    """The rows of the journal that tell of what is erased."""
    after = 0
    while rows := state.events(after, _CHUNK):
        after = rows[-1].id
        for row in rows:
            if row.body[:1] == b"{" and _is_below(floors, row.body):
                yield row.id


def _is_below(floors: Mapping[str, int], body: bytes) -> bool:
    try:
        event = envelope.decode(body, MEASURED)
    except BadEvent:
        return True  # spoilt on the disk: nobody can take it in, and it may hold what is to go
    path = filenames.path(event.service, event.entity, event.pk)
    return event.version <= floors.get(hashed(path), -1)
