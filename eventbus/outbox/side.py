"""Connections of our own to the application's database: never from its pool, so a pool of one cannot deadlock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine


def side_engine(engine: Engine) -> Engine:
    """An engine to the same database, with a pool of its own and none of the application's engine events.

    How a connection is made (creator, arguments, `connect` events such as PRAGMAs) is the application's. Parameters are
    kept out of logs and errors, as they hold events.
    """
    side = Engine(engine.pool.recreate(), engine.dialect, engine.url, hide_parameters=True)
    if engine.dialect.name in ("postgresql", "mysql", "mariadb"):
        # The application may have chosen AUTOCOMMIT or SERIALIZABLE for itself.
        return side.execution_options(isolation_level="READ COMMITTED")
    return side


@contextmanager
def side_connection(engine: Engine) -> Iterator[Connection]:
    """A short connection of its own, in a transaction that is committed at the end.

    Works under async drivers too, within the greenlet that runs the caller.
    """
    side = side_engine(engine)
    try:
        with side.connect() as connection, connection.begin():
            yield connection
    finally:
        side.dispose()
