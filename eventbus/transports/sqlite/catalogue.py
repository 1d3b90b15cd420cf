"""Exchanges, queues and bindings, as they are declared and kept in the file."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from typing import Any, Final

import orjson
from amqp.exceptions import AccessRefused, AMQPNotImplementedError, NotFound, PreconditionFailed

from eventbus.transports.sqlite.file import BrokerFile
from eventbus.transports.sqlite.routing import DEFAULT_EXCHANGE, EXCHANGE_TYPES, QueueRules, Topology

Arguments = Mapping[str, Any] | None

_HONOURED: Final = frozenset({
    "x-queue-type",
    "x-single-active-consumer",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",  # dead-lettering is one transaction here: never less than at-least-once
    "x-overflow",  # what happens at a length limit, which is not offered
    "x-delivery-limit",
})  # fmt: skip

logger = logging.getLogger(__name__)


class Catalogue:
    """What is declared. The last topology that was read is remembered until its version changes."""

    def __init__(self, file: BrokerFile) -> None:
        self._file = file
        self._topology: Topology | None = None

    def topology(self, database: sqlite3.Connection) -> Topology:
        """As it is now, for this transaction."""
        version = database.execute("SELECT topology FROM broker").fetchone()[0]
        if self._topology is None or self._topology.version != version:
            self._topology = _load(database, version)
        return self._topology

    def queue(self, database: sqlite3.Connection, name: str) -> QueueRules:
        """The queue of this name. Raises NotFound."""
        queue = self.topology(database).queue(name)
        if queue is None:
            raise NotFound(f"no queue {name!r}")
        return queue

    def declare_exchange(self, name: str, kind: str, *, durable: bool, arguments: Arguments) -> None:
        """Make the exchange, or see that it is there as declared."""
        if kind not in EXCHANGE_TYPES:
            known = ", ".join(sorted(EXCHANGE_TYPES))
            raise AMQPNotImplementedError(f"exchange type {kind!r}: the embedded broker has {known}")
        if name == DEFAULT_EXCHANGE:
            raise AccessRefused("the default exchange cannot be declared")
        wanted = (kind, int(durable), _canonical(arguments))
        with self._file.write(durable=True) as database:
            found = database.execute("SELECT type, durable, arguments FROM exchange WHERE name = ?", (name,)).fetchone()
            if found is None:
                database.execute("INSERT INTO exchange VALUES (?, ?, ?, ?)", (name, *wanted))
                _renew(database)
            else:
                _require_same("exchange", name, ("type", "durable", "arguments"), found, wanted)

    def require_exchange(self, name: str) -> None:
        """Raise NotFound unless the exchange exists."""
        with self._file.read() as database:
            if not self.topology(database).has_exchange(name):
                raise no_exchange(name)

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """Remove the exchange and its bindings; nothing happens where there is none."""
        with self._file.write(durable=True) as database:
            if if_unused and database.execute("SELECT 1 FROM binding WHERE exchange = ?", (name,)).fetchone():
                raise PreconditionFailed(f"exchange {name!r} is in use")
            database.execute("DELETE FROM binding WHERE exchange = ?", (name,))
            database.execute("DELETE FROM exchange WHERE name = ?", (name,))
            _renew(database)

    def declare_queue(self, name: str, *, durable: bool, auto_delete: bool, arguments: Arguments) -> None:
        """Make the queue, or see that it is there as declared. Arguments without effect here are logged."""
        wanted = (int(durable), int(auto_delete), _canonical(arguments))
        columns = ("durable", "auto_delete", "arguments")
        with self._file.write(durable=True) as database:
            found = database.execute(
                "SELECT durable, auto_delete, arguments FROM queue WHERE name = ?", (name,)
            ).fetchone()
            if found is not None:
                _require_same("queue", name, columns, found, wanted)
                return
            database.execute(
                "INSERT INTO queue (name, durable, auto_delete, arguments) VALUES (?, ?, ?, ?)", (name, *wanted)
            )
            _renew(database)
        if ignored := sorted(set(arguments or ()) - _HONOURED):
            logger.warning(
                "queue arguments without effect on the embedded broker: queue %s, %s",
                name,
                ", ".join(map(str, ignored)),
                extra={"queue": name, "arguments": ignored},
            )

    def bind(self, queue: str, exchange: str, routing_key: str, arguments: Arguments) -> None:
        """Bind the queue to the exchange; a second time is the same binding."""
        if exchange == DEFAULT_EXCHANGE:
            raise AccessRefused("the default exchange takes no bindings: it routes by queue name")
        with self._file.write(durable=True) as database:
            if not self.topology(database).has_exchange(exchange):
                raise no_exchange(exchange)
            row = (exchange, routing_key, self.queue(database, queue).id, _canonical(arguments))
            if database.execute("INSERT OR IGNORE INTO binding VALUES (?, ?, ?, ?)", row).rowcount:
                _renew(database)

    def unbind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Undo `bind`; nothing happens where there is no such binding."""
        with self._file.write(durable=True) as database:
            found = self.topology(database).queue(queue)
            if found is not None:
                database.execute(
                    "DELETE FROM binding WHERE exchange = ? AND routing_key = ? AND queue = ?",
                    (exchange, routing_key, found.id),
                )
                _renew(database)

    def bindings(self) -> list[tuple[str, str, str]]:
        """Every binding: queue, exchange, routing key."""
        with self._file.read() as database:
            return database.execute(
                "SELECT queue.name, exchange, routing_key FROM binding JOIN queue ON queue.id = queue ORDER BY 1, 2, 3"
            ).fetchall()


def drop_queue(database: sqlite3.Connection, queue: int) -> None:
    """Remove a queue with its messages, bindings and consumers."""
    database.execute("DELETE FROM place WHERE queue = ?", (queue,))
    database.execute("DELETE FROM binding WHERE queue = ?", (queue,))
    database.execute("DELETE FROM consumer WHERE queue = ?", (queue,))
    database.execute("DELETE FROM queue WHERE id = ?", (queue,))
    _renew(database)


def no_exchange(name: str) -> NotFound:
    """The error of who names an exchange that nobody declared."""
    return NotFound(f"no exchange {name!r}")


def _renew(database: sqlite3.Connection) -> None:
    database.execute("UPDATE broker SET topology = topology + 1")


def _load(database: sqlite3.Connection, version: int) -> Topology:
    queues = {
        row[0]: QueueRules(row[0], row[1], bool(row[2]), orjson.loads(row[3]))
        for row in database.execute("SELECT id, name, auto_delete, arguments FROM queue")
    }
    bindings: dict[str, list[tuple[str, int]]] = {}
    for exchange, routing_key, queue in database.execute("SELECT exchange, routing_key, queue FROM binding"):
        bindings.setdefault(exchange, []).append((routing_key, queue))
    return Topology(version, dict(database.execute("SELECT name, type FROM exchange").fetchall()), queues, bindings)


def _canonical(arguments: Arguments) -> str:
    try:
        return orjson.dumps(dict(arguments or {}), option=orjson.OPT_SORT_KEYS).decode()
    except TypeError as error:
        raise PreconditionFailed(f"arguments that cannot be stored: {error}") from error


def _require_same(
    kind: str, name: str, columns: tuple[str, ...], found: tuple[Any, ...], wanted: tuple[Any, ...]
) -> None:
    if found != wanted:
        differing = [f"{c} is {f!r}, not {w!r}" for c, f, w in zip(columns, found, wanted, strict=True) if f != w]
        raise PreconditionFailed(f"inequivalent declaration of {kind} {name!r}: {'; '.join(differing)}")
