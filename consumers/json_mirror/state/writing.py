"""How a batch of changes goes into the state, within a transaction."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, final

import orjson

from consumers.base.merging import Merged, merge
from consumers.json_mirror.disk import documents
from consumers.json_mirror.errors import BeyondBounds, StateDamaged
from consumers.json_mirror.state.checksum import checksum
from consumers.json_mirror.state.stored import restored
from consumers.json_mirror.state.values import UNBOUNDED, Bounds, Change, Written

_FIND: Final = (
    "SELECT id, version, document, rest, name FROM record WHERE entity = ? AND name IN (SELECT value FROM json_each(?))"
)
_INSERT: Final = (
    "INSERT INTO record (entity, name, version, applied, document, rest, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE: Final = "UPDATE record SET version = ?, applied = ?, document = ?, rest = ?, checksum = ? WHERE id = ?"
_COUNT: Final = "UPDATE entity SET live = live + ?, deleted = deleted + ?, version = ?, time = ? WHERE id = ?"
_USED: Final = (
    "SELECT substr(directory, 1, instr(directory, '/')), count(*) FROM entity WHERE live + deleted > 0 GROUP BY 1"
)
TOO_LARGE: Final = "record grows beyond its bound"
TOO_MANY: Final = "more entities than allowed"
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

    __slots__ = ("_size", "entity", "merged", "row", "told")

    def __init__(self, entity: _Entity, row: Any) -> None:
        self.entity = entity
        self.row = row
        self.told: Change | None = None
        self.merged: Merged | None = None
        self._size = 0 if row is None else len(row[2] or b"") + len(row[3] or b"")

    def take(self, change: Change, bounds: Bounds) -> bool:
        """False where the record would grow beyond the bounds: then it is as it was."""
        known = self.merged
        if known is None:
            if self.told is not None:
                known = merge(None, self.told)
            elif self.row is not None:
                _, version, document, rest, _ = self.row
                if change.version <= version and rest is None:
                    return True  # its version vouches for all that the row has
                if change.version <= version or not change.whole:
                    known = restored(version, document, rest)
            if known is None and change.whole:
                self.told, self._size = change, change.size
                self.entity.see(change)
                return True
        merged = merge(known, change)
        if merged is not known:
            if not self._has_room(merged, change, bounds):
                return False
            self.merged = merged
            self.entity.see(change)
        return True

    def _has_room(self, merged: Merged, change: Change, bounds: Bounds) -> bool:
        """What is one event's alone has the bounds of a body. What many leave behind is measured where it might be
        too much.
        """
        if merged.base == merged.version:
            self._size = change.size
            return True
        if len(merged.vouched) > bounds.fields or len(merged.parts) > bounds.fields:
            return False
        size = self._size + change.size
        if size > bounds.record:
            size = len(orjson.dumps(merged.fields)) + len(merged.rest or b"")
        if size > bounds.record:
            return False
        self._size = size
        return True

    def result(self, change: Change) -> tuple[int, bytes | None, bytes | None] | None:
        """Version, document and rest of the row to be; None where nothing was new. `change` is any of the record's."""
        now = self.merged
        if now is None:
            told = self.told
            return None if told is None else (told.version, _document(told, told.version, told.after, told.stub), None)
        return now.version, _document(change, now.version, now.fields, now.stub), now.rest


def _document(change: Change, version: int, fields: Mapping[str, Any] | None, stub: Any) -> bytes | None:
    return None if fields is None else documents.encode(change.model, change.pk, version, fields, stub)


@final
class _Entities:
    """Those that a transaction touches; new ones as long as there is room."""

    def __init__(self, db: sqlite3.Connection, bounds: Bounds) -> None:
        self._db = db
        self._bounds = bounds
        self._found: dict[str, _Entity | None] = {}
        self._used: Counter[str] | None = None

    def __getitem__(self, directory: str) -> _Entity | None:
        if directory not in self._found:
            row = self._db.execute(_ENTITY, (directory,)).fetchone()
            if row is None and self._has_room(directory):
                self._db.execute("INSERT INTO entity (directory) VALUES (?)", (directory,))
                row = self._db.execute(_ENTITY, (directory,)).fetchone()
            self._found[directory] = None if row is None else _Entity(*row)
        return self._found[directory]

    def _has_room(self, directory: str) -> bool:
        if not self._bounds.entities:
            return True
        if self._used is None:
            self._used = Counter(dict(self._db.execute(_USED).fetchall()))
        service = directory.partition("/")[0] + "/"
        if self._used[service] >= self._bounds.entities or self._used.total() >= self._bounds.all_entities:
            return False
        self._used[service] += 1
        return True

    def count(self) -> None:
        """Note the figures of those that have changed."""
        changed = [each for each in self._found.values() if each is not None and each.changed]
        self._db.executemany(_COUNT, [(e.live, e.deleted, e.version, e.time, e.id) for e in changed])


def _rows(db: sqlite3.Connection, entities: _Entities, changes: Iterable[Change]) -> dict[tuple[str, str], Any]:
    """The rows of these changes' records, as far as there are any, by directory and file name."""
    names: dict[str, set[str]] = {}
    for change in changes:
        names.setdefault(change.directory, set()).add(change.filename)
    rows: dict[tuple[str, str], Any] = {}
    for directory, wanted in names.items():
        if (entity := entities[directory]) is not None:
            found = db.execute(_FIND, (entity.id, orjson.dumps(list(wanted)).decode())).fetchall()
            rows.update(((directory, row[4]), row) for row in found)
    if not {type(row[1]) for row in rows.values()} <= {int}:
        raise StateDamaged("a version in the state is no number; run the mirror with --rebuild")
    return rows


def write(db: sqlite3.Connection, changes: Iterable[Change], bounds: Bounds = UNBOUNDED) -> list[Written]:
    """Put in what the changes say that the state does not know; tell whose files change, each once.

    Raises BeyondBounds with all changes for which there is no room; then the transaction is to be rolled back.
    """
    entities = _Entities(db, bounds)
    refused: dict[int, str] = {}
    records: dict[tuple[str, str], tuple[_Record, Change]] = {}
    changes = list(changes)
    rows = _rows(db, entities, changes)
    for change in changes:
        key = change[:2]
        found = records.get(key)
        if found is None:
            entity = entities[key[0]]
            if entity is None:
                refused[id(change)] = TOO_MANY
                continue
            found = records[key] = _Record(entity, rows.get(key)), change
        if not found[0].take(change, bounds):
            refused[id(change)] = TOO_LARGE
    if refused:
        raise BeyondBounds(refused)
    written = _store(db, records.values())
    # A batch of nothing but duplicates writes nothing, and so waits for no disk.
    entities.count()
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
