"""What only real servers and drivers do: two-phase commit, cascading key changes, deferred constraints, autocommit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, create_engine, delete, insert, make_url, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError, PendingRollbackError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

import eventbus
from eventbus.errors import CaptureError, CaptureWarning
from eventbus.publishers.memory import MemoryPublisher
from tests.support import zoo
from tests.support.recording import Recording, replay, tables
from tests.support.world import World
from tests.support.zoo import Boat, Team


@pytest.fixture(params=["postgres", "mariadb"])
def twophase(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "postgres":
        url = request.getfixturevalue("private_postgres")().url
    else:
        url = request.getfixturevalue("mariadb_db")
    world = World(url, session={"twophase": True})
    yield world
    world.close()


def test_prepared_and_committed(twophase: World) -> None:
    with twophase.maker() as session:
        session.add(Team(id=1, title="t"))
        session.prepare()
        assert twophase.recording.take() == []
        session.commit()
        session.add(Team(id=2, title="t"))
        session.commit()
    assert twophase.follow() == [("c", "team/1"), ("c", "team/2")]


def test_prepared_and_rolled_back(twophase: World) -> None:
    with twophase.maker() as session:
        session.add(Team(id=1, title="t"))
        session.prepare()
        session.rollback()
        session.add(Team(id=2, title="t"))
        session.commit()
    assert twophase.follow() == [("c", "team/2")]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_two_phases_of_a_connection_that_a_session_has_joined(twophase: World, end: str) -> None:
    with twophase.engine.connect() as connection:
        transaction = connection.begin_twophase()
        with twophase.maker(bind=connection, twophase=False) as session:
            session.add(Team(id=1, title="t"))
            session.commit()
        transaction.prepare()
        assert twophase.recording.take() == []
        getattr(transaction, end)()
    assert twophase.follow() == ([("c", "team/1")] if end == "commit" else [])


class Base(DeclarativeBase):
    pass


class Country(Base):
    __tablename__ = "country"

    code: Mapped[str] = mapped_column(String(10), primary_key=True)
    towns: Mapped[list[Town]] = relationship()


class Town(Base):
    __tablename__ = "town"

    id: Mapped[int] = mapped_column(primary_key=True)
    country_code: Mapped[str | None] = mapped_column(
        ForeignKey("country.code", onupdate="CASCADE", deferrable=True, initially="DEFERRED")
    )


def test_rows_that_follow_a_changed_key_are_told_of_as_far_as_they_are_loaded(postgres_db: str) -> None:
    engine = create_engine(postgres_db)
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        country = Country(code="be", towns=[Town(id=1), Town(id=2)])
        session.add(country)
        session.commit()
        store = replay(recording.take(), {})
        assert len(country.towns) == 2
        country.code = "nl"
        with pytest.warns(CaptureWarning, match="ON UPDATE CASCADE"):
            session.commit()
        replay(recording.take(), store)
        assert store == tables(recording, engine)
    recording.uninstall()
    engine.dispose()


def test_a_commit_that_the_database_refuses_publishes_nothing(postgres_db: str) -> None:
    engine = create_engine(postgres_db)
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        session.add(Town(id=1, country_code="xx"))
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.add(Country(code="be"))
        session.commit()
    assert recording.short() == [("c", "country/be")]
    recording.uninstall()
    engine.dispose()


def test_a_connection_killed_during_the_transaction_publishes_nothing(postgres_db: str) -> None:
    engine = create_engine(postgres_db)
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        session.add(Country(code="be"))
        session.flush()
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        with Session(engine) as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(OperationalError):
            session.commit()
    with maker() as session:
        session.add(Country(code="nl"))
        session.commit()
    assert recording.short() == [("c", "country/nl")]
    recording.uninstall()
    engine.dispose()


def test_a_session_closed_on_a_lost_connection_is_no_error(postgres_db: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = create_engine(postgres_db)
    Base.metadata.create_all(engine)
    maker = sessionmaker()
    bus = eventbus.install(maker, service="crm", url=f"memory://{id(engine)}", publisher=MemoryPublisher())
    with engine.connect() as connection:
        transaction = connection.begin()
        with maker(bind=connection) as session:
            session.add(Country(code="be"))
            session.flush()
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            with engine.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert connection.invalidated
        with pytest.raises(PendingRollbackError):
            transaction.commit()
    with engine.connect() as connection:
        assert connection.execute(select(Country.code)).all() == []
    bus.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    engine.dispose()


@pytest.mark.parametrize("database", ["postgres", "mariadb"])
@pytest.mark.parametrize("how", ["engine", "driver"])
def test_autocommit_is_refused_before_a_row_is_written(database: str, how: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{database}_db")
    chosen: Any = {"isolation_level": "AUTOCOMMIT"} if how == "engine" else {"connect_args": {"autocommit": True}}
    engine = create_engine(url, **chosen)
    zoo.Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        assert session.scalars(select(Team)).all() == []
        session.add(Team(title="t"))
        with pytest.raises(CaptureError, match="AUTOCOMMIT"):
            session.commit()
    with maker() as session, pytest.raises(CaptureError, match="AUTOCOMMIT"):
        session.execute(insert(Team).values(title="t"))
    with engine.connect() as connection:
        assert connection.scalars(select(Team.id)).all() == []
    recording.uninstall()
    engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_autocommit_is_refused_in_an_event_loop(postgres_db: str, driver: str) -> None:
    async def main() -> None:
        url = make_url(postgres_db).set(drivername=f"postgresql+{driver}")
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        maker = async_sessionmaker(engine)
        recording = Recording(maker)
        async with maker() as session:
            session.add(Country(code="a"))
            with pytest.raises(CaptureError, match="AUTOCOMMIT"):
                await session.commit()
        async with maker() as session:
            with pytest.raises(CaptureError, match="AUTOCOMMIT"):
                await session.execute(insert(Country).values(code="a"))
        async with engine.connect() as connection:
            assert (await connection.scalars(select(Country.code))).all() == []
        recording.uninstall()
        await engine.dispose()

    asyncio.run(main())


def test_mariadb_deletes_no_more_than_it_is_told_and_updates_one_table_at_a_time(mariadb_db: str) -> None:
    world = World(mariadb_db)
    with world.maker() as session:
        session.add_all([*(Team(id=number, title="t") for number in (1, 2, 3)), Boat(id=1, name="b")])
        session.commit()
        world.follow()
        session.execute(delete(Team).with_dialect_options(mysql_limit=2))
        session.commit()
        assert [op for op, _ in world.follow()] == ["d", "d"]
        both: Any = update(Team).where(Boat.id == Team.id).values({Team.title: "x", Boat.name: "y"})
        with pytest.raises(CaptureError, match="one statement for each table"):
            session.execute(both, execution_options={"synchronize_session": False})
    world.close()
