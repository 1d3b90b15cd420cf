"""Our own way into the application's database, for one thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from eventbus.outbox.fork import undisturbed
from eventbus.outbox.side import BUSY_TIMEOUT, side_engine
from eventbus.outbox.turns import Occupied, turns_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

T = TypeVar("T")


@final
class Access:
    """A connection of our own, made when it is needed, under sync and async drivers alike."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._side: Engine | None = None
        self._async: AsyncEngine | None = None
        self._runner: asyncio.Runner | None = None

    def change(self, work: Callable[[Connection], T]) -> T:
        """The same for `work` that writes. On SQLite it waits for its turn, and may raise Occupied."""
        if self.engine.dialect.name != "sqlite":
            return self.run(work)
        turns = turns_of(self.engine)
        try:
            with turns.ours():
                return self.run(work)
        except OperationalError as error:
            if turns.are_busy and "locked" in str(error.orig):
                raise Occupied("the application has begun to write") from error
            raise

    def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` makes of a connection, in a transaction of its own. Raises SQLAlchemy's errors."""
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
            if begun and not isinstance(error, self.engine.dialect.loaded_dbapi.Error):
                raise
            # What a driver raises while a new connection is made or set up may pass through SQLAlchemy as it is.
            raise DBAPIError("a new connection", None, error, hide_parameters=True) from error

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

    def _connected(self, work: Callable[[Connection], T]) -> T:
        side = self._side
        if side is None:
            side = self._side = _tuned(side_engine(self.engine))
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


def _do_not_wait_for_lock(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    cursor.execute("PRAGMA journal_mode")
    (mode,) = cursor.fetchone()
    if mode == "wal":
        # Safe in WAL mode: a power cut may undo the last deletions, never harm the file.
        cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()
