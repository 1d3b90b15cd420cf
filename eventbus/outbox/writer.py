"""The writer's side: one INSERT in the writer's transaction, after the changed rows.

Versions. The id of the row is the version of its events. A row is written while its transaction holds the locks of the
records it changed, so for each record ids rise in commit order. They start near the clock in microseconds and are
lifted to it, never lowered, whenever they might lag behind versions given out before: see `_Writer.insert`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from eventbus.errors import ConfigurationError, OutboxMissing
from eventbus.events.envelope import Batch
from eventbus.outbox import pipelined
from eventbus.outbox.owner import Owner
from eventbus.outbox.side import side_connection
from eventbus.outbox.store import Store
from eventbus.outbox.tables import lease, metadata, outbox, parked

logger = logging.getLogger("eventbus.outbox")

CHUNK_EVENTS: Final = 256
CHUNK_BYTES: Final = 1 << 20

_FRESH_LAG: Final = 10_000
_MAX_LAG: Final = 60_000_000
_RECHECK: Final = 60.0
_LIFT_LOCK: Final = 0x6576_656E_7462  # any constant, the same in all processes
_CREATE_LOCK: Final = _LIFT_LOCK + 1
_PATIENCE: Final = 5  # seconds
_DUPLICATE_KEY: Final = 1062
_NO_SUCH_TABLE: Final = 1146
_TABLE_CHANGED: Final = 1412
_TABLES: Final = (outbox, parked, lease)
_BOTH_WAYS: Final = (
    "Let eventbus make its tables (create_outbox=True, the default, and a role that may CREATE), or make them with "
    "Alembic: add eventbus.outbox.metadata to target_metadata."
)


class Entry(NamedTuple):
    """What `Outbox.write` wrote and the dispatcher takes over after the commit. No store: memory only."""

    batch: Batch
    store: Store | None


class Outbox:
    """Writes the events of a transaction into its database, once the changed rows are written.

    `durable=False` (direct mode) writes nothing and gives versions by the clock. An in-memory SQLite database dies with
    its process, and no other connection sees it: there too nothing is written, and events go over in memory only.
    """

    def __init__(
        self,
        *,
        create: bool = True,
        durable: bool = True,
        chunk_events: int = CHUNK_EVENTS,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.create = create
        self.durable = durable
        self._chunk_events = chunk_events
        self._chunk_bytes = chunk_bytes
        self._writers: dict[int, _Writer] = {}
        self._clock = VersionClock()

    def write(self, connection: Connection, batch: Batch, *, committing: bool = False) -> list[Entry]:
        """Write the batch in the connection's transaction, in rows of bounded size; each has its version by the commit.

        To be called once the changed rows are written. `committing`: the transaction's COMMIT follows at once, so that
        a row may travel with it. Works under sync and async drivers. Raises OutboxMissing where the tables are missing
        and may not be made, and SQLAlchemy's errors as they are.
        """
        info = connection.connection.info
        writer: _Writer | None = info.get(self)
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

    def _writer_of(self, connection: Connection) -> _Writer:
        if not self.durable:
            return self._writers.setdefault(0, _NoWriter(self._clock))
        key = id(connection.dialect)
        writer = self._writers.get(key)
        if writer is None:
            # An engine and its copies with other options share their dialect; the writer keeps it, so its id is unique.
            writer = self._writers.setdefault(key, self._make_writer(connection))
        return writer

    def _make_writer(self, connection: Connection) -> _Writer:
        engine, name = connection.engine, connection.dialect.name
        if name == "sqlite" and _in_memory(connection):
            return _NoWriter(self._clock)
        kind = _WRITERS.get(name)
        if kind is None:
            raise ConfigurationError(
                f"No outbox for {name}: use SQLite, PostgreSQL or MariaDB, or install(..., outbox=False)"
            )
        # Another engine of the same database is another owner, or each would take the other's rows for forgotten ones.
        return kind(engine, Owner(), create=self.create)

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


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    keys, bodies = batch.keys[start:stop], batch.bodies[start:stop]
    return Batch(0, batch.transaction, keys, bodies, batch.first_index + start)


class VersionClock:
    """Rising integers near the clock in microseconds: the versions of events that have no outbox row."""

    _lock = threading.Lock()

    def __init__(self) -> None:
        self._last = 0

    @classmethod
    def forked(cls) -> None:
        """In a child: another thread may have held the lock at that moment."""
        cls._lock = threading.Lock()

    def next(self) -> int:
        """Greater than every one before, in this process."""
        with self._lock:
            self._last = version = max(self._last + 1, _now())
            return version


os.register_at_fork(after_in_child=VersionClock.forked)


class _Writer(ABC):
    """Writes rows to one database."""

    store: Store | None

    def write(self, connection: Connection, batch: Batch, *, fresh: bool, committing: bool) -> None:
        """Write one row and give the batch its version, now or with the commit. `fresh`: over a new connection."""
        batch.version = self.insert(connection, b"\n".join(batch.bodies), fresh=fresh)

    @abstractmethod
    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        """Write one row and return its id."""


class _NoWriter(_Writer):
    """Direct mode and in-memory databases: nothing durable to write to."""

    store = None

    def __init__(self, clock: VersionClock) -> None:
        self._clock = clock

    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        return self._clock.next()


class _TableWriter(_Writer):
    """Writes over the raw cursor: `exec_driver_sql` would cost twice as much, and log the events where `echo` is on."""

    store: Store

    def __init__(self, engine: Engine, owner: Owner, *, create: bool) -> None:
        dialect = engine.dialect
        self.engine = engine
        self.create = create
        self.owner = owner
        self.store = Store(engine, owner)
        self._dialect = dialect
        self._error: type[Exception] = dialect.loaded_dbapi.Error
        self._marks = _marks(dialect.paramstyle)
        self._seen = 0
        self._checked = -_RECHECK  # the clock may start near zero

    def _execute(self, connection: Connection, sql: str, parameters: tuple[Any, ...]) -> Any:
        """The cursor after that statement. Driver errors come out as SQLAlchemy's own, without the parameters."""
        raw = connection.connection
        cursor = raw.cursor()
        try:
            cursor.execute(sql, parameters)
        except self._error as error:
            dialect = self._dialect
            lost = dialect.is_disconnect(error, raw.dbapi_connection, cursor)  # type: ignore[arg-type]
            if lost:
                connection.invalidate(error)
            raise DBAPIError.instance(
                sql, None, error, self._error, hide_parameters=True, connection_invalidated=lost, dialect=dialect
            ) from error
        return cursor

    def _lags(self, row_id: int, seen: int, *, fresh: bool) -> bool:
        """Whether an id may be below a version given out before.

        `seen`: the highest id of this process before the row was written. On a fresh connection the database may be
        another one than before, or direct mode may have been used meanwhile: then the clock is the measure.
        """
        lag = _now() - row_id
        if fresh and lag > _FRESH_LAG and time.monotonic() - self._checked > _RECHECK:
            return True
        return row_id <= seen or lag > _MAX_LAG

    def _note(self, row_id: int) -> None:
        self._seen = max(self._seen, row_id)


class _PostgresWriter(_TableWriter):
    """Ids come from the identity's sequence; a lift is `setval` under an advisory lock.

    All on the writer's own connection, since it waits in a commit: a second one might not be to be had.
    """

    def __init__(self, engine: Engine, owner: Owner, *, create: bool) -> None:
        super().__init__(engine, owner, create=create)
        table, marks = outbox.name, self._marks
        self._insert = (
            f"INSERT INTO {table} (owner, created_at, payload) VALUES ({', '.join(marks[:3])}) "  # noqa: S608
            "RETURNING id, tableoid"
        )
        self._renumber = f"UPDATE {table} SET id = DEFAULT WHERE id = {marks[0]} RETURNING id"  # noqa: S608
        self._ready = False
        self._tables: set[int] = set()
        self._pipelined = pipelined.is_possible(engine)
        if self._pipelined:
            pipelined.install(engine.dialect)

    def write(self, connection: Connection, batch: Batch, *, fresh: bool, committing: bool) -> None:
        payload, seen, now = b"\n".join(batch.bodies), self._seen, _now()
        if self._pipelined:
            if committing and self._ready and not fresh:
                if now - seen > _MAX_LAG:
                    self._raise_ids(connection, seen)
                values = (self.owner.name.encode(), payload, b"%d" % seen, b"%d" % now)
                if pipelined.defer(connection, self, batch, values):
                    return
            pipelined.settle(connection)
        batch.version = self.insert(connection, payload, fresh=fresh)

    def written(self, row_id: int) -> None:
        """A row that went with the commit got this id."""
        self._seen = max(self._seen, row_id)

    def failed(self) -> None:
        """A row that went with the commit was not taken; look at the table before the next one."""
        self._ready = False

    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        if not self._ready:
            self._prepare(connection)
        seen = self._seen
        try:
            cursor = self._execute(connection, self._insert, (self.owner.name, _now(), payload))
        except DBAPIError as error:
            # A failed statement fails the transaction here, so the table cannot be made on the way.
            self._ready = False
            if _is_missing_table(error):
                raise OutboxMissing(
                    f"Table {outbox.name} is gone from the database, or not on this transaction's search_path. "
                    f"{_BOTH_WAYS}"
                ) from error
            raise
        row_id, table = cursor.fetchone()
        cursor.close()
        if table not in self._tables:
            self._look_at(connection, table)
        if self._lags(row_id, seen, fresh=fresh):
            row_id = self._lift(connection, row_id, seen)
        self._note(row_id)
        return int(row_id)

    def _prepare(self, connection: Connection) -> None:
        there = " AND ".join(f"to_regclass('{table.name}') IS NOT NULL" for table in _TABLES)
        if not self._fetch(connection, f"SELECT {there}"):
            _demand(self.create)
            # Not in the writer's transaction, whose rollback would take the tables away from those who wrote meanwhile.
            with side_connection(self.engine) as side:
                _create(side)
        self._ready = True

    def _look_at(self, connection: Connection, table: int) -> None:
        """A table not seen before: made anew, or one more, where rows wait in vain for those who publish them."""
        others = ", ".join(map(str, self._tables))
        if others and self._fetch(connection, f"SELECT count(*) FROM pg_class WHERE oid IN ({others})"):  # noqa: S608
            logger.error(
                "transactions of one engine write to several outbox tables, and what ended processes leave is looked "
                "for in one of them (%s): schema-qualify search_path so that all find the same",
                ", ".join(map(str, sorted({*self._tables, table}))),
                extra={"engine": repr(connection.engine), "tables": sorted({*self._tables, table})},
            )
        self._tables.add(table)

    def _lift(self, connection: Connection, row_id: int, seen: int) -> int:
        self._raise_ids(connection, seen)
        self._checked = time.monotonic()
        return int(self._fetch(connection, self._renumber, row_id))

    def _raise_ids(self, connection: Connection, seen: int) -> None:
        """Lift the sequence to the clock and above all that was seen, unless it is there."""
        self._execute(connection, _raising(seen), ()).close()

    def _fetch(self, connection: Connection, sql: str, *parameters: Any) -> Any:
        """The one value that a statement yields."""
        cursor = self._execute(connection, sql, parameters)
        (value,) = cursor.fetchone()
        cursor.close()
        return value


class _MariaWriter(_TableWriter):
    """Ids come from AUTO_INCREMENT, which an explicit id lifts for all who come after."""

    def __init__(self, engine: Engine, owner: Owner, *, create: bool) -> None:
        super().__init__(engine, owner, create=create)
        table, marks = outbox.name, self._marks
        self._insert = f"INSERT INTO {table} (owner, created_at, payload) VALUES ({', '.join(marks[:3])})"  # noqa: S608
        self._delete = f"DELETE FROM {table} WHERE id = {marks[0]}"  # noqa: S608
        self._explicit = f"INSERT INTO {table} (id, owner, created_at, payload) VALUES ({', '.join(marks)})"  # noqa: S608

    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        seen = self._seen
        cursor = self._insert_row(connection, payload)
        row_id = int(cursor.lastrowid)
        cursor.close()
        if self._lags(row_id, seen, fresh=fresh):
            row_id = self._lift(connection, row_id, seen, payload)
        self._note(row_id)
        return row_id

    def _insert_row(self, connection: Connection, payload: bytes) -> Any:
        parameters = (self.owner.name, _now(), payload)
        try:
            return self._execute(connection, self._insert, parameters)
        except DBAPIError as error:
            if not _is_missing_table(error):
                raise
            _demand(self.create, error)
            # DDL would commit the writer's transaction. Who finds a table missing that another is about to make waits.
            with side_connection(self.engine) as side:
                side.execute(text("SELECT GET_LOCK(:table, 60)"), {"table": outbox.name})
                _create(side)
            return self._execute(connection, self._insert, parameters)

    def _lift(self, connection: Connection, row_id: int, seen: int, payload: bytes) -> int:
        try:
            self._execute(connection, self._delete, (row_id,)).close()
        except DBAPIError as error:
            # "Table definition has changed": the table is younger than this transaction's view, so its ids began at
            # the clock, after this transaction did.
            if _code(error) == _TABLE_CHANGED and row_id > seen and _now() - row_id < _MAX_LAG:
                return row_id
            raise
        lifted = max(row_id, seen, _now())
        while True:
            lifted += 1
            try:
                self._execute(connection, self._explicit, (lifted, self.owner.name, _now(), payload)).close()
            except DBAPIError as error:
                if error.connection_invalidated or _code(error) != _DUPLICATE_KEY:
                    raise
            else:
                self._checked = time.monotonic()
                return lifted


class _SqliteWriter(_TableWriter):
    """Only one transaction writes at a time, so each row names its id: above the clock, all rows, and all deleted ones.

    AUTOINCREMENT would promise the same for one more page in every commit. Here who deletes rows notes the highest, in
    the same transaction (`Store.delete`), many at a time.
    """

    def __init__(self, engine: Engine, owner: Owner, *, create: bool) -> None:
        super().__init__(engine, owner, create=create)
        self._insert = (
            f"INSERT INTO {outbox.name} (id, owner, created_at, payload) VALUES (max(?, "  # noqa: S608
            f"coalesce((SELECT max(id) FROM {outbox.name}), 0) + 1, "
            f"coalesce((SELECT beat FROM {lease.name} WHERE name = 'floor'), 0) + 1), ?, ?, ?)"
        )

    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        now, seen = _now(), self._seen
        parameters = (now if now > seen else seen + 1, self.owner.name, now, payload)
        try:
            cursor = self._execute(connection, self._insert, parameters)
        except DBAPIError as error:
            if not _is_missing_table(error):
                raise
            _demand(self.create, error)
            # In the writer's own transaction, which holds the file's lock; rolled back, it is made the next time.
            _create(connection)
            cursor = self._execute(connection, self._insert, parameters)
        row_id: int = cursor.lastrowid
        cursor.close()
        self._note(row_id)
        return row_id


_WRITERS: Final[dict[str, type[_TableWriter]]] = {
    "postgresql": _PostgresWriter,
    "mysql": _MariaWriter,
    "mariadb": _MariaWriter,
    "sqlite": _SqliteWriter,
}


def _in_memory(connection: Connection) -> bool:
    rows = connection.exec_driver_sql("PRAGMA database_list").all()
    return not any(row[1] == "main" and row[2] for row in rows)


def _demand(create: bool, cause: Exception | None = None) -> None:
    if not create:
        raise OutboxMissing(
            f"The database has no table {outbox.name}, and create_outbox=False. {_BOTH_WAYS}"
        ) from cause


def _create(connection: Connection) -> None:
    """Make the tables that are missing; ids start at the clock."""
    try:
        if connection.dialect.name == "sqlite":
            for table in _TABLES:
                _create_in_transaction(connection, table)
            return
        if connection.dialect.name == "postgresql":
            # Somebody waits in a commit. It may be his own transaction, or a migration, that makes these tables.
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE}s'")
            # Two processes may be here at once; CREATE TABLE IF NOT EXISTS alone would fail for one of them.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATE_LOCK})")
            metadata.create_all(connection)
            connection.exec_driver_sql(_raising(0))
        else:
            metadata.create_all(connection)
            # Only ever raised: where the table is not new, this does nothing.
            connection.exec_driver_sql(f"ALTER TABLE {outbox.name} AUTO_INCREMENT = {_now()}")
    except SQLAlchemyError as error:
        raise OutboxMissing(f"Table {outbox.name} could not be made: {error}. {_BOTH_WAYS}") from error


def _raising(seen: int) -> str:
    """PostgreSQL: lift the sequence above `seen` and to the clock, if it is not there; never lower it.

    What is read is set under a lock, and with a lead that those who draw from the sequence meanwhile cannot make up.
    The lock ends with the block, which is rolled back; `setval` stays. One statement, so that it takes one round trip
    and no savepoint of the client's, after whose rollback psycopg would deallocate its prepared statements.
    """
    floor = max(seen + 1, _now())
    return f"""DO $raise$
DECLARE
    ids regclass := pg_get_serial_sequence('{outbox.name}', 'id');
    latest bigint;
BEGIN
    PERFORM pg_advisory_xact_lock({_LIFT_LOCK});
    EXECUTE 'SELECT last_value FROM ' || ids INTO latest;
    IF latest <= {seen} OR latest < {floor - _FRESH_LAG} THEN
        PERFORM setval(ids, greatest({floor}, latest + {_FRESH_LAG}));
    END IF;
    RAISE SQLSTATE 'EVBUS';
EXCEPTION WHEN SQLSTATE 'EVBUS' THEN
    NULL;
END $raise$"""  # noqa: S608


def _create_in_transaction(connection: Connection, table: Any) -> None:
    connection.execute(CreateTable(table, if_not_exists=True))
    for index in table.indexes:
        index.create(connection, checkfirst=True)


def _is_missing_table(error: DBAPIError) -> bool:
    cause = error.orig
    if getattr(cause, "sqlstate", None) == "42P01" or getattr(cause, "pgcode", None) == "42P01":
        return True
    return _code(error) == _NO_SUCH_TABLE or "no such table" in str(cause)


def _code(error: DBAPIError) -> Any:
    """MariaDB's error number."""
    return error.orig.args[0] if error.orig is not None and error.orig.args else None


def _marks(paramstyle: str) -> list[str]:
    """Four placeholders."""
    if paramstyle == "qmark":
        return ["?"] * 4
    if paramstyle.startswith("numeric"):
        sign = "$" if paramstyle == "numeric_dollar" else ":"
        return [f"{sign}{number}" for number in range(1, 5)]
    return ["%s"] * 4


def _now() -> int:
    return time.time_ns() // 1000
