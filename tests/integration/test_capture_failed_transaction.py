"""A transaction that has failed, and is committed all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.exc import DBAPIError

from tests.support.world import World
from tests.support.zoo import Team


@pytest.fixture
def world(postgres_db: str) -> Iterator[World]:
    world = World(postgres_db)
    yield world
    world.close()


def test_a_failed_outer_transaction_that_is_committed_publishes_nothing(world: World) -> None:
    """The application has swallowed the error; PostgreSQL answers COMMIT with a rollback, and nobody is told."""
    with world.engine.connect() as connection:
        with connection.begin():
            with world.maker(bind=connection) as session:
                session.add(Team(id=1, title="t"))
                session.commit()
            with pytest.raises(DBAPIError):
                connection.exec_driver_sql("SELECT 1 / 0")
        with connection.begin(), world.maker(bind=connection) as session:
            session.add(Team(id=2, title="t"))
            session.commit()
    assert world.follow() == [("c", "team/2")]
