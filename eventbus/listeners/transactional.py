"""Connections on which a rollback would undo nothing: refused, since what they commit and what not cannot be told."""

from __future__ import annotations

import warnings
from typing import Any, Final

from sqlalchemy import Connection

from eventbus.errors import CaptureError, CaptureWarning

_AUTOCOMMIT: Final = "eventbus.autocommit"
_SAVEPOINTS: Final = "eventbus.savepoints"


def check_transactional(connection: Connection) -> None:
    """Raise CaptureError if each statement commits by itself on this connection, which has just run one.

    Looks at the isolation level SQLAlchemy was given, and once a DBAPI connection at the driver's own setting.
    """
    chosen = connection.get_execution_options().get("isolation_level")
    if chosen is None:
        chosen = connection.dialect._on_connect_isolation_level
    if chosen == "AUTOCOMMIT" or (chosen is None and _driver_autocommits(connection)):
        raise CaptureError(
            "This Session writes on an AUTOCOMMIT connection: a rollback undoes nothing there, so events of committed "
            "changes cannot be told from others. Use another isolation level for this engine, or write within "
            "eventbus.muted(session)."
        )


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


def _driver_autocommits(connection: Connection) -> bool:
    info = connection.info
    found = info.get(_AUTOCOMMIT)
    if found is None:
        found = info[_AUTOCOMMIT] = _ask_driver(connection)
    return bool(found)


def _ask_driver(connection: Connection) -> bool:
    if connection.dialect.name == "sqlite":
        # Its driver's setting says nothing: where the application sends BEGIN itself, it is autocommit on purpose.
        return not getattr(connection.connection.driver_connection, "in_transaction", True)
    raw: Any = connection.connection.dbapi_connection
    try:
        # Since SQLAlchemy 2.0.43; before that each driver calls it its own way.
        detect = connection.dialect.detect_autocommit_setting
    except AttributeError:
        return getattr(raw, "autocommit", False) is True
    try:
        return bool(detect(raw))
    except NotImplementedError:
        return False
