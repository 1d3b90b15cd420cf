"""Loading on each database: order, circles, errors that name the record, sequences, and silence on the bus."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from eventbus import loaddata as command
from eventbus.dumps.reading import buffer
from eventbus.errors import LoadError
from eventbus.loaddata import Loaded, loaddata


class Base(DeclarativeBase):
    pass


class Person(Base):
    """Refers to itself, and in a circle with Team."""

    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40))
    boss_id: Mapped[int | None] = mapped_column(sa.ForeignKey("person.id"))
    team_id: Mapped[int | None] = mapped_column(sa.ForeignKey("team.id", name="person_team"))


class Team(Base):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)
    leader_id: Mapped[int | None] = mapped_column(sa.ForeignKey("person.id"))


class Task(Base):
    """`aaa` sorts before the tables it refers to."""

    __tablename__ = "aaa_task"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(sa.ForeignKey("person.id"))


class Ticket(Base):
    """Its key is GENERATED ALWAYS where there is such a thing."""

    __tablename__ = "ticket"
    id: Mapped[int] = mapped_column(sa.Identity(always=True), primary_key=True)


class Label(Base):
    __tablename__ = "label"
    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)


def record(model: str, pk: Any, /, **fields: Any) -> dict[str, Any]:
    return {"model": f"crm.{model}", "pk": pk, "fields": fields}


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(database_url)
    if made.dialect.name == "sqlite":
        sa.event.listen(made, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    try:
        Base.metadata.create_all(made)
        yield made
    finally:
        made.dispose()


class Load:
    def __init__(self, target: Any, path: Path) -> None:
        self.target = target
        self.path = path

    def __call__(self, *records: Any, **options: Any) -> Loaded:
        self.path.write_bytes(orjson.dumps(records))
        return loaddata(self.target, [self.path], models=Base, **options)


@pytest.fixture
def load(engine: sa.Engine, tmp_path: Path) -> Load:
    return Load(engine, tmp_path / "dump.json")


def count(engine: sa.Engine, model: type[Base]) -> int:
    with Session(engine) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(model)) or 0


COMPANY = [
    *(record("person", n, name=f"P{n}", boss_id=n // 2 or None, team_id=n % 7 + 1) for n in range(1, 200)),
    *(record("team", n, leader_id=n * 3) for n in range(1, 8)),
    *(record("task", n, person_id=n % 199 + 1) for n in range(1, 100)),
]
"""A tree of people, and a circle of people and teams."""


@pytest.mark.parametrize("window", [5_000, 7])
def test_records_in_any_order_with_references_in_circles(
    engine: sa.Engine, load: Load, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(command, "WINDOW", window)
    monkeypatch.setattr(buffer, "CHUNK", 500)
    shuffled = random.Random(window).sample(COMPANY, len(COMPANY))
    assert load(*shuffled).objects == len(COMPANY)
    with Session(engine) as session:
        for person in session.scalars(sa.select(Person)):
            assert (person.boss_id, person.team_id) == (person.id // 2 or None, person.id % 7 + 1)
        assert {team.leader_id for team in session.scalars(sa.select(Team))} == {3, 6, 9, 12, 15, 18, 21}
    assert load(*reversed(COMPANY)).objects == len(COMPANY), "a second time over what is there"
    assert count(engine, Person) == 199


@pytest.mark.parametrize("window", [5_000, 7])
def test_what_is_there_already_is_kept_with_its_references_and_counted(
    engine: sa.Engine, load: Load, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """Also references that have to wait for the rows they lead to."""
    monkeypatch.setattr(command, "WINDOW", window)
    load(*(record("person", n, name="old") for n in range(1, 100)), record("team", 1))
    loaded = load(*reversed(COMPANY), existing="keep")
    assert (loaded.objects, loaded.kept) == (len(COMPANY), 100)
    with Session(engine) as session:
        for person in session.scalars(sa.select(Person)):
            given = (f"P{person.id}", person.id // 2 or None, person.id % 7 + 1)
            assert (person.name, person.boss_id, person.team_id) == (("old", None, None) if person.id < 100 else given)
        assert session.get_one(Team, 1).leader_id is None
    assert load(*COMPANY, existing="keep").kept == len(COMPANY)


@pytest.mark.parametrize("existing", ["update", "keep"])
def test_a_key_that_the_database_cannot_take_is_named(engine: sa.Engine, load: Load, existing: Any) -> None:
    if engine.dialect.name != "postgresql":
        assert load(record("label", "\0"), existing=existing).objects == 1
        return
    with pytest.raises(LoadError) as caught:
        load(record("label", "a"), record("label", "\0"), existing=existing)
    assert caught.value.pk == "\0"


@pytest.mark.parametrize(
    "dangling",
    [
        record("task", 500, person_id=999),
        record("person", 500, name="X", boss_id=999),
        record("person", 500, name="X", team_id=999),
        record("team", 500, leader_id=999),
    ],
    ids=["plain", "own table", "circle", "other side of the circle"],
)
def test_a_reference_to_nothing_keeps_nothing(engine: sa.Engine, load: Load, dangling: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match=r"person|team|task") as caught:
        load(*reversed(COMPANY), dangling)
    assert (caught.value.model, caught.value.pk) == (dangling["model"], 500)
    for model in (Person, Team, Task):
        assert count(engine, model) == 0


def test_a_row_the_database_refuses_is_named(engine: sa.Engine, load: Load) -> None:
    people = [record("person", n, name=f"P{n}") for n in range(1, 50)]
    with pytest.raises(LoadError, match=r"dump\.json: crm\.person 30: ") as caught:
        load(*people[:29], record("person", 30, name=None), *people[30:])
    assert caught.value.pk == 30
    assert count(engine, Person) == 0


def test_the_next_row_gets_a_free_key_and_sequences_are_never_lowered(engine: sa.Engine, load: Load) -> None:
    with Session(engine) as session:
        session.add_all(Person(name="before") for _ in range(20))
        session.commit()
        session.execute(sa.delete(Person).where(Person.id > 1))
        session.commit()
    load(record("person", 5, name="loaded"))
    with Session(engine) as session:
        session.add(person := Person(name="after"))
        session.commit()
        assert person.id > (5 if engine.dialect.name == "sqlite" else 20)
    load(record("person", 500, name="loaded"))
    with Session(engine) as session:
        session.add(person := Person(name="after"))
        session.commit()
        assert person.id == 501


def test_keys_that_the_database_always_generates_are_kept(engine: sa.Engine, load: Load) -> None:
    load(record("ticket", 7), record("ticket", 9))
    with Session(engine) as session:
        session.add(ticket := Ticket())
        session.commit()
        assert ticket.id == 10


def test_the_checks_of_the_database_are_on_again_afterwards(engine: sa.Engine, tmp_path: Path) -> None:
    with Session(engine) as session:
        Load(session, tmp_path / "a.json")(record("person", 1, name="A"))
        session.commit()
        session.add(Task(id=1, person_id=77))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
        session.rollback()
        with pytest.raises(LoadError):
            Load(session, tmp_path / "b.json")(record("task", 1, person_id=78))
        session.add(Task(id=1, person_id=79))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()


def test_standard_input_in_any_order(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    path.write_bytes(orjson.dumps(COMPANY[::-1]))
    with path.open("rb") as stream:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": stream}))
        assert loaddata(engine, ["-"], models=Base).objects == len(COMPANY)


@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
def test_a_load_publishes_nothing_and_the_session_publishes_again(
    engine: sa.Engine, tmp_path: Path, unique: str
) -> None:
    maker = sessionmaker(engine)
    bus = eventbus.install(maker, url=f"memory://{unique}", service="crm", outbox=False)
    heard: list[Any] = []
    hear = eventbus.listens_for(Person, "created")(heard.append)
    try:
        with maker() as session:
            Load(session, tmp_path / "a.json")(record("person", 1, name="A"))
            session.commit()
            with pytest.raises(LoadError):
                Load(session, tmp_path / "b.json")(record("person", 2, name=None))
            session.commit()
            assert heard == []
            session.add(Person(id=3, name="C"))
            session.commit()
            assert [change.pk for change in heard] == [(3,)]
    finally:
        eventbus.stop_listening(hear)
        bus.close()
