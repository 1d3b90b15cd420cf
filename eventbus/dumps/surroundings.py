"""What a load needs of its connection, whatever its own settings are: set before, and set back afterwards.

Values are taken strictly, zones and forms of moments are told without a doubt, and references may be fulfilled in any
order, as far as the database lets them. What it does not check at the end is checked in `references`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventbus.dumps.facts import MYSQL

_STRICT: Final = "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,NO_AUTO_VALUE_ON_ZERO"
_UNWANTED: Final = frozenset({"PAD_CHAR_TO_FULL_LENGTH"})
_FORMS: Final[Mapping[str, str]] = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
}
"""How PostgreSQL writes and reads values as text."""


@contextlib.contextmanager
def loading(connection: Connection) -> Iterator[None]:
    """Within, rows may be written in any order that the database can be brought to accept."""
    with _LOADING.get(connection.dialect.name, _nothing)(connection), _quiet_driver():
        yield


@contextlib.contextmanager
def reading(connection: Connection) -> Iterator[None]:
    """Within, values are read as they are."""
    if connection.dialect.name == "postgresql":
        with _texts(connection):
            yield
    elif connection.dialect.name == "sqlite":
        begin(connection)
        with _undecoded(connection):
            yield
    else:
        begin(connection)
        yield


@contextlib.contextmanager
def _undecoded(connection: Connection) -> Iterator[None]:
    """Texts that are not UTF-8 come out nevertheless, so that it can be told whose they are."""
    driver: Any = connection.connection.driver_connection
    before = driver.text_factory
    driver.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    try:
        yield
    finally:
        driver.text_factory = before


@contextlib.contextmanager
def _nothing(_connection: Connection) -> Iterator[None]:
    yield


def begin(connection: Connection) -> None:
    """sqlite3 begins a transaction at the first INSERT: too late for reading, or for a savepoint that then commits."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and not getattr(driver, "in_transaction", True):
        connection.exec_driver_sql("BEGIN")


@contextlib.contextmanager
def _sqlite(connection: Connection) -> Iterator[None]:
    begin(connection)
    connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    yield


@contextlib.contextmanager
def _mysql(connection: Connection) -> Iterator[None]:
    mode, checks = connection.exec_driver_sql("SELECT @@SESSION.sql_mode, @@SESSION.foreign_key_checks").one()
    modes = dict.fromkeys([*(each for each in mode.split(",") if each and each not in _UNWANTED), *_STRICT.split(",")])
    connection.exec_driver_sql(f"SET SESSION sql_mode = '{','.join(modes)}', foreign_key_checks = 0")
    try:
        yield
    finally:
        _set_back(connection, f"SET SESSION sql_mode = '{mode}', foreign_key_checks = {int(checks)}")


@contextlib.contextmanager
def _postgresql(connection: Connection) -> Iterator[None]:
    with _texts(connection):
        connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
        yield


@contextlib.contextmanager
def _texts(connection: Connection) -> Iterator[None]:
    before = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in _FORMS}
    for name, value in _FORMS.items():
        connection.exec_driver_sql(f"SET LOCAL {name} = '{value}'")
    try:
        yield
    finally:
        _set_back(connection, *(f"SET LOCAL {name} = '{value}'" for name, value in before.items()))


def _set_back(connection: Connection, *statements: str) -> None:
    """A connection that was lost, or whose transaction has failed, is set back by its end."""
    if connection.closed or connection.invalidated:
        return
    with contextlib.suppress(DBAPIError):
        for statement in statements:
            connection.exec_driver_sql(statement)


class _Given(logging.Filter):
    """psycopg tells of a pipeline that an error ended; the error itself is told by us."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "error ignored terminating" not in str(record.msg)


@contextlib.contextmanager
def _quiet_driver() -> Iterator[None]:
    log, given = logging.getLogger("psycopg"), _Given()
    log.addFilter(given)
    try:
        yield
    finally:
        log.removeFilter(given)


_LOADING: Final[Mapping[str, Callable[[Connection], Any]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    **dict.fromkeys(MYSQL, _mysql),
}
