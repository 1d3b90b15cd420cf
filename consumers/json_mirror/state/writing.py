"""How a batch of changes goes into the state, within a transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import Any, Final

from consumers.base.merging import Merged, merge
from consumers.json_mirror.disk import documents
from consumers.json_mirror.errors import StateDamaged
from consumers.json_mirror.state.values import Change, Written

_FIND: Final = "SELECT id, version, document, rest FROM record WHERE entity = ? AND name = ?"
_INSERT: Final = "INSERT INTO record (entity, name, version, applied, document, rest) VALUES (?, ?, ?, ?, ?, ?)"
_UPDATE: Final = "UPDATE record SET version = ?, applied = ?, document = ?, rest = ? WHERE id = ?"
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
    """One record of the batch: the row that was found, and what has become of it."""

    __slots__ = ("change", "entity", "merged", "row")

    def __init__(self, entity: _Entity, change: Change, row: Any) -> None:
        self.entity = entity
        self.change = change
        self.row = row
        self.merged: Merged | None = None

    def take(self, change: Change) -> None:
        known = self.merged
        if known is None and self.row is not None:
            _, version, document, rest = self.row
            if change.version <= version:
                if rest is None:
                    return  # the row vouches for all that it has, by its version
                known = _restored(version, document, rest)
            elif not change.whole:
                known = _restored(version, document, rest)
        merged = merge(known, change)
        if merged is not known:
            self.merged = merged
            self.entity.see(change)

    def document(self) -> bytes | None:
        """What its file is to be."""
        merged = self.merged
        assert merged is not None
        if merged.after is None:
            return None
        return documents.encode(self.change.model, self.change.pk, merged.version, merged.fields, merged.stub)


def write(db: sqlite3.Connection, changes: Iterable[Change]) -> list[Written]:
    """Put in what the changes say that the state does not know; tell whose files change, each once."""
    entities: dict[str, _Entity] = {}
    records: dict[tuple[str, str], _Record] = {}
    for change in changes:
        key = change[:2]
        record = records.get(key)
        if record is None:
            entity = entities.get(change.directory)
            if entity is None:
                entity = entities[change.directory] = _entity(db, change.directory)
            row = db.execute(_FIND, (entity.id, change.filename)).fetchone()
            record = records[key] = _Record(entity, change, row)
        record.take(change)
    written = _store(db, [record for record in records.values() if record.merged is not None])
    # A batch of nothing but duplicates writes nothing, and so waits for no disk.
    counts = [(e.live, e.deleted, e.version, e.time, e.id) for e in entities.values() if e.changed]
    db.executemany(_COUNT, counts)
    return written


def _store(db: sqlite3.Connection, records: Iterable[_Record]) -> list[Written]:
    inserts: list[tuple[int, str, int, int, bytes | None, bytes | None]] = []
    updates: list[tuple[int, int, bytes | None, bytes | None, int]] = []
    written: list[Written] = []
    now = int(time.time())
    for record in records:
        (directory, filename, *_), row, entity, merged = record.change, record.row, record.entity, record.merged
        assert merged is not None
        document, rest, existed = record.document(), merged.rest, False
        if row is None:
            inserts.append((entity.id, filename, merged.version, now, document, rest))
        else:
            existed = row[2] is not None
            updates.append((merged.version, now, document, rest, row[0]))
            entity.live -= existed
            entity.deleted -= not existed
        entity.live += document is not None
        entity.deleted += document is None
        if row is None or (merged.version, document) != row[1:3]:
            written.append(Written(directory, filename, merged.version, document, existed))
    db.executemany(_INSERT, inserts)
    db.executemany(_UPDATE, updates)
    return written


def _restored(version: int, document: bytes | None, rest: bytes | None) -> Merged:
    if document is None:
        return Merged.restore(version, None)
    try:
        found = documents.decode(document)
    except ValueError as error:
        raise StateDamaged("a record of the state is no document; run the mirror with --rebuild") from error
    return Merged.restore(version, found.fields, found.stub, rest)


def _entity(db: sqlite3.Connection, directory: str) -> _Entity:
    row = db.execute(_ENTITY, (directory,)).fetchone()
    if row is None:
        db.execute("INSERT INTO entity (directory) VALUES (?)", (directory,))
        row = db.execute(_ENTITY, (directory,)).fetchone()
    return _Entity(*row)
