"""The publishing side of one database's outbox: read, delete, park, and the leases that say who may.

All on connections of its own. Whatever is done here may be done twice: a lost deletion or parking only means that
events are sent again, with the same ids and versions, so PostgreSQL need not wait for its disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Engine, Select, func, inspect, select

from eventbus.outbox.access import Access
from eventbus.outbox.owner import FOR_RELAY, Owner
from eventbus.outbox.queries import (
    MOST,
    PAGE_BYTES,
    PAGE_ROWS,
    among,
    delete_rows,
    do_not_wait_for_disk,
    fitting,
    payload_of,
    raise_floor,
    slices,
)
from eventbus.outbox.reading.leases import Leases
from eventbus.outbox.reading.parked_rows import ParkedRows
from eventbus.outbox.riders import Riders
from eventbus.outbox.side import begin_alone, begin_immediate, missing_file
from eventbus.outbox.tables import lease, outbox
from eventbus.redaction import redact


class Row(NamedTuple):
    """One row of the outbox. `payload`: unsealed events, one a line; `created_at`: microseconds since 1970."""

    id: int
    owner: str
    created_at: int
    payload: bytes


class Store:
    """The outbox of one database, for one thread. Raises SQLAlchemy's errors; each call is a transaction of its own.

    `parked`: its parked rows; `leases`: who lives, and who may do what; `riders`: rows that the next commit deletes.
    """

    def __init__(self, engine: Engine, owner: Owner | None = None) -> None:
        self._engine = engine
        self._owner = owner or Owner()
        self._access = Access(engine)
        self._exists = False
        self.parked = ParkedRows(self._access)
        self.leases = Leases(self._access, self._owner)
        self.riders = Riders()

    def __repr__(self) -> str:
        return f"<Store {redact(self._engine.url.render_as_string(hide_password=True))}>"

    def copy(self) -> Store:
        """The same for another thread, with connections of its own."""
        return Store(self._engine, self._owner)

    @property
    def engine(self) -> Engine:
        """The application's, or whoever's this was made for."""
        return self._engine

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

    def exists(self) -> bool:
        """Whether the tables are there; asked of the database until they are. Makes no file."""
        if not self._exists and missing_file(self._engine) is None:
            self._exists = self._access.run(lambda connection: inspect(connection).has_table(lease.name))
        return self._exists

    def read(
        self,
        *,
        after: int = 0,
        owner: str | None = None,
        for_relay: bool = False,
        rows: int = PAGE_ROWS,
        size: int = PAGE_BYTES,
    ) -> list[Row]:
        """The next rows by id: at most `rows`, and `size` bytes unless the first is larger.

        Of one owner, or only those that are for the relay, or all.
        """
        query = select(outbox.c.id, func.length(outbox.c.payload)).where(outbox.c.id > after)
        if owner is not None:
            query = query.where(outbox.c.owner == owner)
        if for_relay:
            query = query.where(outbox.c.owner.endswith(FOR_RELAY))
        query = query.order_by(outbox.c.id).limit(rows)
        return self._access.run(lambda connection: _read(connection, query, size))

    def ids(self, owner: str, *, rows: int = PAGE_ROWS) -> list[int]:
        """The lowest ids of an owner's rows."""
        query = select(outbox.c.id).where(outbox.c.owner == owner).order_by(outbox.c.id).limit(rows)
        return list(self._access.run(lambda connection: connection.scalars(query).all()))

    def backlog(self, owner: str) -> tuple[int, int]:
        """How many rows an owner has there, at most `MOST`, and when the oldest of these was made (microseconds)."""
        some = select(outbox.c.created_at).where(outbox.c.owner == owner).order_by(outbox.c.id).limit(MOST).subquery()
        query = select(func.count(), func.min(some.c.created_at)).select_from(some)
        count, oldest = self._access.run(lambda connection: connection.execute(query).one())
        return count, oldest or 0

    def delete(self, ids: Sequence[int], *, alone: bool = False) -> int:
        """Remove rows whose events are all with the broker. Returns how many there were.

        `alone`: on SQLite only if nobody else uses the file at this moment; else it fails with "database is locked".
        """

        def work(connection: Connection) -> int:
            (begin_alone if alone else begin_immediate)(connection)
            do_not_wait_for_disk(connection)
            if connection.dialect.name == "sqlite":
                raise_floor(connection, max(ids))
            return sum(delete_rows(connection, outbox, some) for some in slices(ids))

        return self._access.change(work) if ids else 0

    def owners(self, *, after: int = 0, rows: int = 5000) -> tuple[dict[str, int], int | None]:
        """The owners of the next rows by id with their lowest id among these, and where to go on (None: seen all)."""
        page = select(outbox.c.id, outbox.c.owner).where(outbox.c.id > after).order_by(outbox.c.id).limit(rows)
        some = page.subquery()
        statement = select(some.c.owner, func.min(some.c.id), func.max(some.c.id), func.count()).group_by(some.c.owner)
        found = self._access.run(lambda connection: connection.execute(statement).all())
        seen = sum(row[3] for row in found)
        return {row[0]: row[1] for row in found}, max(row[2] for row in found) if seen >= rows else None

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        self._access.close()

    def forget(self) -> tuple[object, ...]:
        """After a fork: drop what belongs to the parent process. The caller keeps the result, so nothing closes it."""
        return self._access.forget()


def _read(connection: Connection, sizes: Select[tuple[int, int]], size: int) -> list[Row]:
    payload = payload_of(connection, outbox)
    columns = select(outbox.c.id, outbox.c.owner, outbox.c.created_at, payload)
    while ids := fitting(connection.execute(sizes).all(), size):
        found = connection.execute(columns.where(among(connection, outbox, ids)).order_by(outbox.c.id)).all()
        if found:  # else all of these were deleted just now, and others may follow
            return [Row(row.id, row.owner, row.created_at, bytes(row.payload)) for row in found]
    return []
