"""The writer's side: one INSERT in the writer's transaction, after the changed rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, SessionTransaction

from eventbus.errors import ConfigurationError
from eventbus.events.envelope import Batch
from eventbus.outbox.owner import Owner
from eventbus.outbox.reading.store import Store
from eventbus.outbox.turns import turns_of
from eventbus.outbox.versions import VersionClock
from eventbus.outbox.writing.maria import MariaWriter
from eventbus.outbox.writing.postgres import PostgresWriter
from eventbus.outbox.writing.sqlite import SqliteWriter, is_in_memory
from eventbus.outbox.writing.table_writer import NoWriter, TableWriter, Writer
from eventbus.process import forks

CHUNK_EVENTS: Final = 256
CHUNK_BYTES: Final = 1 << 20
_KINDS: Final[dict[str, type[TableWriter]]] = {
    "postgresql": PostgresWriter,
    "mysql": MariaWriter,
    "mariadb": MariaWriter,
    "sqlite": SqliteWriter,
}


class Entry(NamedTuple):
    """What `Outbox.write` wrote and the dispatcher takes over after the commit. No store: memory only."""

    batch: Batch
    store: Store | None


class Outbox:
    """Writes the events of a transaction into its database, once the changed rows are written.

    `durable=False` (direct mode) writes nothing and gives versions by the clock. An in-memory SQLite database dies with
    its process, and no other connection sees it: there too nothing is written, and events go over in memory only.
    `for_relay`: the rows are marked as the relay's. Raises ConfigurationError where no relay could read them.
    """

    def __init__(
        self,
        *,
        create: bool = True,
        durable: bool = True,
        for_relay: bool = False,
        chunk_events: int = CHUNK_EVENTS,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.create = create
        self.durable = durable
        self.for_relay = for_relay
        self._chunk_events = chunk_events
        self._chunk_bytes = chunk_bytes
        self._writers: dict[int, Writer] = {}
        self._clock = VersionClock()

    def write(self, connection: Connection, batch: Batch, *, committing: bool = False) -> list[Entry]:
        """Write the batch in the connection's transaction, in rows of bounded size; each has its version by the commit.

        To be called once the changed rows are written. `committing`: the transaction's COMMIT follows at once, so that
        a row may travel with it. Works under sync and async drivers. Raises OutboxMissing where the tables are missing
        and may not be made, and SQLAlchemy's errors as they are.
        """
        forks.notice()
        info = connection.connection.info
        writer: Writer | None = info.get(self)
        # First use of this DBAPI connection: the database behind it may have been restored or replaced.
        fresh = writer is None
        if writer is None:
            writer = info[self] = self._writer_of(connection)
        if len(batch.bodies) == 1:
            writer.write(connection, batch, fresh=fresh, committing=committing)
            return [Entry(batch, writer.store)]
        entries = []
        for chunk in self._chunks(batch):
            writer.write(connection, chunk, fresh=fresh, committing=committing)
            entries.append(Entry(chunk, writer.store))
        return entries

    def store(self, engine: Engine) -> Store | None:
        """The dispatcher's side of that engine's outbox, if it has one that was written to."""
        writer = self._writers.get(id(engine.dialect))
        return writer.store if writer is not None else None

    def _writer_of(self, connection: Connection) -> Writer:
        if not self.durable:
            return self._writers.setdefault(0, NoWriter(self._clock))
        key = id(connection.dialect)
        writer = self._writers.get(key)
        if writer is None:
            # An engine and its copies with other options share their dialect; the writer keeps it, so its id is unique.
            writer = self._writers.setdefault(key, self._make_writer(connection))
        return writer

    def _make_writer(self, connection: Connection) -> Writer:
        engine, name = connection.engine, connection.dialect.name
        if name == "sqlite" and is_in_memory(connection):
            if self.for_relay:
                raise ConfigurationError(
                    "No relay can read a database in memory: use a file, or delivery='thread' (EVENTBUS_DELIVERY)"
                )
            return NoWriter(self._clock)
        kind = _KINDS.get(name)
        if kind is None:
            raise ConfigurationError(
                f"No outbox for {name}: use SQLite, PostgreSQL or MariaDB, or install(..., outbox=False)"
            )
        # Another engine of the same database is another owner, or each would take the other's rows for forgotten ones.
        return kind(engine, Owner(for_relay=self.for_relay), create=self.create)

    def _chunks(self, batch: Batch) -> Iterator[Batch]:
        bodies = batch.bodies
        if len(bodies) <= self._chunk_events and sum(map(len, bodies)) <= self._chunk_bytes:
            yield batch
            return
        start = size = 0
        for position, body in enumerate(bodies):
            if position > start and (position - start >= self._chunk_events or size + len(body) > self._chunk_bytes):
                yield _cut(batch, start, position)
                start, size = position, 0
            size += len(body)
        yield _cut(batch, start, len(bodies))


def begun(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """A Session has begun a transaction (SQLAlchemy's `after_begin`): on SQLite we do not write meanwhile."""
    if connection.dialect.name == "sqlite":
        turns_of(connection.engine).begin(connection)


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    keys, bodies = batch.keys[start:stop], batch.bodies[start:stop]
    return Batch(0, batch.transaction, keys, bodies, batch.first_index + start)
