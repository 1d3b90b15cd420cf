"""Forgetting versions that newer ones have replaced. What is kept stays readable: a delta leads back from the newer.

So it is read before anything goes. Where a disk has spoilt it, the versions below may lead to what is left.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from consumers.history.errors import HistoryDamaged
from consumers.history.store import chain, layout, reading
from consumers.history.store.content import decode
from consumers.history.store.notes import Notes
from consumers.history.store.rows import CHANGES, Step
from consumers.json_mirror.disk import sqlite

_NEWEST: Final = "SELECT version, op FROM change WHERE record = ? AND position <= ? ORDER BY version DESC LIMIT 1"
_BELOW: Final = "SELECT 1 FROM change WHERE record = ? AND version < ?"
_OTHER: Final = "SELECT 1 FROM change WHERE record = ? AND (version > ? OR position > ?)"
# The oldest that stays: the newest of that moment, or one that came to the log later, though it is of before.
_OLDEST: Final = (
    "SELECT path, changed, position, change.version, op, whole, NULL, aside, body FROM change "
    "LEFT JOIN record ON record.id = change.record WHERE record = ? AND (change.version >= ? OR position > ?) "
    "ORDER BY change.version LIMIT 1"
)
_SLICE: Final = 1_000
"""Records at a time, by number: a slice of rows would tear the chain of a record."""


class Pruned(NamedTuple):
    """What came of it: versions that are forgotten, records that are left as they are, and why.

    `is_gone` is False where a reader keeps what was forgotten alive beside the file.
    """

    versions: int = 0
    left: tuple[str, ...] = ()
    is_gone: bool = True


def prune(path: Path, before: int) -> Pruned:
    """Forget the versions that had been replaced before this moment (microseconds).

    A record's newest version of that moment stays, so that every later moment can be had back. Transactions of which
    nothing is left go as well. Of a record whose later versions cannot be read nothing goes.
    """
    connection = layout.connect(path)
    try:
        with layout.translated(path):
            last = _last_before(connection, before)
            return _prune(connection, last) if last else Pruned()
    finally:
        connection.close()


def _last_before(db: sqlite3.Connection, before: int) -> int:
    later = reading.query(db, "SELECT min(position) FROM tx WHERE time >= ?", (before,))[0][0]
    if later is None:
        later = reading.query(db, "SELECT coalesce(max(position), 0) + 1 FROM tx")[0][0]
    return int(later) - 1


def _prune(db: sqlite3.Connection, last: int) -> Pruned:
    ((records,),) = reading.query(db, "SELECT coalesce(max(id), 0) FROM record")
    gone, left = 0, []
    for first in range(0, records + 1, _SLICE):
        with layout.transaction(db):
            for record in range(first, first + _SLICE):
                try:
                    gone += _shorten(db, record, last)
                except HistoryDamaged as error:  # before anything of the record was changed
                    left.append(str(error))
    with layout.transaction(db):
        ((horizon,),) = reading.query(db, "SELECT coalesce(max(version), 0) FROM tx WHERE position <= ?", (last,))
        horizon = max(horizon, Notes.read(db).horizon)
        db.execute("UPDATE meta SET value = ? WHERE key = 'horizon'", (horizon,))
        db.execute(
            "DELETE FROM tx WHERE position <= ? AND NOT EXISTS "
            "(SELECT 1 FROM change WHERE change.position = tx.position)",
            (last,),
        )
    return Pruned(gone, tuple(left), sqlite.empty_log(db))


def _shorten(db: sqlite3.Connection, record: int, last: int) -> int:
    newest = reading.one(db, _NEWEST, (record, last))
    if newest is None:
        return 0
    version, op = newest
    if op == "d" and not reading.one(db, _OTHER, (record, version, last)):
        gone = db.execute("DELETE FROM change WHERE record = ?", (record,)).rowcount
        db.execute("DELETE FROM record WHERE id = ?", (record,))
        return int(gone)
    values = record, version, last
    path, changed, *oldest = reading.known(db, _OLDEST, values, f"version {version} of record number {record}")
    step = Step(path, *oldest)
    position, version, body = step.position, step.version, step.body
    if not reading.one(db, _BELOW, (record, version)):
        return 0
    _require_readable(db, path, record, step)
    gone = db.execute("DELETE FROM change WHERE record = ? AND version < ?", (record, version)).rowcount
    if body is not None:
        # What this one led back to is gone; which fields it changed stays known.
        names = step.changed if step.op == "u" and changed is None else None
        number = changed if names is None else _number(db, names)
        db.execute(
            "UPDATE change SET body = NULL, changed = ? WHERE position = ? AND record = ?", (number, position, record)
        )
    return int(gone)


def _require_readable(db: sqlite3.Connection, path: str, record: int, oldest: Step) -> None:
    """Raise HistoryDamaged where a version that is kept cannot be read."""
    values = (record,)
    (document,) = reading.known(db, "SELECT document FROM record WHERE id = ?", values, f"record number {record}")
    steps = (Step(path, *row) for row in reading.rows(db, CHANGES, values))
    _ = chain.at_version(chain.versions(decode(path, document), steps), oldest).step.changed


def _number(db: sqlite3.Connection, names: frozenset[str]) -> int:
    text = orjson.dumps(sorted(names)).decode()
    db.execute("INSERT OR IGNORE INTO names (names) VALUES (?)", (text,))
    return int(reading.known(db, "SELECT id AS number FROM names WHERE names = ?", (text,), "a list of names")[0])
