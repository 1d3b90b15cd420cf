"""How a batch of changes goes into the state, within a transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import Final

from consumers.json_mirror.state.values import Change, Written

_FIND: Final = "SELECT id, version, document IS NULL FROM record WHERE entity = ? AND name = ?"
_INSERT: Final = "INSERT INTO record (entity, name, version, applied, document) VALUES (?, ?, ?, ?, ?)"
_UPDATE: Final = "UPDATE record SET version = ?, applied = ?, document = ? WHERE id = ?"
_COUNT: Final = "UPDATE entity SET live = live + ?, deleted = deleted + ?, version = ?, time = ? WHERE id = ?"
_ENTITY: Final = "SELECT id, version, time FROM entity WHERE directory = ?"


class _Entity:
    """The running figures of one entity, within a transaction."""

    __slots__ = ("changed", "deleted", "id", "live", "time", "version")

    def __init__(self, id: int, version: int = 0, time: str = "") -> None:
        self.id = id
        self.changed = False
        self.live = self.deleted = 0
        self.version = version
        self.time = time


def newest_of(changes: Iterable[Change]) -> Iterable[Change]:
    """Of several changes of one record the newest."""
    newest: dict[tuple[str, str], Change] = {}
    for change in changes:
        key = change[:2]
        known = newest.get(key)
        if known is None or known.version < change.version:
            newest[key] = change
    return newest.values()


def write(db: sqlite3.Connection, changes: Iterable[Change]) -> list[Written]:
    """Put in what is newer than the state, one change a record; tell what it was."""
    touched: dict[str, _Entity] = {}
    inserts: list[tuple[int, str, int, int, bytes | None]] = []
    updates: list[tuple[int, int, bytes | None, int]] = []
    written: list[Written] = []
    now = int(time.time())
    for directory, filename, version, document, when in changes:
        entity = touched.get(directory) or touched.setdefault(directory, _entity(db, directory))
        found = db.execute(_FIND, (entity.id, filename)).fetchone()
        existed = False
        if found is None:
            inserts.append((entity.id, filename, version, now, document))
        elif version > found[1]:
            existed = not found[2]
            updates.append((version, now, document, found[0]))
            entity.live -= existed
            entity.deleted -= not existed
        else:
            continue
        entity.changed = True
        entity.live += document is not None
        entity.deleted += document is None
        if version > entity.version:
            entity.version, entity.time = version, when or entity.time
        written.append(Written(directory, filename, version, document, existed))
    db.executemany(_INSERT, inserts)
    db.executemany(_UPDATE, updates)
    # A batch of nothing but duplicates writes nothing, and so waits for no disk.
    db.executemany(_COUNT, [(e.live, e.deleted, e.version, e.time, e.id) for e in touched.values() if e.changed])
    return written


def _entity(db: sqlite3.Connection, directory: str) -> _Entity:
    row = db.execute(_ENTITY, (directory,)).fetchone()
    if row is None:
        db.execute("INSERT INTO entity (directory) VALUES (?)", (directory,))
        row = db.execute(_ENTITY, (directory,)).fetchone()
    return _Entity(*row)
