"""Records that are to be forgotten: their rows go, and a floor stays that does not name them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

_FIND = (
    "SELECT record.id, record.entity, document IS NOT NULL FROM record JOIN entity ON entity.id = record.entity "
    "WHERE directory = ? AND name = ?"
)


def hashed(path: str) -> str:
    """What stands for the record at this path."""
    return sha256(path.encode()).hexdigest()


def erase(db: sqlite3.Connection, paths: Sequence[str], floors: Mapping[str, int], events: Iterable[int]) -> int:
    """In a transaction: take the records out, leave floors, empty these rows of the journal."""
    gone = 0
    for path in paths:
        directory, _, name = path.rpartition("/")
        found = db.execute(_FIND, (directory, name)).fetchone()
        if found is not None:
            id, entity, live = found
            db.execute("DELETE FROM record WHERE id = ?", (id,))
            db.execute(
                "UPDATE entity SET live = live - ?, deleted = deleted - ? WHERE id = ?", (live, not live, entity)
            )
            gone += 1
    db.executemany(
        "INSERT INTO erased VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET floor = max(floor, excluded.floor)",
        floors.items(),
    )
    db.executemany("UPDATE journal SET body = x'' WHERE id = ?", [(id,) for id in events])
    _forget_pending(db, set(paths))
    return gone


def _forget_pending(db: sqlite3.Connection, paths: set[str]) -> None:
    for batch, text in db.execute("SELECT batch, paths FROM pending").fetchall():
        kept = [path for path in text.split("\n") if path not in paths]
        if kept:
            db.execute("UPDATE pending SET paths = ? WHERE batch = ?", ("\n".join(kept), batch))
        else:
            db.execute("DELETE FROM pending WHERE batch = ?", (batch,))
