"""How a batch of changes goes into the state, within a transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from consumers.base.merging import Merged, merge
from consumers.json_mirror.disk import documents
from consumers.json_mirror.errors import StateDamaged
from consumers.json_mirror.state.checksum import checksum
from consumers.json_mirror.state.stored import restored
from consumers.json_mirror.state.values import Change, Written

_FIND: Final = "SELECT id, version, document, rest FROM record WHERE entity = ? AND name = ?"
_INSERT: Final = (
    "INSERT INTO record (entity, name, version, applied, document, rest, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE: Final = "UPDATE record SET version = ?, applied = ?, document = ?, rest = ?, checksum = ? WHERE id = ?"
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

    def see(self, change: Change) -> None:
        """A change that says something new."""
        self.changed = True
        if change.version > self.version:
            self.version, self.time = change.version, change.time or self.time


class _Record:
    """One record of the batch: the row that was found, and what has become of it.

    `told` is the one change that tells it all; once others have to be merged with it, `merged` is set instead.
    """

    __slots__ = ("entity", "merged", "row", "told")

    def __init__(self, entity: _Entity, row: Any) -> None:
        self.entity = entity
        self.row = row
        self.told: Change | None = None
        self.merged: Merged | None = None

    def take(self, change: Change) -> None:
        known = self.merged
        if known is None:
            if self.told is not None:
                known = merge(None, self.told)
            elif self.row is not None:
                _, version, document, rest = self.row
                if change.version <= version and rest is None:
                    return  # its version vouches for all that the row has
                if change.version <= version or not change.whole:
                    known = restored(version, document, rest)
            if known is None and change.whole:
                self.told = change
                self.entity.see(change)
                return
        merged = merge(known, change)
        if merged is not known:
            self.merged = merged
            self.entity.see(change)

    def result(self, change: Change) -> tuple[int, bytes | None, bytes | None] | None:
        """Version, document and rest of the row to be; None where nothing was new. `change` is any of the record's."""
        now = self.merged
        if now is None:
            told = self.told
            return None if told is None else (told.version, _document(told, told.version, told.after, told.stub), None)
        return now.version, _document(change, now.version, now.fields, now.stub), now.rest


def _document(change: Change, version: int, fields: Mapping[str, Any] | None, stub: Any) -> bytes | None:
    return None if fields is None else documents.encode(change.model, change.pk, version, fields, stub)


def write(db: sqlite3.Connection, changes: Iterable[Change]) -> list[Written]:
    """Put in what the changes say that the state does not know; tell whose files change, each once."""
    entities: dict[str, _Entity] = {}
    records: dict[tuple[str, str], tuple[_Record, Change]] = {}
    for change in changes:
        key = change[:2]
        found = records.get(key)
        if found is None:
            entity = entities.get(key[0])
            if entity is None:
                entity = entities[key[0]] = _entity(db, key[0])
            row = db.execute(_FIND, (entity.id, key[1])).fetchone()
            if row is not None and type(row[1]) is not int:
                raise StateDamaged("a version in the state is no number; run the mirror with --rebuild")
            found = records[key] = _Record(entity, row), change
        found[0].take(change)
    written = _store(db, records.values())
    # A batch of nothing but duplicates writes nothing, and so waits for no disk.
    counts = [(e.live, e.deleted, e.version, e.time, e.id) for e in entities.values() if e.changed]
    db.executemany(_COUNT, counts)
    return written


def _store(db: sqlite3.Connection, records: Iterable[tuple[_Record, Change]]) -> list[Written]:
    inserts: list[tuple[int, str, int, int, bytes | None, bytes | None, int]] = []
    updates: list[tuple[int, int, bytes | None, bytes | None, int, int]] = []
    written: list[Written] = []
    now = int(time.time())
    for record, change in records:
        result = record.result(change)
        if result is None:
            continue
        version, document, rest = result
        row, entity, existed = record.row, record.entity, False
        noted = checksum(entity.id, change.filename, version, document, rest)
        if row is None:
            inserts.append((entity.id, change.filename, version, now, document, rest, noted))
        else:
            existed = row[2] is not None
            updates.append((version, now, document, rest, noted, row[0]))
            entity.live -= existed
            entity.deleted -= not existed
        entity.live += document is not None
        entity.deleted += document is None
        if row is None or row[1] != version or row[2] != document:
            written.append(Written(change.directory, change.filename, version, document, existed))
    db.executemany(_INSERT, inserts)
    db.executemany(_UPDATE, updates)
    return written


def _entity(db: sqlite3.Connection, directory: str) -> _Entity:
    row = db.execute(_ENTITY, (directory,)).fetchone()
    if row is None:
        db.execute("INSERT INTO entity (directory) VALUES (?)", (directory,))
        row = db.execute(_ENTITY, (directory,)).fetchone()
    return _Entity(*row)
