"""What all databases have in common where a row is written in the writer's transaction.

Versions. The id of the row is the version of its events. A row is written while its transaction holds the locks of the
records it changed, so for each record ids rise in commit order. They start near the clock in microseconds and are
lifted to it, never lowered, whenever they might lag behind versions given out before: see `Writer.insert`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from eventbus.events.envelope import Batch
from eventbus.outbox import versions
from eventbus.outbox.creation import FRESH_LAG
from eventbus.outbox.owner import Owner
from eventbus.outbox.reading.store import Store
from eventbus.outbox.versions import VersionClock

MAX_LAG: Final = 60_000_000
_RECHECK: Final = 60.0


class Writer(ABC):
    """Writes rows to one database."""

    store: Store | None

    def write(self, connection: Connection, batch: Batch, *, fresh: bool, committing: bool) -> None:
        """Write one row and give the batch its version, now or with the commit. `fresh`: over a new connection."""
        batch.version = self.insert(connection, b"\n".join(batch.bodies), fresh=fresh)

    @abstractmethod
    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        """Write one row and return its id."""


class NoWriter(Writer):
    """Direct mode and in-memory databases: nothing durable to write to."""

    store = None

    def __init__(self, clock: VersionClock) -> None:
        self._clock = clock

    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        return self._clock.next()


class TableWriter(Writer):
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
        lag = versions.now() - row_id
        if fresh and lag > FRESH_LAG and time.monotonic() - self._checked > _RECHECK:
            return True
        return row_id <= seen or lag > MAX_LAG

    def _note(self, row_id: int) -> None:
        self._seen = max(self._seen, row_id)


def _marks(paramstyle: str) -> list[str]:
    """Four placeholders."""
    if paramstyle == "qmark":
        return ["?"] * 4
    if paramstyle.startswith("numeric"):
        sign = "$" if paramstyle == "numeric_dollar" else ":"
        return [f"{sign}{number}" for number in range(1, 5)]
    return ["%s"] * 4
