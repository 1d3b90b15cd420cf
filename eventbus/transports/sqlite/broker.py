"""What the embedded broker does, verb by verb: each method is one transaction on the broker's file.

The rules are those of RabbitMQ's quorum queues as far as they are offered; where ours are stricter it is said. Errors
are those of py-amqp for the same mistake (NotFound 404, PreconditionFailed 406, ...), so that code for a RabbitMQ
connection handles both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from amqp.exceptions import NotFound, PreconditionFailed

from eventbus.transports.sqlite import messages
from eventbus.transports.sqlite.catalogue import Catalogue, drop_queue, no_exchange
from eventbus.transports.sqlite.dead_letters import REJECTED, bury, give_back
from eventbus.transports.sqlite.file import BrokerFile
from eventbus.transports.sqlite.messages import Item, Place, Stored
from eventbus.transports.sqlite.sessions import Sessions

PURGE_STEP: Final = 10_000
"""Messages removed in one transaction; takes some 100 ms."""


class Counts(NamedTuple):
    """Of one queue: messages ready to be taken (held ones are not counted), and consumers."""

    ready: int
    consumers: int


class Broker:
    """The broker as one connection sees it. Not for two threads at once."""

    def __init__(self, path: Path) -> None:
        self.file = BrokerFile(path)
        self.catalogue = Catalogue(self.file)
        self.sessions = Sessions(self.file, self.catalogue)

    def publish(self, exchange: str, items: Sequence[Item]) -> list[bool]:
        """Store each message for every queue that its routing key reaches; True where there is at least one.

        All or nothing, in this order, synced to disk on return. Raises NotFound for an unknown exchange.
        """
        with self.file.write(durable=True) as database:
            topology = self.catalogue.topology(database)
            if not topology.has_exchange(exchange):
                raise no_exchange(exchange)
            routes = [topology.route(exchange, routing_key) for routing_key, _, _ in items]
            reached = messages.append(database, zip(routes, [exchange] * len(items), items, strict=True))
            bells = self.sessions.bells(database, reached)
        self.sessions.ring(bells)
        return [bool(route) for route in routes]

    def take(self, queue: int, consumer: int, *, limit: int, max_bytes: int) -> list[Stored]:
        """Up to `limit` ready messages in the order of the queue, now held by this session.

        No more than `max_bytes` of bodies together, except for a single larger one. Nothing while it is not the
        consumer's turn. Raises NotFound for a deleted queue.
        """
        with self.file.read() as database:  # the usual answer is no, and costs no lock
            if not self._worth_taking(database, queue, consumer):
                return []
        with self.file.write(durable=False) as database:
            self.sessions.require_own(database)
            if not self._worth_taking(database, queue, consumer):
                return []
            return messages.take(database, queue, self.sessions.own(), limit=limit, max_bytes=max_bytes)

    def get(self, queue: str, *, max_bytes: int) -> tuple[Stored | None, int]:
        """The first ready message, now held by this session, and how many more are ready."""
        self.sessions.recover()
        session = self.sessions.own()
        with self.file.write(durable=False) as database:
            number = self.catalogue.queue(database, queue).id
            taken = messages.take(database, number, session, limit=1, max_bytes=max_bytes)
            return (taken[0] if taken else None), messages.count_ready(database, number)

    def settle(
        self,
        done: Collection[Place],
        *,
        returned: Collection[Place] = (),
        unseen: Collection[Place] = (),
        rejected: Collection[Place] = (),
    ) -> None:
        """Decide about messages that this session holds; others are left alone.

        `done` leave the broker. `returned` go back to their places with one more return, or to the dead letters when
        that exceeds the queue's limit. `unseen` go back as if never taken. `rejected` go to the dead letters.
        """
        session = self.sessions.own()
        with self.file.write(durable=False) as database:
            topology = self.catalogue.topology(database)
            messages.remove(database, done, session)
            messages.put_back(database, unseen, session)
            news = {queue for queue, _ in unseen}
            news |= give_back(database, topology, messages.held_by(database, session, returned))
            news |= bury(database, topology, messages.held_by(database, session, rejected), REJECTED)
            bells = self.sessions.bells(database, news)
        self.sessions.ring(bells)

    def counts(self, queue: str) -> Counts:
        """How many messages are ready, those of dead consumers among them, and how many consumers there are."""
        self.sessions.recover()
        with self.file.read() as database:
            number = self.catalogue.queue(database, queue).id
            consumers = database.execute("SELECT count(*) FROM consumer WHERE queue = ?", (number,)).fetchone()[0]
            return Counts(messages.count_ready(database, number), consumers)

    def purge(self, queue: str) -> int:
        """Remove all messages that are ready now; returns how many. Not one transaction: others get their turn."""
        self.sessions.recover()
        with self.file.read() as database:
            number = self.catalogue.queue(database, queue).id
            last = messages.last_number(database)
        purged = 0
        while True:
            with self.file.write(durable=True) as database:
                step = messages.purge(database, number, last, limit=PURGE_STEP)
            if not step:
                return purged
            purged += step

    def delete_queue(self, name: str, *, if_unused: bool, if_empty: bool) -> int:
        """Remove the queue with its bindings and messages; returns how many were ready. Nothing where there is none.

        Its consumers are told that they are cancelled.
        """
        self.sessions.recover()
        with self.file.write(durable=True) as database:
            queue = self.catalogue.topology(database).queue(name)
            if queue is None:
                return 0
            if if_unused and database.execute("SELECT 1 FROM consumer WHERE queue = ?", (queue.id,)).fetchone():
                raise PreconditionFailed(f"queue {name!r} is in use")
            ready = messages.count_ready(database, queue.id)
            if if_empty and ready:
                raise PreconditionFailed(f"queue {name!r} is not empty")
            bells = self.sessions.bells(database, [queue.id])
            drop_queue(database, queue.id)
        self.sessions.ring(bells)
        return ready

    def _worth_taking(self, database: sqlite3.Connection, queue: int, consumer: int) -> bool:
        if queue not in self.catalogue.topology(database).queues:
            raise NotFound(f"the queue of consumer {consumer} was deleted")
        return messages.any_ready(database, queue) and self.sessions.may_take(database, queue, consumer)

    def close(self) -> None:
        """End the session and close the file. What the session held is ready again."""
        try:
            self.sessions.close()
        finally:
            self.file.close()
