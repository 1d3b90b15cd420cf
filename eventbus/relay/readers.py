"""How the relay learns that something was committed, and reads it.

Services do nothing for it. A `NOTIFY` in a writer's transaction would make all commits of a PostgreSQL database wait
for each other, and a thread that rings after the commit would cost them processor time (docs/benchmarks.md has the
figures). So the relay looks: at a database file's times, which takes no lock there, or with one small query.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, func, or_, select
from sqlalchemy.exc import DBAPIError

from eventbus.outbox import Row, Store
from eventbus.outbox.owner import FOR_RELAY
from eventbus.outbox.queries import PAGE_BYTES, PAGE_ROWS
from eventbus.outbox.side import connected, side_engine
from eventbus.outbox.tables import outbox

_SHORT: Final = 0.005
_LONG: Final = 0.015
"""Seconds between two looks: while rows come now and then, and when none came for `_CALM` seconds."""
_CALM: Final = 5.0
_DEAREST: Final = 4
"""A look may take a fifth of the time: where rows that are not the relay's stand in its way, it looks more seldom."""
_SELDOM: Final = 1.0
_TICK_NS: Final = 50_000_000
"""Nanoseconds within which two changes of a file may have the same time."""


class Reader(ABC):
    """For one thread."""

    def __init__(self) -> None:
        self._found_at = 0.0
        self._took = 0.0

    def read(self, after: int, *, sure: bool) -> list[Row]:
        """The next rows by id; none where nothing came since there were none, unless it is `sure`.

        Raises SQLAlchemy's errors.
        """
        began = time.monotonic()
        rows = self._read(after) if sure or self._rings(began) else []
        ended = time.monotonic()
        # A single slow look says that the machine is busy, no more.
        self._took = 0.9 * self._took + 0.1 * (ended - began)
        if rows:
            self._found_at = ended
        return rows

    @property
    def pause(self) -> float:
        """Seconds until it is worth to look again."""
        calm = time.monotonic() - self._found_at > _CALM
        return min(max(_LONG if calm else _SHORT, _DEAREST * self._took), _SELDOM)

    @abstractmethod
    def _read(self, after: int) -> list[Row]: ...

    def _rings(self, at: float) -> bool:
        """Whether something may have come. Here to read is to look."""
        return True

    def close(self) -> None:  # noqa: B027  # the store is its owner's
        """Let go of the database."""


class StoreReader(Reader):
    """By the store, with all that a transaction of its own takes."""

    def __init__(self, store: Store, *, everything: bool) -> None:
        super().__init__()
        self._store = store
        self._for_relay = not everything

    def _read(self, after: int) -> list[Row]:
        return self._store.read(after=after, for_relay=self._for_relay)


class FileReader(StoreReader):
    """An SQLite file: read when it or its write-ahead log was written to, and once a second anyway."""

    def __init__(self, store: Store, path: str, *, everything: bool) -> None:
        super().__init__(store, everything=everything)
        self._paths = (path, f"{path}-wal")
        self._seen: list[tuple[int, int]] = []
        self._anyway = 0.0

    def _rings(self, at: float) -> bool:
        before, self._seen = self._seen, [_written(path) for path in self._paths]
        newest = max(changed for changed, _ in self._seen)
        # One who commits twice within a tick of the file system's clock changes nothing the second time.
        if self._seen != before or abs(time.time_ns() - newest) < _TICK_NS or at >= self._anyway:
            self._anyway = at + _SELDOM
            return True
        return False


class ServerReader(Reader):
    """A database with a server: one statement over a connection that stays open, by the driver's own cursor.

    Nothing else is as cheap: a tenth of what the same takes in a transaction of SQLAlchemy's.
    """

    def __init__(self, engine: Engine, *, everything: bool) -> None:
        super().__init__()
        self._side = side_engine(engine, "AUTOCOMMIT")
        self._connection: Connection | None = None
        query = _page(everything=everything)
        self._query = str(query.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True}))

    def _read(self, after: int) -> list[Row]:
        if self._connection is None:
            self._connection = connected(self._side)
        try:
            cursor: Any = self._connection.connection.cursor()
            cursor.execute(self._query)
            rows = cursor.fetchall()
            cursor.close()
        except self._side.dialect.loaded_dbapi.Error as error:
            self.close()
            raise DBAPIError(self._query, None, error, hide_parameters=True) from error
        return [Row(row_id, owner, created_at, bytes(payload)) for row_id, owner, created_at, payload in rows]

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()
        self._side.dispose()


def reader_of(store: Store, *, everything: bool) -> Reader:
    """What reads that outbox: all rows, or those that are the relay's."""
    engine = store.engine
    if engine.dialect.name != "sqlite" and not engine.dialect.is_async:
        return ServerReader(engine, everything=everything)
    file = engine.url.database
    if engine.dialect.name == "sqlite" and file and not file.startswith("file:"):
        return FileReader(store, file, everything=everything)
    return StoreReader(store, everything=everything)


def _page(*, everything: bool) -> Select[Any]:
    """The first rows, as many as fit; always one."""
    rows = select(outbox).order_by(outbox.c.id).limit(PAGE_ROWS)
    if not everything:
        rows = rows.where(outbox.c.owner.endswith(FOR_RELAY))
    some = rows.subquery("some")
    size = func.length(some.c.payload)
    sized = select(some, size.label("size"), func.sum(size).over(order_by=some.c.id).label("total")).subquery("sized")
    return (
        select(sized.c.id, sized.c.owner, sized.c.created_at, sized.c.payload)
        .where(or_(sized.c.total <= PAGE_BYTES, sized.c.total == sized.c.size))
        .order_by(sized.c.id)
    )


def _written(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
