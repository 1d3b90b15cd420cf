"""Savepoints begun on a Connection, not through the Session: what is rolled back there is not told, the rest is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from sqlalchemy import Connection, insert, update
from sqlalchemy.orm import Session

from tests.support.world import World
from tests.support.zoo import Boat, Team

Work = Callable[[Session], Any]
WORKS: dict[str, Work] = {
    "flush": lambda session: _flush(session, Team(id=2, title="in")),
    "statement": lambda session: session.execute(insert(Team).values(id=2, title="in")),
    "changes": lambda session: session.execute(update(Team).values(title="in")),
    "another entity": lambda session: _flush(session, Boat(id=1, name="in")),
}


def _flush(session: Session, new: Any) -> None:
    session.add(new)
    session.flush()


@contextmanager
def alone(world: World) -> Iterator[tuple[Session, Connection]]:
    with world.maker() as session:
        yield session, session.connection()
        session.commit()


@contextmanager
def joined(world: World) -> Iterator[tuple[Session, Connection]]:
    with world.engine.begin() as connection, world.maker(bind=connection) as session:
        yield session, connection
        session.commit()


@contextmanager
def left_open(world: World) -> Iterator[tuple[Session, Connection]]:
    with world.engine.begin() as connection:
        yield world.maker(bind=connection), connection


PLACES = [alone, joined, left_open]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize("within", [False, True], ids=["", "in the Session's own"])
def test_what_is_rolled_back_is_not_told(world: World, place: Any, work: Work, within: bool) -> None:
    with place(world) as (session, connection):
        _flush(session, Team(id=1, title="before"))
        with session.begin_nested() if within else nullcontext():
            if within:
                _flush(session, Team(id=3, title="within"))
            savepoint = connection.begin_nested()
            work(session)
            work_again = connection.begin_nested()
            work_again.rollback()
            savepoint.rollback()
        session.expire_all()
        session.get_one(Team, 1).title = "after"
        session.flush()
    assert ("c", "team/1") in world.follow()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_what_is_released_is_told(world: World, place: Any, work: Work) -> None:
    with place(world) as (session, connection):
        _flush(session, Team(id=1, title="before"))
        with connection.begin_nested():
            work(session)
    assert len(world.follow()) == (1 if work is WORKS["changes"] else 2)


def test_a_session_that_is_closed_in_it(world: World) -> None:
    with world.engine.begin() as connection:
        session = world.maker(bind=connection)
        _flush(session, Team(id=1, title="before"))
        savepoint = connection.begin_nested()
        _flush(session, Team(id=2, title="in"))
        session.close()
        savepoint.rollback()
    assert world.follow() == [("c", "team/1")]


def test_names_of_savepoints_are_forgotten_with_their_transaction(world: World) -> None:
    with world.engine.connect() as connection:
        for number in (1, 2):
            with world.maker(bind=connection) as session:
                transaction = connection.begin()
                _flush(session, Team(id=number, title="t"))
                connection.begin_nested()
                _flush(session, Boat(id=number, name="b"))
            transaction.commit()
        (watched,) = world.recording.capture.savepoints._watched.values()
        assert watched.kept == {}
    assert [subject for _, subject in world.follow()] == ["team/1", "boat/1", "team/2", "boat/2"]
