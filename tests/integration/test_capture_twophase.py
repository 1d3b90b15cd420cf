"""What only real database servers can do: two-phase commit, cascading key changes, deferred constraints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import ForeignKey, String, create_engine, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

from tests.support.recording import Recording, replay, tables
from tests.support.world import World
from tests.support.zoo import Team


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
