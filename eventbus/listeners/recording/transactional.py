"""Connections on which a rollback would undo nothing: refused, since what they commit and what not cannot be told.

They are told when a Session takes them, and refused before the first row is written: reading on them is no harm.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from eventbus.errors import CaptureError, CaptureWarning

AUTOCOMMIT: Final = "eventbus.autocommit"
"""Key in the `info` of a Session that has ever used such a connection, and of connections that were looked at."""
_SAVEPOINTS: Final = "eventbus.savepoints"
_NO_BEGIN: Final = "eventbus.no_begin"
_IN_ERROR: Final = 3
"""libpq's PQTRANS_INERROR."""


def note_autocommit(session: Session, connection: Connection) -> None:
    """The Session begins to use a connection on which each statement commits by itself."""
    session.info.setdefault(AUTOCOMMIT, WeakSet()).add(connection)


def autocommitting(session: Session) -> Iterator[Connection]:
    """Those that the Session uses now."""
    for connection in session.info.get(AUTOCOMMIT, ()):
        # The application's own Connection may have been given another isolation level since.
        if not connection.closed and autocommits(connection):
            yield connection


def check_transactional(session: Session, connection: Connection) -> None:
    """Raise CaptureError if a rollback of the Session would not undo what is written on this connection.

    On SQLite a program may leave out BEGIN by a setting of its driver, for some transactions only, and commit as usual.
    It is warned, once a DBAPI connection: to refuse its writes would break it.
    """
    if AUTOCOMMIT in session.info and connection in autocommitting(session):
        if _leaves_out_begin(connection):
            _warn_of_no_begin(connection)
            return
        raise CaptureError(
            "This Session writes on an AUTOCOMMIT connection: a rollback undoes nothing there, so events of committed "
            "changes cannot be told from others. Use another isolation level for this engine, or write within "
            "eventbus.muted(session)."
        )


def _leaves_out_begin(connection: Connection) -> bool:
    """Whether the driver was told to send no BEGIN, and nobody chose AUTOCOMMIT by name."""
    raw: Any = connection.connection.driver_connection
    return (
        _chosen(connection) is None
        and connection.dialect.name == "sqlite"
        and getattr(raw, "isolation_level", "") is None
        and getattr(raw, "autocommit", None) is not True
    )


def _warn_of_no_begin(connection: Connection) -> None:
    if _NO_BEGIN not in connection.info:
        connection.info[_NO_BEGIN] = True
        warnings.warn(
            "A Session writes on an SQLite connection whose driver sends no BEGIN, and nobody else has sent one: a "
            "rollback undoes nothing there, and what it should have undone is not published. Send BEGIN: see "
            "'Serializable isolation / Savepoints / Transactional DDL' in SQLAlchemy's documentation of SQLite.",
            CaptureWarning,
            stacklevel=2,
        )


def has_failed(connection: Connection, *, ask: bool = False) -> bool:
    """Whether a statement has failed, so that PostgreSQL answers COMMIT with a rollback, and no driver minds.

    psycopg and psycopg2 know it. `ask`: have the database tell if the driver does not.
    """
    info = getattr(connection.connection.driver_connection, "info", None)
    status = getattr(info, "transaction_status", None)
    if status is not None or not ask or connection.dialect.name != "postgresql":
        return bool(status == _IN_ERROR)
    cursor = connection.connection.cursor()
    try:
        cursor.execute("SELECT 1")
        cursor.fetchall()
    except connection.dialect.loaded_dbapi.Error:
        return True
    finally:
        cursor.close()
    return False


def warn_of_hidden_commit(connection: Connection) -> None:
    """Say, once a DBAPI connection, that a savepoint begun now is no savepoint.

    Python's sqlite3 sends BEGIN before INSERT, UPDATE and DELETE, not before SAVEPOINT. As the first statement of a
    transaction SAVEPOINT begins it, and RELEASE commits it: a later rollback leaves the row, without an event.
    """
    if connection.dialect.name != "sqlite" or _SAVEPOINTS in connection.info:
        return
    connection.info[_SAVEPOINTS] = True
    if getattr(connection.connection.driver_connection, "isolation_level", None) is not None:
        warnings.warn(
            "SAVEPOINT is the first statement of an SQLite transaction, so its release commits it, whatever becomes of "
            "the transaction. Let SQLAlchemy send BEGIN: see 'Serializable isolation / Savepoints / Transactional DDL' "
            "in its documentation of SQLite.",
            CaptureWarning,
            stacklevel=2,
        )


def autocommits(connection: Connection, *, begins: bool = False) -> bool:
    """Whether each statement commits by itself there.

    Looks at the isolation level SQLAlchemy was given, and once a DBAPI connection at the driver's own setting. On
    SQLite the program may send BEGIN itself, for some transactions and not for others: it is asked as each `begins`.
    """
    chosen = _chosen(connection)
    if chosen is not None:
        return bool(chosen == "AUTOCOMMIT")
    info = connection.connection.info
    found: bool | None = info.get(AUTOCOMMIT)
    if found is None or (begins and connection.dialect.name == "sqlite"):
        found = info[AUTOCOMMIT] = _ask_driver(connection)
    return found


def _chosen(connection: Connection) -> str | None:
    """The isolation level that SQLAlchemy was told to set."""
    options: Any = connection._execution_options
    level: str | None = options.get("isolation_level") or connection.dialect._on_connect_isolation_level
    return level


def _ask_driver(connection: Connection) -> bool:
    raw: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        # Without an isolation level the driver sends no BEGIN: then the application may have sent it.
        silent = getattr(raw, "isolation_level", "") is None and not raw.in_transaction
        return silent or getattr(raw, "autocommit", None) is True
    try:
        # Since SQLAlchemy 2.0.43; before that each driver calls it its own way.
        detect = connection.dialect.detect_autocommit_setting
    except AttributeError:
        ask = getattr(raw, "get_autocommit", None)
        return (ask() if ask else getattr(raw, "autocommit", False)) is True
    try:
        return bool(detect(connection.connection.dbapi_connection))  # type: ignore[arg-type]
    except NotImplementedError:
        return False
