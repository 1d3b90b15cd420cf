"""A connection of our own that was lost while it waited in its pool."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from eventbus.outbox.side import connected, side_engine

LOSE = {
    "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({}, 5000)"),
    "mysql": ("SELECT connection_id()", "KILL {}"),
}


def number(connection: Connection) -> int:
    found = connection.scalar(text(LOSE[connection.dialect.name][0]))
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize("database_url", ["postgres", "mariadb"], indirect=True)
def test_it_fails_with_an_error_and_without_a_traceback_of_the_pool(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(database_url)
    side = side_engine(engine)
    with connected(side) as connection:
        lost = number(connection)
    with engine.connect() as other:
        other.execute(text(LOSE[engine.dialect.name][1].format(lost)))
    with caplog.at_level(logging.INFO, "sqlalchemy.pool"):
        with pytest.raises(DBAPIError) as caught, connected(side) as connection:
            number(connection)
        assert caught.value.connection_invalidated
        del caught
        with connected(side) as connection:
            assert number(connection) != lost
    assert [each.getMessage() for each in caplog.records if each.exc_info] == []
    side.dispose()
    engine.dispose()


@pytest.mark.parametrize("database_url", ["postgres", "mariadb"], indirect=True)
def test_its_isolation_level_is_not_the_applications(database_url: str) -> None:
    engine = create_engine(database_url, isolation_level="SERIALIZABLE")
    side = side_engine(engine)
    for _ in range(2):
        with connected(side) as connection:
            assert connection.get_isolation_level() == "READ COMMITTED"
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "SERIALIZABLE"
    side.dispose()
    engine.dispose()
