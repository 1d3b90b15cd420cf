"""Capture in an event loop, in many threads, and of two installations at once: nobody sees another's changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from sqlalchemy import create_engine, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import eventbus
from eventbus.events.envelope import decode
from eventbus.publishers import MemoryPublisher
from tests.support import machine
from tests.support.recording import Recording
from tests.support.world import World
from tests.support.zoo import Base, Contact, Counter, Team

THREADS = 16


class AsyncWorld(World):
    """A world whose Sessions are those of AsyncSessions; to be used within a greenlet of SQLAlchemy's."""

    def __init__(self, url: str) -> None:
        self.async_engine = create_async_engine(url)
        self.engine = self.async_engine.sync_engine
        makers = async_sessionmaker(self.async_engine, expire_on_commit=False)
        self.recording = Recording(makers, author=lambda: "ann")
        self.maker = lambda: makers().sync_session  # type: ignore[assignment]
        self.store = {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_random_sessions_within_an_event_loop(postgres_db: str) -> None:
    url = postgres_db.replace("+psycopg", "+asyncpg")

    async def main() -> None:
        world = AsyncWorld(url)
        async with world.async_engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(world.async_engine) as session:
            await session.run_sync(lambda _: machine.run(world, examples=10, steps=30))
        world.recording.uninstall()
        await world.async_engine.dispose()

    asyncio.run(main())


class Watched:
    """A bus on its own session factory, whose events are kept."""

    def __init__(self, url: str, service: str) -> None:
        self.engine = create_engine(url, pool_size=THREADS, max_overflow=4)
        self.sessions = scoped_session(sessionmaker(self.engine))
        self.publisher = MemoryPublisher()
        self.bus = eventbus.install(self.sessions, service=service, publisher=self.publisher)

    def mirror(self) -> dict[tuple[str, str], Any]:
        """What a mirror holds after all events: the newest version of each record wins."""
        self.bus.flush(30)
        newest: dict[tuple[str, str], Any] = {}
        for message in self.publisher.messages:
            event = decode(message.body)
            key = (event.model, event.record)
            if key not in newest or newest[key].version < event.version:
                newest[key] = event
        return {key: event.after for key, event in newest.items() if event.after is not None}

    def tables(self, models: list[type[Any]]) -> dict[tuple[str, str], Any]:
        """What a mirror should hold of these models."""
        held: dict[tuple[str, str], Any] = {}
        with Session(self.engine) as session:
            for entity in self.bus.entities:
                if entity.model in models:
                    serializer = entity.serializer(self.engine.dialect)
                    for row in session.execute(select(*entity.columns)):
                        model = f"{self.bus.settings.service}.{entity.name}"
                        pk = serializer.pk(tuple(row))
                        text = pk if isinstance(pk, str) else orjson.dumps(pk).decode()
                        held[model, text] = orjson.loads(orjson.dumps(serializer.after(tuple(row))))
        return held

    def close(self) -> None:
        self.bus.close()
        self.sessions.remove()
        self.engine.dispose()


@pytest.fixture
def watched(database_url: str) -> Iterator[Watched]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    made = Watched(database_url, "crm")
    yield made
    made.close()


def work(watched: Watched, number: int, shared: list[int]) -> str:
    """Transactions on rows of one's own and on shared ones; some are given up. Returns who acted."""
    chance, author = random.Random(number), f"u{number}"
    with eventbus.acting_as(author):
        for turn in range(12):
            session = watched.sessions()
            try:
                session.add(Counter(total=number))
                contact = session.get(Contact, f"c{number}") or Contact(id=f"c{number}")
                contact.name = f"{number}.{turn}"
                session.add(contact)
                session.execute(update(Team).where(Team.id == chance.choice(shared)).values(title=f"{number}.{turn}"))
                if chance.random() < 0.3:
                    session.rollback()
                elif chance.random() < 0.2:
                    session.close()
                else:
                    session.commit()
            except OperationalError:  # a deadlock, or SQLite's file being busy
                session.rollback()
            if chance.random() < 0.5:
                watched.sessions.remove()
    watched.sessions.remove()
    return author


@pytest.mark.slow
def test_sixteen_threads_with_a_scoped_session(watched: Watched) -> None:
    with watched.sessions() as session:
        teams = [Team(title="new") for _ in range(4)]
        session.add_all(teams)
        session.commit()
        shared = [team.id for team in teams]
    watched.sessions.remove()
    with ThreadPoolExecutor(THREADS) as pool:
        authors = set(pool.map(lambda number: work(watched, number, shared), range(THREADS)))

    assert watched.mirror() == watched.tables([Contact, Team, Counter])
    events = [decode(message.body) for message in watched.publisher.messages]
    for event in events:
        if event.entity == "contact":
            assert event.author == f"u{event.record[1:]}", "a thread's change under another's name"
    assert {event.author for event in events} == authors | {None}


def test_two_installations_see_their_own_sessions_only(database_url: str) -> None:
    one, other = Watched(database_url, "one"), Watched(database_url, "other")
    Base.metadata.create_all(one.engine)
    for watched, rows in ((one, 3), (other, 2)):
        with watched.sessions() as session:
            session.add_all([Counter() for _ in range(rows)])
            session.commit()
    for watched, rows in ((one, 3), (other, 2)):
        watched.bus.flush(30)
        assert len(watched.publisher.messages) == rows
        assert {message.routing_key.partition(".")[0] for message in watched.publisher.messages} == {
            watched.bus.settings.service
        }
        watched.close()


def test_installing_twice_is_one_installation(database_url: str) -> None:
    watched = Watched(database_url, "crm")
    Base.metadata.create_all(watched.engine)
    assert eventbus.install(watched.sessions) is watched.bus
    with watched.sessions() as session:
        session.add(Counter())
        session.commit()
    watched.bus.flush(30)
    assert len(watched.publisher.messages) == 1
    watched.close()
