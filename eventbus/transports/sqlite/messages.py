"""Messages and their places in queues, row by row. Everything here happens inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

Item = tuple[str, bytes, Mapping[str, Any]]
"""Routing key, body, AMQP properties (headers under `application_headers`)."""

Place = tuple[int, int]
"""Where a message is: queue id, message id. Within a queue, message ids are the order."""


class Stored(NamedTuple):
    """A message as it is taken from its queue. `returns` is how often it was delivered before and came back."""

    message: int
    queue: int
    returns: int
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes

    @property
    def place(self) -> Place:
        """Where it is until it is settled."""
        return self.queue, self.message


def append(database: sqlite3.Connection, messages: Iterable[tuple[Sequence[int], str, Item]]) -> set[int]:
    """Put each message at the end of its queues: (queue ids, exchange, item). Returns the queues that got some."""
    number = last_number(database)
    rows: list[tuple[int, str, str, bytes, bytes]] = []
    places: list[Place] = []
    for queues, exchange, (routing_key, body, properties) in messages:
        packed = orjson.dumps(properties) if queues else b""
        for queue in queues:
            number += 1
            rows.append((number, exchange, routing_key, packed, body))
            places.append((queue, number))
    if rows:
        database.execute("UPDATE broker SET last_message = ?", (number,))
        database.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?)", rows)
        database.executemany("INSERT INTO place VALUES (?, ?, NULL, 0)", places)
    return {queue for queue, _ in places}


def last_number(database: sqlite3.Connection) -> int:
    """The number of the youngest message."""
    number: int = database.execute("SELECT last_message FROM broker").fetchone()[0]
    return number


def any_ready(database: sqlite3.Connection, queue: int) -> bool:
    """Whether a message is ready to be taken."""
    statement = "SELECT 1 FROM place WHERE queue = ? AND session IS NULL LIMIT 1"
    return database.execute(statement, (queue,)).fetchone() is not None


def count_ready(database: sqlite3.Connection, queue: int) -> int:
    """How many messages are ready to be taken."""
    statement = "SELECT count(*) FROM place WHERE queue = ? AND session IS NULL"
    count: int = database.execute(statement, (queue,)).fetchone()[0]
    return count


def take(database: sqlite3.Connection, queue: int, session: int, *, limit: int, max_bytes: int) -> list[Stored]:
    """The first ready messages, now held by the session; their bodies at most `max_bytes` unless it is only one."""
    taken = _first_ready(database, queue, limit, max_bytes)
    if taken:
        database.execute(
            "UPDATE place SET session = ? WHERE queue = ? AND session IS NULL AND message <= ?",
            (session, queue, taken[-1].message),
        )
    return taken


def _first_ready(database: sqlite3.Connection, queue: int, limit: int, max_bytes: int) -> list[Stored]:
    found: list[Stored] = []
    size = 0
    cursor = database.execute(
        "SELECT message, queue, returns, exchange, routing_key, properties, body"
        " FROM place JOIN message ON message.id = place.message"
        " WHERE queue = ? AND session IS NULL ORDER BY message LIMIT ?",
        (queue, limit),
    )
    for row in cursor:
        stored = Stored._make(row)
        size += len(stored.body)
        if found and size > max_bytes:
            break
        found.append(stored)
    cursor.close()
    return found


def remove(database: sqlite3.Connection, places: Iterable[Place], session: int) -> None:
    """Delete messages that the session holds."""
    for run in _runs(places):
        database.execute(
            "DELETE FROM place WHERE queue = ? AND message BETWEEN ? AND ? AND session = ?", (*run, session)
        )


def put_back(database: sqlite3.Connection, places: Iterable[Place], session: int) -> None:
    """Make messages that the session holds ready again, as if they had never been taken."""
    for run in _runs(places):
        database.execute(
            "UPDATE place SET session = NULL WHERE queue = ? AND message BETWEEN ? AND ? AND session = ?",
            (*run, session),
        )


def purge(database: sqlite3.Connection, queue: int, last: int, *, limit: int) -> int:
    """Delete the first ready messages whose number is at most `last`; returns how many."""
    return database.execute(
        "DELETE FROM place WHERE queue = ?1 AND session IS NULL AND message IN"
        " (SELECT message FROM place WHERE queue = ?1 AND session IS NULL AND message <= ?2 ORDER BY message LIMIT ?3)",
        (queue, last, limit),
    ).rowcount


def held_by(database: sqlite3.Connection, session: int, places: Iterable[Place]) -> list[Place]:
    """Those of the places that the session holds."""
    statement = "SELECT 1 FROM place WHERE queue = ? AND message = ? AND session = ?"
    return [place for place in places if database.execute(statement, (*place, session)).fetchone()]


def all_held_by(database: sqlite3.Connection, session: int) -> list[Place]:
    """All that the session holds."""
    return database.execute("SELECT queue, message FROM place WHERE session = ?", (session,)).fetchall()


def any_held_by_others(database: sqlite3.Connection, queue: int, session: int | None) -> bool:
    """Whether another session holds a message of the queue."""
    statement = "SELECT 1 FROM place INDEXED BY held WHERE session IS NOT NULL AND session <> ? AND queue = ? LIMIT 1"
    return database.execute(statement, (session, queue)).fetchone() is not None


def _runs(places: Iterable[Place]) -> list[tuple[int, int, int]]:
    """Neighbouring messages of a queue as (queue, first, last): a batch is mostly one run."""
    runs: list[tuple[int, int, int]] = []
    for queue, message in sorted(places):
        if runs and runs[-1][0] == queue and runs[-1][2] + 1 == message:
            runs[-1] = (queue, runs[-1][1], message)
        else:
            runs.append((queue, message, message))
    return runs
