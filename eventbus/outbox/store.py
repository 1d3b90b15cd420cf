"""The publishing side of one database's outbox: read, delete, park, and the leases that say who may.

All on connections of its own. Whatever is done here may be done twice: a lost deletion or parking only means that
events are sent again, with the same ids and versions, so PostgreSQL need not wait for its disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Engine,
    any_,
    bindparam,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from eventbus.outbox.fork import undisturbed
from eventbus.outbox.owner import Owner
from eventbus.outbox.side import begin_immediate, missing_file, side_engine
from eventbus.outbox.tables import lease, outbox, parked
from eventbus.redaction import redact

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

T = TypeVar("T")

PAGE_ROWS: Final = 1000
PAGE_BYTES: Final = 8 << 20
ABANDONED: Final = -1
"""The beat of a holder that ended in order: its rows may be taken at once."""

_DELETE_AT_ONCE: Final = 1000
_FLOOR: Final = "floor"
_CHANGING: Final = ("retry_at", "attempts", "reason", "payload")
"""What a try changes in a parked row."""


class Row(NamedTuple):
    """One row of the outbox. `payload`: unsealed events, one a line; `created_at`: microseconds since 1970."""

    id: int
    owner: str
    created_at: int
    payload: bytes


class ParkedRow(NamedTuple):
    """Events that were not taken by the broker. Times in microseconds since 1970."""

    id: int
    created_at: int
    parked_at: int
    retry_at: int
    attempts: int
    reason: str
    payload: bytes


class Lease(NamedTuple):
    """Who holds what, and its heart beat."""

    name: str
    holder: str
    beat: int


class Store:
    """The outbox of one database, for one thread. Raises SQLAlchemy's errors; each call is a transaction of its own."""

    def __init__(self, engine: Engine, owner: Owner | None = None) -> None:
        self._engine = engine
        self._owner = owner or Owner()
        self._side: Engine | None = None
        self._async: AsyncEngine | None = None
        self._runner: asyncio.Runner | None = None
        self._exists = False

    def __repr__(self) -> str:
        return f"<Store {redact(self._engine.url.render_as_string(hide_password=True))}>"

    def copy(self) -> Store:
        """The same for another thread, with connections of its own."""
        return Store(self._engine, self._owner)

    @property
    def owner(self) -> str:
        """The name under which this process writes rows there."""
        return self._owner.name

    @property
    def is_sqlite(self) -> bool:
        """Whether only one transaction at a time may write there."""
        return self._engine.dialect.name == "sqlite"

    @property
    def is_async(self) -> bool:
        """Whether the application's driver needs an event loop."""
        return self._engine.dialect.is_async

    @property
    def is_deserted(self) -> bool:
        """Whether the application has not one connection there: its engine is new, or disposed of."""
        counts = [getattr(self._engine.pool, name, None) for name in ("checkedin", "checkedout")]
        return None not in counts and not any(count() for count in counts if count is not None)

    # rows

    def exists(self) -> bool:
        """Whether the tables are there; asked of the database until they are. Makes no file."""
        if not self._exists and missing_file(self._engine) is None:
            self._exists = self._run(lambda connection: inspect(connection).has_table(lease.name))
        return self._exists

    def read(
        self, *, after: int = 0, owner: str | None = None, rows: int = PAGE_ROWS, size: int = PAGE_BYTES
    ) -> list[Row]:
        """The next rows by id, of one owner or of all: at most `rows`, and `size` bytes unless the first is larger."""
        return self._run(lambda connection: _read(connection, after, owner, rows, size))

    def ids(self, owner: str, *, rows: int = PAGE_ROWS) -> list[int]:
        """The lowest ids of an owner's rows."""
        query = select(outbox.c.id).where(outbox.c.owner == owner).order_by(outbox.c.id).limit(rows)
        return list(self._run(lambda connection: connection.scalars(query).all()))

    def delete(self, ids: Sequence[int]) -> int:
        """Remove rows whose events are all with the broker. Returns how many there were."""

        def work(connection: Connection) -> int:
            begin_immediate(connection)
            _do_not_wait_for_disk(connection)
            if connection.dialect.name == "sqlite":
                _raise_floor(connection, max(ids))
            return sum(_delete(connection, outbox, some) for some in _slices(ids))

        return self._run(work) if ids else 0

    def owners(self, *, after: int = 0, rows: int = 5000) -> tuple[dict[str, int], int | None]:
        """The owners of the next rows by id with their lowest id among these, and where to go on (None: seen all)."""
        page = select(outbox.c.id, outbox.c.owner).where(outbox.c.id > after).order_by(outbox.c.id).limit(rows)
        some = page.subquery()
        statement = select(some.c.owner, func.min(some.c.id), func.max(some.c.id), func.count()).group_by(some.c.owner)
        found = self._run(lambda connection: connection.execute(statement).all())
        seen = sum(row[3] for row in found)
        return {row[0]: row[1] for row in found}, max(row[2] for row in found) if seen >= rows else None

    # parked rows

    def park(self, rows: Sequence[ParkedRow]) -> None:
        """Move rows of the outbox out of the way."""

        def work(connection: Connection) -> None:
            begin_immediate(connection)
            _do_not_wait_for_disk(connection)
            ids = [row.id for row in rows]
            for some in _slices(ids):
                # In this order a crash between two autocommitted statements loses nothing.
                _delete(connection, parked, some)
            connection.execute(insert(parked), [row._asdict() for row in rows])
            if connection.dialect.name == "sqlite":
                _raise_floor(connection, max(ids))
            for some in _slices(ids):
                _delete(connection, outbox, some)

        if rows:
            self._run(work)

    def park_again(self, rows: Sequence[ParkedRow]) -> None:
        """Note what became of parked rows; not of those that a person purged meanwhile."""
        again = (
            update(parked)
            .where(parked.c.id == bindparam("row"))
            .values({name: bindparam(f"new_{name}") for name in _CHANGING})
            .execution_options(synchronize_session=False)
        )

        def work(connection: Connection) -> None:
            begin_immediate(connection)
            _do_not_wait_for_disk(connection)
            values = [{"row": row.id} | {f"new_{name}": getattr(row, name) for name in _CHANGING} for row in rows]
            connection.execute(again, values)

        if rows:
            self._run(work)

    def claim_parked(self, now: int, until: int, *, rows: int = 100, size: int = PAGE_BYTES) -> list[ParkedRow]:
        """Parked rows that are due, by id, none of which another process gets before `until`."""

        def work(connection: Connection) -> list[ParkedRow]:
            begin_immediate(connection)
            query = (
                select(parked.c.id, func.length(parked.c.payload))
                .where(parked.c.retry_at <= now)
                .order_by(parked.c.retry_at, parked.c.id)
                .limit(rows)
                .with_for_update(skip_locked=True)
            )
            ids = _fitting(connection.execute(query).all(), size)
            if not ids:
                return []
            found = connection.execute(select(parked).where(parked.c.id.in_(ids)).order_by(parked.c.id)).all()
            connection.execute(
                update(parked)
                .where(parked.c.id.in_(ids))
                .values(retry_at=until, attempts=parked.c.attempts + 1)
                .execution_options(synchronize_session=False)
            )
            return [ParkedRow(*row) for row in found]

        return self._run(work)

    def list_parked(self, *, after: int = 0, rows: int = PAGE_ROWS) -> list[ParkedRow]:
        """Parked rows by id."""
        query = select(parked).where(parked.c.id > after).order_by(parked.c.id).limit(rows)
        return [ParkedRow(*row) for row in self._run(lambda connection: connection.execute(query).all())]

    def parked_among(self, ids: Sequence[int]) -> int:
        """How many of these rows are parked."""
        among = select(func.count()).select_from(parked)

        def work(connection: Connection) -> int:
            return sum(connection.scalar(among.where(parked.c.id.in_(some))) or 0 for some in _slices(ids))

        return self._run(work) if ids else 0

    def count_parked(self) -> int:
        """How many rows are parked."""
        return self._run(lambda connection: connection.scalar(select(func.count()).select_from(parked))) or 0

    def delete_parked(self, ids: Sequence[int]) -> int:
        """Remove parked rows: delivered, or given up by a person. Returns how many there were."""

        def work(connection: Connection) -> int:
            _do_not_wait_for_disk(connection)
            return sum(_delete(connection, parked, some) for some in _slices(ids))

        return self._run(work) if ids else 0

    def wake_parked(self, ids: Sequence[int] | None = None) -> int:
        """Make parked rows due now, all or these; returns how many."""

        def work(connection: Connection) -> int:
            statement = update(parked).values(retry_at=0).where(parked.c.retry_at > 0)
            if ids is None:
                return connection.execute(statement).rowcount
            return sum(connection.execute(statement.where(parked.c.id.in_(some))).rowcount for some in _slices(ids))

        return self._run(work)

    # leases

    def leases(self, names: Iterable[str]) -> dict[str, Lease]:
        """The leases of these names that exist."""
        query = select(lease).where(lease.c.name.in_(list(names)))
        return {row.name: Lease(*row) for row in self._run(lambda connection: connection.execute(query).all())}

    def take(self, name: str, seen: Lease | None) -> bool:
        """Take a lease that is as it was seen, or does not exist. Of several who try, one succeeds."""

        def work(connection: Connection) -> bool:
            if seen is None:
                connection.execute(insert(lease).values(name=name, holder=self.owner, beat=1))
                return True
            statement = update(lease).where(
                lease.c.name == name, lease.c.holder == seen.holder, lease.c.beat == seen.beat
            )
            return connection.execute(statement.values(holder=self.owner, beat=max(seen.beat, 0) + 1)).rowcount == 1

        try:
            return self._run(work)
        except IntegrityError:
            return False

    def beat(self, name: str) -> bool:
        """Show that the holder lives; False if it is no longer the holder."""
        statement = update(lease).where(lease.c.name == name, lease.c.holder == self.owner)
        beaten = statement.values(beat=lease.c.beat + 1)
        return self._run(lambda connection: connection.execute(beaten).rowcount) == 1

    def release(self, name: str) -> None:
        """Give a lease back, if held; the next one takes it at once."""
        statement = delete(lease).where(lease.c.name == name, lease.c.holder == self.owner)
        self._run(lambda connection: connection.execute(statement))

    def abandon(self, name: str) -> None:
        """Leave rows to whoever comes first: this process ends."""

        def work(connection: Connection) -> None:
            mine = update(lease).where(lease.c.name == name, lease.c.holder == self.owner).values(beat=ABANDONED)
            if connection.execute(mine).rowcount == 0 and name == self.owner:
                connection.execute(insert(lease).values(name=name, holder=name, beat=ABANDONED))

        # Somebody may take it between the two statements: as good.
        with contextlib.suppress(IntegrityError):
            self._run(work)

    # connections

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        side, self._side = self._side, None
        runner, self._runner = self._runner, None
        if side is None:
            return
        if runner is not None and self._async is not None:
            try:
                runner.run(self._async.dispose())
            finally:
                self._async = None
                runner.close()
        else:
            side.dispose()

    def forget(self) -> tuple[object, ...]:
        """After a fork: drop what belongs to the parent process. The caller keeps the result, so nothing closes it."""
        inherited = (self._side, self._async, self._runner)
        self._side = self._async = self._runner = None
        return inherited

    def _run(self, work: Callable[[Connection], T]) -> T:
        begun = False

        def begin(connection: Connection) -> T:
            nonlocal begun
            begun = True
            return work(connection)

        try:
            return self._connected(begin)
        except SQLAlchemyError:
            raise
        except Exception as error:
            if begun and not isinstance(error, self._engine.dialect.loaded_dbapi.Error):
                raise
            # What a driver raises while a new connection is made or set up may pass through SQLAlchemy as it is.
            raise DBAPIError("a new connection", None, error, hide_parameters=True) from error

    def _connected(self, work: Callable[[Connection], T]) -> T:
        side = self._side
        if side is None:
            side = self._side = _tuned(side_engine(self._engine))
        if not side.dialect.is_async:
            guard = undisturbed() if side.dialect.name == "sqlite" else contextlib.nullcontext()
            with guard, side.connect() as connection, connection.begin():
                return work(connection)
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._async = _async_engine(side)
        assert self._async is not None
        return self._runner.run(_run_async(self._async, work))


def _async_engine(side: Engine) -> AsyncEngine:
    from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415 - needs greenlet, which only async applications have

    return AsyncEngine(side)


async def _run_async(engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
    connection: AsyncConnection
    async with engine.connect() as connection, connection.begin():
        return await connection.run_sync(work)


def _tuned(side: Engine) -> Engine:
    if side.dialect.name == "sqlite":
        event.listen(side.pool, "connect", _do_not_wait_for_lock)
    return side


def _do_not_wait_for_disk(connection: Connection) -> None:
    """In this transaction only: behind a pooler the next one on the server's end may be the application's."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")


def _do_not_wait_for_lock(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 500")
    cursor.execute("PRAGMA journal_mode")
    (mode,) = cursor.fetchone()
    if mode == "wal":
        # Safe in WAL mode: a power cut may undo the last deletions, never harm the file.
        cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _read(connection: Connection, after: int, owner: str | None, rows: int, size: int) -> list[Row]:
    query = select(outbox.c.id, func.length(outbox.c.payload)).where(outbox.c.id > after)
    if owner is not None:
        query = query.where(outbox.c.owner == owner)
    ids = _fitting(connection.execute(query.order_by(outbox.c.id).limit(rows)).all(), size)
    if not ids:
        return []
    columns = select(outbox.c.id, outbox.c.owner, outbox.c.created_at, outbox.c.payload)
    found = connection.execute(columns.where(_among(connection, outbox, ids)).order_by(outbox.c.id)).all()
    return [Row(row.id, row.owner, row.created_at, bytes(row.payload)) for row in found]


def _fitting(sizes: Sequence[Any], limit: int) -> list[int]:
    """Ids of the first rows that fit into so many bytes; always one."""
    ids: list[int] = []
    total = 0
    for row_id, size in sizes:
        total += size
        if ids and total > limit:
            break
        ids.append(row_id)
    return ids


def _delete(connection: Connection, table: Any, ids: Sequence[int]) -> int:
    return connection.execute(delete(table).where(_among(connection, table, ids))).rowcount


def _among(connection: Connection, table: Any, ids: Sequence[int]) -> Any:
    if connection.dialect.name == "postgresql":
        return table.c.id == any_(bindparam(None, list(ids), type_=ARRAY(BigInteger), unique=True))
    return table.c.id.in_(ids)


def _raise_floor(connection: Connection, row_id: int) -> None:
    """Note the highest id ever deleted: on SQLite new ids stay above it, though the table be empty."""
    new = sqlite_insert(lease).values(name=_FLOOR, holder="", beat=row_id)
    connection.execute(
        new.on_conflict_do_update(
            index_elements=[lease.c.name],
            set_={"beat": func.max(lease.c.beat, new.excluded.beat)},
        )
    )


def _slices(ids: Sequence[int]) -> Iterable[list[int]]:
    iterator = iter(ids)
    while some := list(islice(iterator, _DELETE_AT_ONCE)):
        yield some


def now() -> int:
    """The host's clock in microseconds since 1970."""
    return time.time_ns() // 1000


def brief(error: Exception) -> str:
    """The first line of what the driver says, fit for a log."""
    return redact(str(getattr(error, "orig", None) or error).partition("\n")[0])
