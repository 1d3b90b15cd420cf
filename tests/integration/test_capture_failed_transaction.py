"""A transaction that has failed, and is committed all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import func, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

import eventbus
from eventbus.publishers.memory import MemoryPublisher
from tests.support.world import World
from tests.support.zoo import Base, Team


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


async def swallow(connection: Any) -> None:
    with pytest.raises(DBAPIError):
        await connection.execute(text("SELECT 1 / 0"))


async def own(engine: AsyncEngine, sessions: Any) -> None:
    async with sessions() as session:
        session.add(Team(id=1, title=func.lower("T")))
        await session.flush()
        await swallow(session)
        await session.commit()


async def joined(engine: AsyncEngine, sessions: Any) -> None:
    async with engine.connect() as connection, connection.begin():
        async with sessions(bind=connection) as session:
            session.add(Team(id=1, title="t"))
            await session.commit()
        await swallow(connection)


async def left_open(engine: AsyncEngine, sessions: Any) -> None:
    async with engine.connect() as connection:
        session = sessions(bind=connection)
        async with connection.begin():
            session.add(Team(id=1, title="t"))
            await session.flush()
            await swallow(connection)
        await session.close()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("work", [own, joined, left_open])
def test_a_commit_after_an_error_that_was_swallowed_is_what_it_would_be(
    postgres_db: str, driver: str, work: Any
) -> None:
    """PostgreSQL rolls back, and nobody is told: neither by an error of ours nor by an event."""
    broker = MemoryPublisher()

    async def run() -> None:
        engine = create_async_engine(make_url(postgres_db).set(drivername=f"postgresql+{driver}"))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        sessions = async_sessionmaker(engine)
        bus = eventbus.install(sessions, settings=eventbus.Settings(url="memory://swallow"), publisher=broker)
        try:
            await work(engine, sessions)
            async with sessions.begin() as session:
                session.add(Team(id=2, title="t"))
            await asyncio.to_thread(bus.flush, 10)
        finally:
            await asyncio.to_thread(bus.close)
            await engine.dispose()

    asyncio.run(run())
    assert [(event.op, event.pk) for event in broker.events] == [("c", 2)]


def test_a_commit_of_an_outer_transaction_that_a_constraint_refuses_publishes_nothing(world: World) -> None:
    deferred = "ALTER TABLE team ADD UNIQUE (title) DEFERRABLE INITIALLY DEFERRED"
    with world.engine.begin() as connection:
        connection.exec_driver_sql(deferred)
    with world.engine.connect() as connection:
        outer = connection.begin()
        with world.maker(bind=connection) as session:
            session.add_all([Team(id=1, title="t"), Team(id=2, title="t")])
            session.commit()
        with pytest.raises(DBAPIError, match="team_title_key"):
            outer.commit()
    with world.engine.connect() as connection, connection.begin(), world.maker(bind=connection) as session:
        session.add(Team(id=3, title="t"))
        session.commit()
    assert world.follow() == [("c", "team/3")]
