"""Sessions that do not simply own one connection to one database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from eventbus import acting_as, muted
from eventbus.errors import CaptureError, CaptureWarning
from tests.support.recording import Recording, replay, tables
from tests.support.world import World, proper_engine
from tests.support.zoo import Base, Contact, Team


@pytest.fixture
def world() -> Iterator[World]:
    world = World("sqlite://")
    yield world
    world.close()


# -- a Connection of the application's ----------------------------

MODES: Any = ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]


def add(world: World, connection: Connection, mode: Any, number: int) -> None:
    with world.maker(bind=connection, join_transaction_mode=mode) as session:
        session.add(Team(id=number, title="t"))
        session.commit()


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "control_fully"])
def test_a_session_in_an_outer_transaction_publishes_with_it(world: World, mode: Any) -> None:
    with world.engine.connect() as connection:
        with connection.begin():
            add(world, connection, mode, 1)
            assert world.recording.take() == []
        # SQLAlchemy announces a COMMIT, and says nothing after: the next sign of life of the connection tells.
        with connection.begin():
            assert world.recording.short() == [("c", "team/1")]
            add(world, connection, mode, 2)
        assert world.recording.take() == []
    assert world.recording.short() == [("c", "team/2")]


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "control_fully"])
def test_an_outer_transaction_rolled_back_publishes_nothing(world: World, mode: Any) -> None:
    with world.engine.connect() as connection:
        outer = connection.begin()
        add(world, connection, mode, 1)
        add(world, connection, mode, 2)
        outer.rollback()
        with connection.begin():
            add(world, connection, mode, 3)
    assert world.follow() == [("c", "team/3")]


def test_a_session_that_controls_the_outer_transaction_publishes_at_its_own_commit(world: World) -> None:
    with world.engine.connect() as connection:
        outer = connection.begin()
        add(world, connection, "control_fully", 1)
        assert world.recording.short() == [("c", "team/1")]
        outer.close()


def test_an_outer_savepoint_rolled_back_takes_what_was_committed_inside(world: World) -> None:
    with world.engine.connect() as connection, connection.begin():
        add(world, connection, "create_savepoint", 1)
        savepoint = connection.begin_nested()
        add(world, connection, "create_savepoint", 2)
        savepoint.rollback()
        savepoint = connection.begin_nested()
        add(world, connection, "create_savepoint", 3)
        savepoint.commit()
    assert world.follow() == [("c", "team/1"), ("c", "team/3")]


# -- other binds ------------------------------------------------


def test_each_database_gets_the_events_of_its_own_rows(tmp_path: Path) -> None:
    one, two = (proper_engine(f"sqlite:///{tmp_path / name}") for name in ("one", "two"))
    for engine in (one, two):
        Base.metadata.create_all(engine)
    maker = sessionmaker(binds={Team: one, Contact: two})
    recording = Recording(maker)
    with maker() as session:
        session.add_all([Contact(id="a"), Team(id=1, title="t"), Team(id=2, title="t")])
        session.commit()
    parts = {entry.connection.engine.url.database: entry.batch.keys for entry in recording.sink.submitted}
    assert parts == {
        str(tmp_path / "one"): ["crm.team.created"] * 2,
        str(tmp_path / "two"): ["crm.contact.created"],
    }
    assert sorted(event.transaction["index"] for event in recording.take()) == [0, 1, 2]
    recording.uninstall()


def test_events_go_where_a_routing_session_writes() -> None:
    writer, reader = proper_engine("sqlite://"), proper_engine("sqlite://")
    Base.metadata.create_all(writer)

    class Routing(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any:
            return writer if self._flushing else reader

    recording = Recording(Routing)
    with Routing() as session:
        session.add(Team(id=1, title="t"))
        session.commit()
    (entry,) = recording.sink.submitted
    assert entry.connection.engine is writer
    recording.uninstall()


# -- connections without transactions ---------------------------


@pytest.mark.parametrize("how", ["engine", "connection", "driver"])
def test_autocommit_is_refused_before_the_commit(how: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'db'}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT") if how == "engine" else create_engine(url)
    if how == "connection":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    if how == "driver":
        engine = create_engine(url, connect_args={"isolation_level": None})
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        session.add(Team(id=1, title="t"))
        with pytest.raises(CaptureError, match="AUTOCOMMIT"):
            session.commit()
    with maker() as session, muted(session):
        session.add(Team(id=2, title="t"))
        session.commit()
    recording.uninstall()
    engine.dispose()


def test_a_savepoint_that_sqlite_would_commit_is_warned_of_once() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        session.add(Team(id=1, title="t"))
        session.flush()
        with session.begin_nested():
            session.add(Team(id=2, title="t"))
        session.commit()
        with pytest.warns(CaptureWarning, match="SAVEPOINT is the first statement"), session.begin_nested():
            session.add(Team(id=3, title="t"))
        session.commit()
        with session.begin_nested():
            session.add(Team(id=4, title="t"))
        session.commit()
    recording.uninstall()
    engine.dispose()


# -- threads and tasks ------------------------------------------


def test_sixteen_threads_over_one_scoped_session(tmp_path: Path) -> None:
    engine = proper_engine(f"sqlite:///{tmp_path / 'db'}", connect_args={"timeout": 60})
    Base.metadata.create_all(engine)
    scoped = scoped_session(sessionmaker(engine))
    recording = Recording(scoped)
    start = threading.Barrier(16)

    def work(number: int) -> None:
        start.wait()
        with acting_as(f"u{number}"):
            for turn in range(4):
                scoped.add(Contact(id=f"{number}-{turn}"))
                scoped.flush()
                if turn % 2:
                    scoped.rollback()
                else:
                    scoped.commit()
            scoped.remove()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = recording.take()
    assert len(events) == 32
    assert all(event.author == f"u{event.pk.partition('-')[0]}" for event in events)
    assert replay(events, {}) == tables(recording, engine)
    recording.uninstall()
    engine.dispose()


async def _async_world(path: Path) -> tuple[Any, async_sessionmaker[AsyncSession], Recording]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    maker = async_sessionmaker(engine, expire_on_commit=False)
    return engine, maker, Recording(maker, author=lambda: "default")


def test_async_sessions_publish_with_the_author_of_their_task(tmp_path: Path) -> None:
    async def main() -> None:
        engine, maker, recording = await _async_world(tmp_path / "db")

        async def work(number: int) -> None:
            with acting_as(f"u{number}"):
                async with maker() as session:
                    session.add(Contact(id=str(number), visits=3))
                    await session.flush()
                    await asyncio.sleep(0)
                    await session.commit()

        for number in range(5):
            await work(number)
        events = recording.take()
        assert [(event.pk, event.author) for event in events] == [(str(n), f"u{n}") for n in range(5)]
        async with maker() as session, muted(session):
            session.add(Team(title="t"))
            await session.commit()
        assert recording.take() == []
        recording.uninstall()
        await engine.dispose()

    asyncio.run(main())


def test_a_cancelled_task_publishes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        engine, maker, recording = await _async_world(tmp_path / "db")
        flushed = asyncio.Event()

        async def work() -> None:
            async with maker() as session:
                session.add(Team(id=1, title="t"))
                await session.flush()
                flushed.set()
                await asyncio.sleep(3600)

        task = asyncio.create_task(work())
        await flushed.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with maker() as session:
            session.add(Team(id=2, title="t"))
            await session.commit()
        assert recording.short() == [("c", "team/2")]
        recording.uninstall()
        await engine.dispose()

    asyncio.run(main())


def test_installed_on_two_factories_each_publishes_its_own(world: World) -> None:
    other = sessionmaker(world.engine)
    second = Recording(other)
    with world.maker() as session:
        session.add(Team(id=1, title="t"))
        session.commit()
    with other() as session:
        session.add(Team(id=2, title="t"))
        session.commit()
    assert (world.recording.short(), second.short()) == ([("c", "team/1")], [("c", "team/2")])
    second.uninstall()


def test_a_class_and_its_base_class_both_installed_capture_once(world: World) -> None:
    class Above(Session):
        pass

    below = sessionmaker(world.engine, class_=Above)
    recordings = [Recording(Above), Recording(below)]
    with below() as session:
        savepoint = session.begin_nested()
        session.add(Team(id=1, title="t"))
        savepoint.commit()
        session.commit()
    assert sorted(len(recording.take()) for recording in recordings) == [0, 1]
    for recording in recordings:
        recording.uninstall()


# -- two writers at one row -------------------------------------


@pytest.mark.parametrize(("reread", "seen"), [(False, "one"), (True, "ONE")])
def test_columns_another_transaction_changed_meanwhile(tmp_path: Path, reread: bool, seen: str) -> None:
    """By default the object is believed, stale or not; with `reread` the row is."""
    world = World(f"sqlite:///{tmp_path / 'db'}", reread=reread, session={"expire_on_commit": False})
    with world.maker() as one, world.maker() as two:
        one.add(Contact(id="a", name="one", phone="1"))
        one.commit()
        stale = two.get_one(Contact, "a")
        two.commit()
        one.get_one(Contact, "a").name = "ONE"
        one.commit()
        stale.phone = "2"
        with world.statements() as statements:
            two.commit()
    event = world.recording.events[-1]
    assert event.after is not None
    assert (event.after["phone"], event.after["name"]) == ("2", seen)
    assert event.changed == ["phone", "stamp"]
    assert sum(each.startswith("SELECT") for each in statements) == 1
    world.close()
