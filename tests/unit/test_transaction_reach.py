"""Sessions that do not simply own one connection to one database."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Delete, Update, create_engine, delete, func, insert, select, update
from sqlalchemy.event import listen, remove
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from eventbus import acting_as, muted
from eventbus.errors import CaptureError, CaptureWarning
from tests.support.recording import Recording, replay, tables
from tests.support.world import World, proper_engine
from tests.support.zoo import Base, Contact, Counter, Team, membership


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


def change(session: Session, number: int) -> None:
    """By a flush, and by a statement."""
    session.add(Team(id=number, title="t"))
    session.flush()
    session.execute(update(Team).values(title=f"by {number}"))


NUMBERS = itertools.count(1_000)


def half(session: Session, *, undo: bool) -> None:
    """A change in a savepoint of the Session's own, which is left open or rolled back."""
    savepoint = session.begin_nested()
    change(session, next(NUMBERS))
    if undo:
        savepoint.rollback()


LEAVES: dict[str, Callable[[Session], Any]] = {
    "committed": lambda session: session.commit(),
    "closed": lambda session: session.close(),
    "closed in a savepoint": lambda session: (half(session, undo=False), session.close()),
    "committed, changed and closed": lambda session: (session.commit(), half(session, undo=False), session.close()),
    "left open": lambda session: session.flush(),
    "left open in a savepoint": lambda session: half(session, undo=False),
    "rolled back": lambda session: session.rollback(),
    "a savepoint rolled back": lambda session: (half(session, undo=True), session.close()),
}
ENDS: dict[str, Callable[[Connection], Any]] = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "rollback and commit": lambda connection: (connection.rollback(), connection.commit()),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.filterwarnings("ignore:.*:sqlalchemy.exc.SAWarning")
def test_rows_that_a_joined_session_leaves_are_published_with_them(
    world: World, mode: Any, leave: str, end: str
) -> None:
    """However the Session is left: what the Connection commits is published, and nothing else."""
    kept: list[Session] = []
    with world.engine.connect() as connection:
        connection.execute(select(1))
        for number in (10, 20):
            session = world.maker(bind=connection, join_transaction_mode=mode)
            change(session, number)
            LEAVES[leave](session)
            kept += [session] if leave.startswith("left") and number == 10 else []
            del session  # the other one is forgotten without a word
            if connection.in_transaction():
                with connection.begin_nested() as savepoint:
                    inner = world.maker(bind=connection, join_transaction_mode=mode)
                    change(inner, number + 1)
                    LEAVES[leave](inner)
                    if savepoint.is_active:
                        savepoint.rollback()
        ENDS[end](connection)
    # Two that are open at a time cannot know each other's old values; what the rows hold in the end is told.
    store: dict[Any, Any] = {}
    for event in world.recording.take():
        store[event.entity, str(event.pk)] = event.after
    assert {key: row for key, row in store.items() if row is not None} == tables(world.recording, world.engine)


def test_a_session_left_open_is_published_with_each_commit_of_its_connection(world: World) -> None:
    with world.engine.connect() as connection:
        session = world.maker(bind=connection)
        for number in (1, 2):
            change(session, number)
            connection.commit()
            session.execute(select(1))
            assert ("c", f"team/{number}") in world.recording.short()
        change(session, 3)
        connection.rollback()
        session.close()
    assert world.recording.take() == []


def test_what_cannot_be_written_when_a_session_is_closed_is_tried_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with world.engine.connect() as connection:
        connection.execute(select(1))
        world.recording.sink.fail["write"] = RuntimeError("disk full")
        with world.maker(bind=connection, join_transaction_mode="rollback_only") as session:
            change(session, 1)
        assert "events not written" in caplog.text
        connection.commit()
    assert world.follow() == [("c", "team/1")]


def test_an_outbox_that_fails_fails_the_commit_of_the_connection(world: World) -> None:
    with world.engine.connect() as connection:
        connection.execute(select(1))
        session = world.maker(bind=connection, join_transaction_mode="rollback_only")
        change(session, 1)
        world.recording.sink.fail["write"] = RuntimeError("disk full")
        with pytest.raises(RuntimeError, match="disk full"):
            connection.commit()
        session.close()
    with world.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Team)) == 0
        connection.commit()
    assert world.follow() == []


def test_sessions_that_share_a_connection_are_told_in_the_order_in_which_they_wrote(world: World) -> None:
    with world.engine.connect() as connection:
        with connection.begin():
            one, other = world.maker(bind=connection), world.maker(bind=connection)
            one.add_all([Team(id=1, title="a"), Team(id=2, title="a")])
            one.flush()
            other.execute(update(Team).values(title="b"))
            one.get_one(Team, 1).title = "c"
            one.flush()
            other.delete(other.get_one(Team, 2))
            other.flush()
            one.commit()
            other.get_one(Team, 1).title = "d"
            other.commit()
        one.close()
        other.close()
    assert [step for step in world.follow() if step[1] == "team/2"] == [
        ("c", "team/2"), ("u", "team/2"), ("d", "team/2"),
    ]  # fmt: skip


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


def test_statements_are_followed_to_where_a_routing_session_sends_them() -> None:
    """The recipe of SQLAlchemy's documentation (Custom Vertical Partitioning)."""
    leader, follower = proper_engine("sqlite://"), proper_engine("sqlite://")
    for engine in (leader, follower):
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(insert(Team.__table__), {"id": 1, "title": "leader" if engine is leader else "follower"})

    class Routing(Session):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Any:
            return leader if self._flushing or isinstance(clause, Update | Delete) else follower

    recording = Recording(Routing)
    for write in (
        lambda: session.execute(update(Team).values(title="a")),
        lambda: session.bulk_update_mappings(Team, [{"id": 1, "title": "b"}]),
        lambda: session.execute(delete(Team)),
    ):
        with Routing() as session:
            write()
            session.commit()
    assert [entry.connection.engine for entry in recording.sink.submitted] == [leader] * 3
    assert [event.before for event in recording.take()] == [
        {"title": "leader"},
        {"title": "a"},
        {"id": 1, "title": "b"},
    ]
    recording.uninstall()


def test_a_statement_may_name_its_bind_unless_the_rows_are_written_elsewhere_too(world: World) -> None:
    other = proper_engine("sqlite://")
    Base.metadata.create_all(other)
    with other.begin() as connection:
        connection.execute(insert(Team.__table__), {"id": 1, "title": "a"})
    with world.maker() as session:
        session.execute(update(Team).values(title="b"), bind_arguments={"bind": other})
        session.commit()
        (entry,) = world.recording.sink.submitted
        assert entry.connection.engine is other
        assert world.recording.short() == [("u", "team/1")]
        session.add(Team(id=1, title="t"))
        with pytest.raises(CaptureError, match="on another connection"):
            session.execute(update(Team).values(title="c"), bind_arguments={"bind": other})
        session.commit()
    assert world.follow() == [("c", "team/1")]
    other.dispose()


# -- connections without transactions ---------------------------


WRITES: dict[str, Callable[[Session], Any]] = {
    "flush": lambda session: session.add(Team(title="t")),
    "flush after reading": lambda session: setattr(session.get_one(Team, 1), "title", "t"),
    "deletion": lambda session: session.delete(session.get_one(Team, 1)),
    "link": lambda session: setattr(session.get_one(Contact, "a"), "teams", [session.get_one(Team, 1)]),
    "update": lambda session: session.execute(update(Team).values(title="t")),
    "update of a table": lambda session: session.execute(update(Team.__table__).values(title="t")),
    "delete": lambda session: session.execute(delete(Team)),
    "insert": lambda session: session.execute(insert(Team).values(title="t")),
    "legacy": lambda session: session.bulk_save_objects([Team(title="t")]),
}


def commit(session: Session, write: Callable[[Session], Any]) -> None:
    write(session)
    session.commit()


@pytest.mark.parametrize("how", ["engine", "connection"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_autocommit_is_refused_before_a_row_is_written(
    how: str, write: Callable[[Session], Any], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'db'}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT") if how == "engine" else create_engine(url)
    if how == "connection":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)

    def rows() -> list[Any]:
        with engine.connect() as connection:
            return [connection.execute(select(table)).all() for table in (Team.__table__, membership)]

    with maker() as session, muted(session):
        session.add_all([Team(id=1, title="a"), Contact(id="a")])
        session.commit()
    before = rows()
    with maker() as session, pytest.raises(CaptureError, match="AUTOCOMMIT"):
        commit(session, write)
    assert rows() == before
    with maker() as session:
        assert session.get_one(Team, 1).title == "a"
        session.commit()
    assert recording.take() == []
    recording.uninstall()
    engine.dispose()


def test_a_program_that_sends_begin_for_some_transactions_alone_is_captured_and_warned() -> None:
    """Prefect reads without a transaction, on connections of the same pool, and sometimes writes so."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"isolation_level": None})
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN DEFERRED")

    warned: AbstractContextManager[Any] = pytest.warns(CaptureWarning, match="sends no BEGIN")
    for number in (1, 2):
        with maker() as session:
            assert session.get(Team, number) is None
        listen(engine, "begin", begin)
        with maker.begin() as session:
            session.add(Team(id=number, title="t"))
        remove(engine, "begin", begin)
        assert recording.short() == [("c", f"team/{number}")]
        with maker() as session, warned:
            session.add(Team(id=number + 2, title="t"))
            session.commit()
        assert recording.short() == [("c", f"team/{number + 2}")]
        warned = nullcontext()  # once a connection
    recording.uninstall()
    engine.dispose()


def test_only_what_is_captured_is_refused_with_autocommit(tmp_path: Path) -> None:
    captured, other = (
        proper_engine("sqlite://"),
        create_engine(f"sqlite:///{tmp_path / 'db'}").execution_options(isolation_level="AUTOCOMMIT"),
    )
    for engine in (captured, other):
        Base.metadata.create_all(engine)
    maker = sessionmaker(binds={Team: captured, Counter: other, Contact: other})
    recording = Recording(maker, exclude=[Counter])
    with maker() as session:
        session.add_all([Team(id=1, title="t"), Counter(id=1)])
        session.flush()
        session.add_all([Team(id=2, title="t"), Counter(id=2)])
        session.commit()
        assert recording.short() == [("c", "team/1"), ("c", "team/2")]
        session.add(Contact(id="a"))
        with pytest.raises(CaptureError, match="AUTOCOMMIT"):
            session.commit()
    recording.uninstall()
    captured.dispose()
    other.dispose()


def test_autocommit_is_refused_in_an_event_loop(tmp_path: Path) -> None:
    async def main() -> None:
        engine, maker, recording = await _async_world(tmp_path / "db")
        maker.configure(bind=engine.execution_options(isolation_level="AUTOCOMMIT"))
        for write in (WRITES["flush"], WRITES["insert"]):
            async with maker() as session:
                with pytest.raises(CaptureError, match="AUTOCOMMIT"):
                    await session.run_sync(commit, write)
        async with engine.connect() as connection:
            assert (await connection.execute(select(Team.__table__))).all() == []
        recording.uninstall()
        await engine.dispose()

    asyncio.run(main())


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


def test_a_session_that_outlives_its_installation_is_captured_by_the_next(world: World) -> None:
    with world.maker() as session:
        session.add(Team(id=1, title="a"))
        session.flush()
        world.recording.uninstall()
        session.commit()
        again = Recording(world.maker)
        session.add(Team(id=2, title="b"))
        session.commit()
        assert again.short() == [("c", "team/2")]
        again.uninstall()


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
@pytest.mark.parametrize("again", [False, True], ids=["closed", "closed and installed again"])
def test_a_transaction_that_is_open_when_the_bus_is_closed_is_captured_to_its_end(
    world: World, end: str, again: bool
) -> None:
    with world.maker() as session:
        session.add(Team(id=1, title="a"))
        session.flush()
        world.recording.uninstall()
        other = Recording(world.maker) if again else None
        team = session.get_one(Team, 1)
        team.title = "b"
        session.execute(insert(Team).values(id=2, title="c"))
        with session.begin_nested() as savepoint:
            session.add(Team(id=3, title="d"))
            session.flush()
            savepoint.rollback()
        getattr(session, end)()
        told = [(event.op, event.subject, event.after and event.after["title"]) for event in world.recording.take()]
        assert told == ([("c", "team/1", "b"), ("c", "team/2", "c")] if end == "commit" else [])
        session.add(Team(id=4, title="e"))
        session.commit()
        assert world.recording.take() == []
        if other is not None:
            assert other.short() == [("c", "team/4")]
            other.uninstall()


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
