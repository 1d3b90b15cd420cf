"""How sealed transactions go into the history, within one transaction of its file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from consumers.base.reading.moments import moment
from consumers.history.assembly.fact import Fact
from consumers.history.assembly.transaction import Sealed
from consumers.history.store import deltas, reading
from consumers.history.store.chain import again, versions
from consumers.history.store.content import Content, decode, encode, key_of, merged, strangers
from consumers.history.store.rows import CHANGES, Step, Version
from consumers.json_mirror.disk import documents

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_FIND: Final = "SELECT id AS number, version, deltas, document FROM record WHERE path = ?"
_RECORD: Final = "INSERT INTO record (id, path, version, deltas, key, document) VALUES (?, ?, ?, ?, ?, ?)"
_NEWEST: Final = "UPDATE record SET version = ?, deltas = ?, document = ? WHERE id = ?"
_TX: Final = "INSERT INTO tx VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHANGE: Final = "INSERT INTO change VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_AGAIN: Final = "UPDATE change SET changed = ?, body = ? WHERE position = ? AND record = ?"
_LOOK_BACK: Final = 64


class _Record:
    """A record as it stands while a step is being written; `version` 0 is none yet."""

    __slots__ = ("content", "deltas", "document", "id", "is_dirty", "is_new", "key", "path", "version")

    def __init__(self, id: int, path: str, found: tuple[int, int, bytes | None] | None, key: bytes | None) -> None:
        self.id = id
        self.path = path
        self.is_new = found is None
        self.is_dirty = False
        self.version, self.deltas, self.document = found or (0, 0, None)
        self.key = key
        self.content = decode(path, self.document)


class Writing:
    """Adds transactions behind `position`; `version` is the greatest so far. Call `finish` within the transaction."""

    def __init__(self, db: sqlite3.Connection, position: int, version: int, horizon: int = 0) -> None:
        self._db = db
        self.position = position
        self.version = version
        self._horizon = horizon
        self._records: dict[str, _Record] = {}
        self._next_record = (reading.query(db, "SELECT max(id) FROM record")[0][0] or 0) + 1
        self._names: dict[frozenset[str], int] = {}
        self._txs: list[tuple[Any, ...]] = []
        self._changes: list[tuple[Any, ...]] = []

    def add(self, sealed: Sealed) -> bool:
        """Put it at the end of the log. False where nothing in it is new: then it has no place there."""
        position, kept = self.position + 1, 0
        for fact in sealed.facts:
            if fact.version <= self._horizon and fact.op != "r":
                continue  # of a time that was forgotten: a letter that was dead for long
            record = self._record(fact)
            if fact.version > record.version:
                self._append(record, fact, position)
                kept += 1
            elif fact.version < record.version:
                kept += self._insert(record, fact, position)
        if not kept:
            return False
        self._txs.append(_row(sealed, position, late=sealed.version < self.version))
        self.position = position
        self.version = max(self.version, sealed.version)
        return True

    def finish(self) -> None:
        """Write what is held back."""
        self._flush()
        self._records.clear()

    def _flush(self) -> None:
        dirty = [each for each in self._records.values() if each.is_dirty]
        new = [each for each in dirty if each.is_new]
        known = [each for each in dirty if not each.is_new]
        self._db.executemany(_RECORD, [(r.id, r.path, r.version, r.deltas, r.key, r.document) for r in new])
        self._db.executemany(_NEWEST, [(r.version, r.deltas, r.document, r.id) for r in known])
        for each in dirty:
            each.is_new = each.is_dirty = False
        self._db.executemany(_TX, self._txs)
        self._db.executemany(_CHANGE, self._changes)
        self._txs.clear()
        self._changes.clear()

    def _record(self, fact: Fact) -> _Record:
        record = self._records.get(fact.record)
        if record is None:
            found = reading.one(self._db, _FIND, (fact.record,))
            if found is None:
                record = _Record(self._next_record, fact.record, None, key_of(fact.record, fact.model, fact.pk))
                self._next_record += 1
            else:
                record = _Record(found[0], fact.record, (found[1], found[2], found[3]), None)
            self._records[fact.record] = record
        return record

    def _append(self, record: _Record, fact: Fact, position: int) -> None:
        former, made = record.content, None
        aside: dict[str, Any] = {}
        if fact.op != "d":
            made = merged(former, fact.fields or {}, fact.stub, None if fact.whole else fact.changed)
            aside = strangers(made, fact.fields or {}) if former else {}
            record.document = documents.encode(fact.model, fact.pk, fact.version, made.fields, made.stub)
        else:
            record.document = None
        whole = record.deltas + 1 >= deltas.EVERY
        body, differing = deltas.undo(made, former, whole=whole)
        record.deltas = 0 if whole or made is None or former is None else record.deltas + 1
        changed = None if fact.op in "crd" or (differing == fact.changed and not whole) else self._name(fact.changed)
        row = position, record.id, fact.version, fact.op, int(fact.whole), changed, self._aside(record, aside), body
        self._changes.append(row)
        record.version, record.content, record.is_dirty = fact.version, made, True

    def _aside(self, record: _Record, aside: dict[str, Any]) -> bytes | None:
        if not aside:
            return None
        earlier = self._earlier(record)
        return orjson.dumps({name: [_kind(name, value, earlier), value] for name, value in aside.items()})

    def _earlier(self, record: _Record) -> list[Content]:
        self._flush()
        found = []
        for _, content in versions(record.content, self._steps(record)):
            if content is not None:
                found.append(content)
            if len(found) > _LOOK_BACK:
                break
        return found

    def _steps(self, record: _Record) -> list[Step]:
        return [Step(record.path, *row) for row in reading.rows(self._db, CHANGES, (record.id,))]

    def _insert(self, record: _Record, fact: Fact, position: int) -> bool:
        """Put in a version older than the newest, and make those after it again."""
        self._flush()
        newer: list[Version] = []
        older: Content | None = None
        for step, content in versions(record.content, self._steps(record)):
            if step.version == fact.version:
                return False
            if step.version < fact.version:
                older = content
                break
            newer.append(Version(step, content))
        made = None
        if fact.op != "d":
            made = merged(older, fact.fields or {}, fact.stub, None if fact.whole else fact.changed)
        body, _ = deltas.undo(made, older)
        changed = None if fact.op in "crd" else self._name(fact.changed)
        self._db.execute(_CHANGE, (position, record.id, fact.version, fact.op, int(fact.whole), changed, None, body))
        self._make_again(record, newer, made)
        return True

    def _make_again(self, record: _Record, newer: Iterable[Version], former: Content | None) -> None:
        for step, content in reversed(list(newer)):
            made = again(step, content, former)
            changed = step.changed
            whole = step.body is not None and step.is_whole
            body, _ = deltas.undo(made, former, whole=whole)
            number = None if changed is None else self._name(changed)
            self._db.execute(_AGAIN, (number, body, step.position, record.id))
            former = made
        record.content, record.is_dirty = former, True
        if former is not None and record.document is not None:
            (key,) = reading.known(self._db, "SELECT key FROM record WHERE id = ?", (record.id,), record.path)
            record.document = encode(record.path, key, record.version, former)

    def _name(self, names: frozenset[str]) -> int:
        number = self._names.get(names)
        if number is None:
            text = orjson.dumps(sorted(names)).decode()
            self._db.execute("INSERT OR IGNORE INTO names (names) VALUES (?)", (text,))
            find = "SELECT id AS number FROM names WHERE names = ?"
            number = int(reading.known(self._db, find, (text,), "a list of names")[0])
            self._names[names] = number
        return number


def id_of(transaction: str) -> str | bytes:
    """A transaction's id as the file keeps it: 16 bytes where it is a UUID."""
    if len(transaction) == 36:
        try:
            made = UUID(transaction)
        except ValueError:
            return transaction
        if str(made) == transaction:
            return made.bytes
    return transaction


def text_of(id: str | bytes) -> str:
    """The id as events have it."""
    return str(UUID(bytes=id)) if isinstance(id, bytes) else id


def microseconds(time: str) -> int:
    """An event's `time` as microseconds since 1970; 0 where it is none."""
    at = moment(time)
    return (at - _EPOCH) // timedelta(microseconds=1) if at else 0


def _row(sealed: Sealed, position: int, *, late: bool) -> tuple[Any, ...]:
    lead = sealed.lead
    notes = orjson.dumps(lead.notes, option=orjson.OPT_SORT_KEYS).decode() if lead.notes else None
    return (
        position,
        id_of(sealed.id),
        sealed.part,
        lead.model.partition(".")[0],
        lead.author,
        microseconds(lead.time),
        lead.trace,
        notes,
        sealed.size,
        sealed.seen,
        sealed.had,
        sealed.version,
        int(late),
    )


def _kind(name: str, value: Any, earlier: Iterable[Content]) -> str:
    return "stale" if any(name in each.fields and each.fields[name] == value for each in earlier) else "unseen"
