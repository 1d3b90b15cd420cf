"""Transactions that a database has undone by itself, while the Session goes on as if nothing had happened.

MariaDB does so at a deadlock, SQLite where its disk is full or a trigger says RAISE(ROLLBACK). PostgreSQL lets nothing
but the end of a transaction through once a statement has failed, and its COMMIT then rolls back without a word. A
program that catches the error and commits commits nothing of what it did before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection, Dialect, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

_FAILED: Final = "25P02"
_WHOLE: Final = (1206, 1213)
"""MySQL, which cannot be asked: errors that undo all and not the statement alone."""


class DatabaseRollbacks:
    """Calls `tell(connection)` once the transaction of a watched connection is gone."""

    def __init__(self, tell: Callable[[Connection], None]) -> None:
        self._tell = tell
        self._watched: WeakSet[Dialect] = WeakSet()

    def watch(self, connection: Connection) -> None:
        """Look at the errors of this connection's engine from now on."""
        dialect = connection.dialect
        if dialect not in self._watched and dialect.name in ("sqlite", "mysql", "mariadb"):
            self._watched.add(dialect)
            event.listen(dialect, "handle_error", self._see)

    def stop(self) -> None:
        """Look no more."""
        for dialect in list(self._watched):
            event.remove(dialect, "handle_error", self._see)
        self._watched.clear()

    def _see(self, context: ExceptionContext) -> None:
        connection = context.connection
        if connection is not None and not context.is_disconnect and is_undone(connection, context.original_exception):
            self._tell(connection)


@contextmanager
def unless_failed(forget: Callable[[], None]) -> Iterator[None]:
    """Write something in a transaction, or forget it where PostgreSQL says that a statement has failed before."""
    try:
        yield
    except DBAPIError as error:
        if not _has_failed(error):
            raise
        forget()


def _has_failed(error: DBAPIError) -> bool:
    cause: Any = error.orig
    if _FAILED in (getattr(cause, "sqlstate", None), getattr(cause, "pgcode", None)):
        return True
    told = cause.args[0] if cause is not None and cause.args else None
    return isinstance(told, dict) and told.get("C") == _FAILED  # pg8000


def is_undone(connection: Connection, error: BaseException | None) -> bool:
    """Whether the database has rolled back all when it raised this error."""
    if connection.closed or connection.invalidated or not connection.in_transaction():
        return False
    if connection.dialect.name == "sqlite":
        return not connection.connection.driver_connection.in_transaction  # type: ignore[union-attr]
    if not getattr(connection.dialect, "is_mariadb", False):
        return bool(error is not None and error.args and error.args[0] in _WHOLE)
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute("SELECT @@in_transaction")
        return not cursor.fetchone()[0]
    finally:
        cursor.close()
