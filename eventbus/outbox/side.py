"""Connections of our own to the application's database: never from its pool, so a pool of one cannot deadlock."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.exc import DBAPIError

_SILENCE: Final = 15
"""Seconds."""
BUSY_TIMEOUT: Final = 200
"""Milliseconds that our connections wait for the lock of an SQLite file."""


def side_engine(engine: Engine, level: IsolationLevel = "READ COMMITTED") -> Engine:
    """An engine to the same database, with a pool of its own and none of the application's engine events.

    How a connection is made (creator, arguments, `connect` events such as PRAGMAs) is the application's. Parameters are
    kept out of logs and errors, as they hold events.
    """
    side = Engine(engine.pool.recreate(), engine.dialect, engine.url, hide_parameters=True)
    if engine.dialect.name in ("postgresql", "mysql", "mariadb"):
        event.listen(side.pool, "connect", _notice_silence)

        # The application may have chosen AUTOCOMMIT or SERIALIZABLE for itself. An option of the engine would be set
        # each time that a connection leaves the pool, which tells of one that is lost then with a traceback.
        @event.listens_for(side.pool, "connect")
        def isolate(connection: Any, record: object) -> None:
            engine.dialect.set_isolation_level(connection, level)

    return side


def _notice_silence(connection: Any, record: object) -> None:
    """Give up a server that went without a word (fail-over, firewall): TCP alone takes a quarter of an hour."""
    number = _socket_of(getattr(connection, "driver_connection", connection))
    if number is None:
        return
    with socket.socket(fileno=os.dup(number)) as sock:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = {"TCP_KEEPIDLE": _SILENCE, "TCP_KEEPINTVL": 5, "TCP_USER_TIMEOUT": _SILENCE * 1000}
        for name, value in options.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _socket_of(raw: Any) -> int | None:
    """The number of a driver's socket, if it shows one: pg8000's, PyMySQL's; psycopg's connection has it itself."""
    for found in (getattr(raw, "_usock", None), getattr(raw, "_sock", None), raw):
        try:
            return int(found.fileno())  # type: ignore[union-attr]
        except (AttributeError, OSError):  # no socket, or a file over it
            continue
    return None


def connected(side: Engine) -> Connection:
    """A connection. Raises SQLAlchemy's errors alone.

    What the driver raises in the application's listeners of all engines passes through SQLAlchemy as it is.
    """
    try:
        return side.connect()
    except side.dialect.loaded_dbapi.Error as error:
        raise DBAPIError("a new connection", None, error, hide_parameters=True) from error


@contextmanager
def side_connection(engine: Engine) -> Iterator[Connection]:
    """A short connection of its own, in a transaction that is committed at the end.

    Works under async drivers too, within the greenlet that runs the caller.
    """
    side = side_engine(engine)
    try:
        with connected(side) as connection, connection.begin():
            yield connection
    finally:
        side.dispose()


def begin_immediate(connection: Connection) -> None:
    """On SQLite take the write lock first: a transaction that reads before it writes may fail at once and for good."""
    if connection.dialect.name == "sqlite":
        raw: Any = connection.connection.driver_connection
        if not raw.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def begin_alone(connection: Connection) -> None:
    """On SQLite take the file as a whole, or fail at once where anybody uses it.

    Who has only asked to write would make others fail who have read already and come to write.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        try:
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")


def missing_file(engine: Engine) -> str | None:
    """The file of an SQLite database, if it is not there: to connect would make it."""
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    if not file or file == ":memory:" or file.startswith("file:") or os.path.exists(file):
        return None
    return file
