"""A record, or an author's name, that is to be forgotten: in the history, in the journal, in git."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from consumers.history.errors import HistoryUnavailable
from consumers.history.journal.reader import decode
from consumers.history.reading.history import History
from consumers.history.store import layout, reading
from consumers.history.store.archive import Archive, author_key
from consumers.json_mirror.disk import sqlite
from consumers.json_mirror.state import BASELINE, Reader
from consumers.json_mirror.state.erasing import hashed

_WAITING: Final = "SELECT id AS number, body FROM waiting"


def floor_now() -> int:
    """A version that nothing of the past has: versions begin near the clock, in microseconds."""
    return int(time.time() * 10**6)


def erase_records(path: Path, records: Sequence[str], floors: Mapping[str, int], by: str | None) -> int:
    """Take these records out of the history; tell the first position that knew one of them, 0 if none did.

    No byte of them stays in the file or beside it. A line stays: the hash of each path, the floor, when, and by whom.
    """
    with _writing(path) as db:
        first = [position for record in records for position in _take_out(db, record)]
        wanted = set(records)
        for number, body in reading.query(db, _WAITING):
            fact = decode(body)
            if fact is None or fact.record in wanted:
                db.execute("DELETE FROM waiting WHERE id = ?", (number,))
        _note(db, floors, by)
    return min(first, default=0)


def erase_again(path: Path, floors: Mapping[str, int]) -> int:
    """Take out what is erased by these floors and not by the lines of this history, which is an older backup then.

    Tells how many records it were.
    """
    with Archive(path) as archive:
        known = archive.floors()
    missing = {key: floor for key, floor in floors.items() if floor > known.get(key, -1)}
    if not missing:
        return 0
    with History(path) as history:
        rows = history.rows("SELECT path, version FROM record")
        records = [record for record, version in rows if version <= missing.get(hashed(record), -1)]
        authors = [name for (name,) in history.rows("SELECT DISTINCT author FROM tx WHERE author IS NOT NULL")]
    for author in authors:
        if author_key(author) in missing:
            erase_author(path, author, missing[author_key(author)], None)
    erase_records(path, records, missing, None)
    return len(records)


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction of which nothing is left beside the file."""
    connection = layout.connect(path)
    try:
        with layout.translated(path):
            with layout.transaction(connection):
                yield connection
            is_empty = sqlite.empty_log(connection)
        if not is_empty:
            raise HistoryUnavailable(
                f"somebody reads {path} for so long that what was erased may be beside it still: end who reads, "
                "and erase once more"
            )
    finally:
        connection.close()


def _note(db: sqlite3.Connection, floors: Mapping[str, int], by: str | None) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [(key, floor, now, by) for key, floor in floors.items()]
    db.executemany("INSERT INTO erased VALUES (?, ?, ?, ?)", lines)


def _take_out(db: sqlite3.Connection, record: str) -> list[int]:
    found = reading.one(db, "SELECT id AS number FROM record WHERE path = ?", (record,))
    if found is None:
        return []
    ((first,),) = reading.query(db, "SELECT min(position) FROM change WHERE record = ?", found)
    db.execute("DELETE FROM change WHERE record = ?", found)
    db.execute("DELETE FROM record WHERE id = ?", found)
    return [first] if first is not None else []


def erase_author(path: Path, author: str, floor: int, by: str | None) -> int:
    """Take a name out of all transactions; tell the first position that had it, 0 if none did."""
    with _writing(path) as db:
        ((first,),) = reading.query(db, "SELECT min(position) FROM tx WHERE author = ?", (author,))
        db.execute("UPDATE tx SET author = NULL WHERE author = ?", (author,))
        rows = reading.query(db, _WAITING)
        changed = [(body, number) for number, body in without_author(rows, author)]
        db.executemany("UPDATE waiting SET body = ? WHERE id = ?", changed)
        db.execute("DELETE FROM waiting WHERE body = x''")
        _note(db, {author_key(author): floor}, by)
    return int(first or 0)


def events_of(state: Reader, records: Iterable[str]) -> Iterator[int]:
    """The rows of the journal that are of these records, or spoilt: nobody takes these in, and they may hold theirs."""
    wanted = set(records)
    for number, body in _journal(state):
        fact = decode(body)
        if fact is None or fact.record in wanted:
            yield number


def events_without(state: Reader, author: str) -> Iterator[tuple[int, bytes]]:
    """The rows of the journal that name this author, as they are without the name."""
    yield from without_author(_journal(state), author)


def without_author(rows: Iterable[tuple[int, bytes]], author: str) -> Iterator[tuple[int, bytes]]:
    """Those of the events that name this author, without the name. Spoilt ones, which nobody takes in, become empty."""
    for number, body in rows:
        fact = decode(body)
        if fact is None:
            yield number, b""
        elif fact.author == author:
            event = orjson.loads(body)
            event["data"]["author"] = None
            yield number, orjson.dumps(event)


def _journal(state: Reader) -> Iterator[tuple[int, bytes]]:
    after = 0
    while rows := state.events(after, 1000):
        after = rows[-1].id
        for row in rows:
            if row.body not in (b"", BASELINE):
                yield row.id, row.body
