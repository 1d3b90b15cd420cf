"""Transactions of which the Session does not know how they ended."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import sessionmaker

from tests.support.recording import Recording
from tests.support.world import World
from tests.support.zoo import Base, Team


class Shaky(sqlite3.Connection):
    """Loses its COMMIT when told to. What SQLAlchemy takes for a new connection is the same object, of the same id."""

    fails = False

    def commit(self) -> None:
        if self.fails:
            self.fails = False
            super().rollback()
            raise sqlite3.OperationalError("gone")
        super().commit()

    def close(self) -> None:
        """Stay."""


@pytest.fixture
def shaky(tmp_path: Path) -> Iterator[Shaky]:
    connection = sqlite3.connect(tmp_path / "database", factory=Shaky)
    yield connection
    sqlite3.Connection.close(connection)


@pytest.mark.parametrize("lost", [True, False])
def test_a_commit_of_an_outer_transaction_that_fails_is_doubted(shaky: Shaky, lost: bool) -> None:
    engine = create_engine("sqlite://", creator=lambda: shaky)
    if lost:
        event.listen(engine, "handle_error", _is_disconnect)
    Base.metadata.create_all(engine)
    sessions = sessionmaker()
    recording = Recording(sessions)
    with engine.connect() as connection:
        outer = connection.begin()
        with sessions(bind=connection) as session:
            session.add(Team(id=1, title="t"))
            session.commit()
        shaky.fails = True
        with pytest.raises(DBAPIError):
            outer.commit()
    with engine.connect() as another:  # and goes back to the pool
        another.exec_driver_sql("SELECT 1")
    assert recording.take() == []
    assert len(recording.sink.doubted) == 1
    recording.uninstall()
    engine.dispose()


def _is_disconnect(context: Any) -> None:
    context.is_disconnect = True


def test_what_the_database_has_undone_by_itself_is_not_told(world: World) -> None:
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER undo BEFORE UPDATE ON team BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END"
        )
    with world.maker() as session:
        session.add(Team(id=1, title="t"))
        session.flush()
        session.execute(insert(Team), [{"id": 2, "title": "t"}, {"id": 3, "title": "t"}])
        with pytest.raises(DBAPIError, match="all of it"):
            session.execute(update(Team).values(title="u"))
        session.connection().exec_driver_sql("BEGIN")
        session.add(Team(id=4, title="t"))
        session.commit()
    assert world.follow() == [("c", "team/4")]
