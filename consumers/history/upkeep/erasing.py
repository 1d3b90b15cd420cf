"""A record, or an author's name, that is to be forgotten: in the history, in the journal, in git."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from consumers.history.journal.reader import decode
from consumers.history.store import layout
from consumers.json_mirror.state import Reader
from consumers.json_mirror.state.erasing import hashed


def floor_now() -> int:
    """A version that nothing of the past has: versions begin near the clock, in microseconds."""
    return int(time.time() * 10**6)


def erase_records(path: Path, records: Sequence[str], floor: int, by: str | None) -> int:
    """Take these records out of the history; tell the first position that knew one of them, 0 if none did.

    No byte of them stays in the file or beside it. A line stays: the hash of each path, the floor, when, and by whom.
    """
    connection = layout.connect(path)
    first: list[int] = []
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with layout.translated(path):
            with layout.transaction(connection):
                for record in records:
                    first += _take_out(connection, record)
                    line = hashed(record), floor, now, by
                    connection.execute("INSERT INTO erased VALUES (?, ?, ?, ?)", line)
                wanted = set(records)
                for number, body in connection.execute("SELECT id, body FROM waiting").fetchall():
                    fact = decode(body)
                    if fact is not None and fact.record in wanted:
                        connection.execute("DELETE FROM waiting WHERE id = ?", (number,))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    return min(first, default=0)


def _take_out(db: sqlite3.Connection, record: str) -> list[int]:
    found = db.execute("SELECT id FROM record WHERE path = ?", (record,)).fetchone()
    if found is None:
        return []
    first = db.execute("SELECT min(position) FROM change WHERE record = ?", found).fetchone()[0]
    db.execute("DELETE FROM change WHERE record = ?", found)
    db.execute("DELETE FROM record WHERE id = ?", found)
    return [first] if first is not None else []


def erase_author(path: Path, author: str) -> int:
    """Take a name out of all transactions; tell the first position that had it, 0 if none did."""
    connection = layout.connect(path)
    try:
        with layout.translated(path):
            with layout.transaction(connection):
                first = connection.execute("SELECT min(position) FROM tx WHERE author = ?", (author,)).fetchone()[0]
                connection.execute("UPDATE tx SET author = NULL WHERE author = ?", (author,))
                rows = connection.execute("SELECT id, body FROM waiting").fetchall()
                changed = [(body, number) for number, body in without_author(rows, author)]
                connection.executemany("UPDATE waiting SET body = ? WHERE id = ?", changed)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    return int(first or 0)


def events_of(state: Reader, records: Iterable[str]) -> Iterator[int]:
    """The rows of the journal that are of these records."""
    wanted = set(records)
    for number, body in _journal(state):
        fact = decode(body)
        if fact is not None and fact.record in wanted:
            yield number


def events_without(state: Reader, author: str) -> Iterator[tuple[int, bytes]]:
    """The rows of the journal that name this author, as they are without the name."""
    yield from without_author(_journal(state), author)


def without_author(rows: Iterable[tuple[int, bytes]], author: str) -> Iterator[tuple[int, bytes]]:
    """Those of the events that name this author, without the name."""
    for number, body in rows:
        fact = decode(body)
        if fact is not None and fact.author == author:
            event = orjson.loads(body)
            event["data"]["author"] = None
            yield number, orjson.dumps(event)


def _journal(state: Reader) -> Iterator[tuple[int, bytes]]:
    after = 0
    while rows := state.events(after, 1000):
        after = rows[-1].id
        for row in rows:
            yield row.id, row.body
