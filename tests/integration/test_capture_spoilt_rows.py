"""Rows that hold what their columns' types cannot read, or no event can show: who changes something else is free to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import delete, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, load_only, mapped_column, sessionmaker

import eventbus
from eventbus.comparison.rows import Rows
from eventbus.errors import CaptureWarning, SerializationError
from eventbus.publishers.memory import MemoryPublisher
from eventbus.snapshot import snapshot
from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Bracketed(sa.TypeDecorator[Any]):
    """Refuses what it has not written itself."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else f"<{value}>"

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        if value is None:
            return None
        if not value.startswith("<"):
            raise ValueError(value)
        return value[1:-1]


class Sheet(Base):
    __tablename__ = "sheet"

    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int | None]
    text: Mapped[Any | None] = mapped_column(Bracketed)
    state: Mapped[Any | None] = mapped_column(sa.Enum("open", "shut", native_enum=False, length=10))
    at: Mapped[Any | None] = mapped_column(sa.DateTime)


SPOILT = {
    "sqlite": {"text": "'old'", "state": "'gone'", "at": "'yesterday'"},
    "postgresql": {"text": "'old'", "state": "'gone'"},
    "mysql": {"text": "'old'", "state": "'gone'", "at": "'0000-00-00 00:00:00'"},
}
NOON = dt.datetime(2026, 1, 1, 12)  # noqa: DTZ001 - the column keeps no zone
Work = Callable[[Session], Any]


def hit(statement: Any) -> Work:
    return lambda session: session.execute(statement, execution_options={"synchronize_session": False}).rowcount


def partly(session: Session) -> Sheet:
    return session.scalars(select(Sheet).where(Sheet.id == 2).options(load_only(Sheet.n))).one()


def by_key(session: Session) -> None:
    session.execute(update(Sheet), [{"id": 1, "n": 3}, {"id": 2, "n": 3}])


WORKS: dict[str, Work] = {
    "update": hit(update(Sheet).values(n=2)),
    "a chosen row": hit(update(Sheet).where(Sheet.id == 2).values(n=2)),
    "by key": by_key,
    "bulk method": lambda session: session.bulk_update_mappings(Sheet, [{"id": 2, "n": 4}]),
    "flush": lambda session: setattr(partly(session), "n", 5),
    "mend": hit(update(Sheet).values(text="new", state="shut", at=NOON)),
    "delete": hit(delete(Sheet).where(Sheet.id == 2)),
    "flushed delete": lambda session: session.delete(partly(session)),
}


@pytest.fixture
def maker(database_url: str) -> Iterator[sessionmaker[Session]]:
    engine = proper_engine(database_url)
    yield sessionmaker(engine)
    engine.dispose()


def spoil(maker: sessionmaker[Session]) -> None:
    engine: Any = maker.kw["bind"]
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    good = {"n": 1, "text": "x", "state": "open", "at": NOON}
    sets = ", ".join(f"{name} = {value}" for name, value in SPOILT[engine.dialect.name].items())
    with engine.begin() as connection:
        connection.execute(sa.insert(Sheet), [{"id": 1, **good}, {"id": 2, **good}])
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("SET sql_mode = ''")
        connection.exec_driver_sql(f"UPDATE sheet SET {sets} WHERE id = 2")
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("SET sql_mode = @@GLOBAL.sql_mode")


def held(maker: sessionmaker[Session]) -> list[Any]:
    with maker() as session:
        return list(session.execute(sa.text("SELECT id, n, text, state FROM sheet ORDER BY id")))


def run(maker: sessionmaker[Session], work: Work) -> Any:
    with maker.begin() as session:
        return work(session)


@pytest.mark.filterwarnings("ignore::eventbus.errors.CaptureWarning")
@pytest.mark.parametrize("name", WORKS)
def test_what_a_type_cannot_read_costs_no_statement(maker: sessionmaker[Session], name: str) -> None:
    spoil(maker)
    bare, rows = run(maker, WORKS[name]), held(maker)
    spoil(maker)
    recording = Recording(maker, auto_fields=False)
    try:
        assert run(maker, WORKS[name]) == bare
        assert held(maker) == rows
        events = {event.pk: event for event in recording.take()}
    finally:
        recording.uninstall()
    assert set(events) == ({1, 2} if name in {"update", "by key", "mend"} else {2})
    told = events[2].after
    if name == "mend":
        assert (told["text"], told["state"]) == ("<new>", "shut")
    elif told is not None:
        assert told == {"id": 2, "n": rows[1][1]} | ({"at": told["at"]} if "at" in told else {}), "no more is known"


@pytest.mark.filterwarnings("ignore::eventbus.errors.CaptureWarning")
def test_a_warning_names_the_column_and_no_value(maker: sessionmaker[Session]) -> None:
    spoil(maker)
    recording = Recording(maker, auto_fields=False)
    try:
        with pytest.warns(CaptureWarning, match=r"sheet\.state: what a row holds cannot be read") as told:
            run(maker, WORKS["a chosen row"])
    finally:
        recording.uninstall()
    assert not any("gone" in str(each.message) for each in told)


class Loose(Base):
    __tablename__ = "loose"

    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int | None]
    time: Mapped[Any | None] = mapped_column(sa.Time)
    weight: Mapped[Any | None] = mapped_column(sa.Float)


@pytest.mark.parametrize("database_url", ["postgres", "mariadb"], indirect=True)
def test_what_the_driver_makes_a_value_of_is_told_as_the_row_holds_it(maker: sessionmaker[Session]) -> None:
    Base.metadata.create_all(maker.kw["bind"])
    recording = Recording(maker, auto_fields=False)
    try:
        with maker.begin() as session:
            session.add_all([Loose(id=number, time=dt.timedelta(hours=number)) for number in (3, 4)])
        with maker.begin() as session:
            session.get_one(Loose, 3).time = dt.timedelta(hours=5)
        told = [(event.op, event.after["time"]) for event in recording.take()]
    finally:
        recording.uninstall()
    assert told == [("c", "03:00:00"), ("c", "04:00:00"), ("u", "05:00:00")]


@pytest.mark.filterwarnings("ignore::eventbus.errors.CaptureWarning")
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_what_no_event_can_show_fails_him_alone_who_writes_it(maker: sessionmaker[Session]) -> None:
    Base.metadata.create_all(maker.kw["bind"])
    with maker.begin() as session:
        session.add(Loose(id=1, weight=float("nan")))
    recording = Recording(maker, auto_fields=False)
    try:
        run(maker, hit(update(Loose).values(n=2)))
        run(maker, lambda session: setattr(session.get_one(Loose, 1), "n", 3))
        assert [event.after for event in recording.take()] == [
            {"id": 1, "n": 2, "time": None},
            {"id": 1, "n": 3, "time": None},
        ]
        with pytest.raises(SerializationError, match="weight"):
            run(maker, hit(update(Loose).values(weight=float("inf"))))
    finally:
        recording.uninstall()


@pytest.mark.filterwarnings("ignore::eventbus.errors.CaptureWarning")
@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
def test_a_snapshot_goes_without_what_cannot_be_read(maker: sessionmaker[Session]) -> None:
    spoil(maker)
    engine: Any = maker.kw["bind"]
    broker = MemoryPublisher()
    settings = eventbus.Settings(url="memory://spoilt", service="crm")
    bus = eventbus.install(maker, settings=settings, publisher=broker, exclude=[Loose])
    try:
        published = snapshot(bus, engine, models=[Base], only=["sheet"])
    finally:
        bus.close()
    assert published.objects == 2
    assert [sorted({"text", "state"} & event.after.keys()) for event in broker.events] == [["state", "text"], []]
    compared = Rows(engine, bus.entities.for_mapper(sa.inspect(Sheet)))
    assert [len(page.rows) for page in compared.pages(10)] == [2]
