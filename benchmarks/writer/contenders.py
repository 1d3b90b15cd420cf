"""Who takes part: bare SQLAlchemy, eventbus in its forms, and what others use to see changes.

A contender is the only one of its process. A peer that is not installed is left out, and one that cannot work on a
database does not run there.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Final

import kombu
from kombu.pools import producers
from sqlalchemy import Connection, Engine, Table, delete, event, func, select
from sqlalchemy.orm import DeclarativeBase, Session, configure_mappers

import eventbus
from benchmarks import places
from eventbus import transports
from eventbus.events.envelope import Batch
from eventbus.listeners.base import register
from eventbus.listeners.capture import Capture
from eventbus.listeners.committing.encoding import Encoder
from eventbus.listeners.committing.transaction import Transactions
from eventbus.listeners.statements.bulk import Bulk
from eventbus.listeners.targets import resolve
from eventbus.outbox import tables
from eventbus.records.entities import Entities
from eventbus.settings import Settings


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a contender stands: its database, its Sessions (of a sessionmaker or an async one), model, queue."""

    engine: Engine
    sessions: Any
    model: type[Any]
    base: type[DeclarativeBase]
    broker: str
    queue: str


class Contender:
    """Bare SQLAlchemy, which sees nothing."""

    name = "bare"
    package = ""
    databases: Sequence[str] = places.DATABASES
    publishes = False
    mixins: tuple[type[Any], ...] = ()
    attributes: dict[str, Any] = {}  # noqa: RUF012 - none changes it

    def before_mapping(self) -> None:
        """What has to happen before the model is defined."""

    def install(self, stand: Stand) -> None:
        """Everything a service would do at its start. The model's own table is there."""

    def confirm(self) -> None:
        """Return when all that was committed is where the contender brings it."""

    def captured(self, expected: int) -> int:
        """How many changes were seen since the last call."""
        return expected

    def close(self) -> None:
        """End what runs."""


class _InQueue(Contender):
    """Its changes are in the queue."""

    publishes = True

    def captured(self, expected: int) -> int:
        """Count what waits in the queue, which may tell a moment late, and throw it away."""
        deadline = time.monotonic() + 2
        with transports.connection(self.stand.broker) as connection, connection.channel() as channel:
            while (count := places.waiting(channel, self.stand.queue)) < expected and time.monotonic() < deadline:
                time.sleep(0.01)
            channel.queue_purge(self.stand.queue)
        return count

    def install(self, stand: Stand) -> None:
        self.stand = stand


class EventBus(_InQueue):
    """`eventbus.install(sessions)`; its thread publishes while the next commits run."""

    name = "eventbus"

    def settings(self, stand: Stand) -> Settings:
        return Settings(url=stand.broker, service="bench", exchange=stand.queue, queue=stand.queue)

    def install(self, stand: Stand) -> None:
        super().install(stand)
        self.bus = eventbus.install(stand.sessions, settings=self.settings(stand), auto_fields=False)

    def confirm(self) -> None:
        self.bus.flush(120)

    def close(self) -> None:
        self.bus.close()


class Batches(EventBus):
    """The same with `wire="batch"`: the events of a large transaction leave in messages of many."""

    name = "eventbus, batches"

    def settings(self, stand: Stand) -> Settings:
        return Settings(url=stand.broker, service="bench", exchange=stand.queue, queue=stand.queue, wire="batch")

    def captured(self, expected: int) -> int:
        """Take the messages that wait out of the queue, and count their events."""
        events = 0

        def count(message: Any) -> None:
            nonlocal events
            told = json.loads(message.body)
            events += len(told) if isinstance(told, list) else 1

        deadline = time.monotonic() + 2
        with transports.connection(self.stand.broker) as connection, connection.channel() as channel:
            channel.basic_consume(self.stand.queue, no_ack=True, callback=count)
            while events < expected and time.monotonic() < deadline:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)
        return events


class OutboxOnly(EventBus):
    """The same with a broker that cannot be reached: what a commit alone costs more."""

    name = "eventbus, broker away"
    publishes = False

    def settings(self, stand: Stand) -> Settings:
        return Settings(url=places.NOBODY, service="bench", exchange=stand.queue, queue=stand.queue)

    def confirm(self) -> None:
        """Nobody would."""

    def captured(self, expected: int) -> int:
        """Count the events in the outbox, and throw them away, so that it stays as large as it usually is."""
        with self.stand.engine.begin() as connection:
            payloads = connection.scalars(select(tables.outbox.c.payload)).all()
            connection.execute(delete(tables.outbox))
        return sum(bytes(payload).count(b'"specversion"') for payload in payloads)

    def close(self) -> None:
        self.bus.close(timeout=0)


class Relay(EventBus):
    """`delivery="relay"`: the service only writes the outbox; a relay, a process beside it, publishes."""

    name = "eventbus, relay"

    def settings(self, stand: Stand) -> Settings:
        known: dict[str, Any] = {"delivery": "relay"}
        return Settings(url=stand.broker, service="bench", exchange=stand.queue, queue=stand.queue, **known)

    def install(self, stand: Stand) -> None:
        tables.metadata.create_all(stand.engine)
        environment = {
            **os.environ,
            "DATABASE_URL": stand.engine.url.render_as_string(hide_password=False),
            "EVENTBUS_URL": stand.broker,
            "EVENTBUS_SERVICE": "bench",
            "EVENTBUS_EXCHANGE": stand.queue,
            "EVENTBUS_DELIVERY": "relay",
        }
        command = [sys.executable, "-m", "eventbus", "relay"]
        self.relay = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        super().install(stand)

    def close(self) -> None:
        super().close()
        self.relay.terminate()
        self.relay.wait(30)


class _Nowhere:
    """A sink that forgets, so that neither outbox nor publishing is measured."""

    def __init__(self) -> None:
        self.events = 0

    def write(self, connection: Connection, batch: Batch, *, committing: bool) -> Sequence[object]:
        self.events += len(batch.bodies)
        return ()

    def doubt(self, entries: Sequence[object]) -> None:
        pass

    def submit(self, entries: Sequence[object]) -> None:
        pass


class CaptureOnly(Contender):
    """The listeners alone: every event is made, and dropped where it would enter the outbox."""

    name = "eventbus, no outbox"

    def install(self, stand: Stand) -> None:
        self.sink = _Nowhere()
        capture = Capture(Entities("bench"))
        register(
            resolve(stand.sessions).session_class,
            auto_fields=None,
            capture=capture,
            bulk=Bulk(capture),
            transaction=Transactions(capture, Encoder("bench"), self.sink),
        )

    def captured(self, expected: int) -> int:
        seen, self.sink.events = self.sink.events, 0
        return seen


class PlainListener(_InQueue):
    """What people write first: a listener that publishes after the commit, one confirmed message a change.

    It loses events: at a crash between commit and publishing, and where a flush is rolled back to a savepoint.
    """

    name = "plain listener"

    def install(self, stand: Stand) -> None:
        super().install(stand)
        connection = kombu.Connection(stand.broker, transport_options={"confirm_publish": True})
        pool = producers[connection]
        pool.limit = 20
        exchange = kombu.Exchange(stand.queue, type="topic")
        columns = [column.key for column in stand.model.__table__.columns]

        def after_flush(session: Session, _context: object) -> None:
            changed = [*session.new, *session.dirty, *session.deleted]
            told = session.info.setdefault("changed", [])
            told.extend({key: getattr(row, key) for key in columns} for row in changed)

        def after_commit(session: Session) -> None:
            with pool.acquire(block=True) as producer:
                for row in session.info.pop("changed", []):
                    producer.publish(
                        json.dumps(row), exchange=exchange, routing_key="bench.contact.changed", delivery_mode=2,
                        timeout=10,
                    )  # fmt: skip

        target = resolve(stand.sessions).session_class
        event.listen(target, "after_flush", after_flush)
        event.listen(target, "after_commit", after_commit)


class _InTable(Contender):
    """Its changes are rows of a table in the writer's database; nothing is published."""

    table: Table

    def install(self, stand: Stand) -> None:
        self.engine, self._seen = stand.engine, 0

    def captured(self, expected: int) -> int:
        with self.engine.connect() as connection:
            count = int(connection.scalar(select(func.count()).select_from(self.table)) or 0)
        new, self._seen = count - self._seen, count
        return new


class Continuum(_InTable):
    """SQLAlchemy-Continuum: a version table for each model."""

    name = "SQLAlchemy-Continuum"
    package = "sqlalchemy_continuum"
    attributes = {"__versioned__": {}}  # noqa: RUF012

    def before_mapping(self) -> None:
        self.peer: Any = importlib.import_module(self.package)
        self.peer.make_versioned(user_cls=None)

    def install(self, stand: Stand) -> None:
        super().install(stand)
        configure_mappers()
        stand.base.metadata.create_all(stand.engine)
        self.table = self.peer.version_class(stand.model).__table__


class CrudCdc(_InTable):
    """crudcdc: one table of changes."""

    name = "crudcdc"
    package = "crudcdc"

    def install(self, stand: Stand) -> None:
        super().install(stand)
        peer: Any = importlib.import_module(self.package)
        peer.track(stand.base)
        peer.CDCBase.metadata.create_all(stand.engine)
        self.table = importlib.import_module("crudcdc.models").Change.__table__


class AuditTrail(_InTable):
    """sqlalchemy-audit-trail: a partitioned log of changes. For PostgreSQL only."""

    name = "audit-trail"
    package = "audit_trail"
    databases = ("postgresql",)

    def before_mapping(self) -> None:
        peer: Any = importlib.import_module(self.package)
        self.mixins = (peer.Audited,)

    def install(self, stand: Stand) -> None:
        super().install(stand)
        peer: Any = importlib.import_module(self.package)
        audit = peer.AuditTrail(stand.engine, events=[], on_error="raise")
        audit.install(stand.sessions)
        with stand.engine.begin() as connection:
            make: Any = importlib.import_module("audit_trail.migrations").create_audit_tables
            make(connection, audit.tables, audit.severities)
        audit.maintenance.ensure_partitions()
        self.table = audit.tables.activity


ALL: Final[tuple[type[Contender], ...]] = (
    Contender, CaptureOnly, OutboxOnly, Relay, EventBus, Batches, CrudCdc, AuditTrail, PlainListener, Continuum,
)  # fmt: skip
OURS: Final = (CaptureOnly, OutboxOnly, Relay, EventBus, Batches)


def taking_part(database: str) -> list[str]:
    """The names of those that can run here on such a database, bare first."""
    return [each.name for each in ALL if database in each.databases and _is_here(each)]


def _is_here(contender: type[Contender]) -> bool:
    if contender is Relay:
        return any(field.name == "delivery" for field in fields(Settings))
    return not contender.package or importlib.util.find_spec(contender.package) is not None


def named(name: str) -> Contender:
    """One of them."""
    return next(each for each in ALL if each.name == name)()
