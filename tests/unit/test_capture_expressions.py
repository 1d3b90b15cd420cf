"""Attributes set to SQL expressions: SQLAlchemy expires most of them, but leaves bound parameters on the object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import marshmallow
import pytest
import sqlalchemy as sa
from sqlalchemy import StaticPool, bindparam, case, cast, func, literal, literal_column, null, select, text, type_coerce
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Shouted(sa.TypeDecorator[str]):
    """Whatever it is given it takes for a text."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:
        return str(value).upper()


class Box(Base):
    __tablename__ = "box"

    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int | None]
    s: Mapped[str | None]
    loud: Mapped[str | None] = mapped_column(Shouted)
    data: Mapped[Any | None] = mapped_column(sa.JSON)
    other: Mapped[str | None]
    home: Mapped[str | None] = mapped_column(info={"eventbus": False})


class BoxSchema(marshmallow.Schema):
    """Fields that would make something of anything."""

    id = marshmallow.fields.Integer()
    twice = marshmallow.fields.Function(lambda box: f"{box.n}{box.n}")
    text = marshmallow.fields.Method("of_text")

    def of_text(self, box: Any) -> str:
        return f"<{box.s}>"


class Named:
    """An object of the application that SQLAlchemy takes for an expression."""

    def __clause_element__(self) -> Any:
        return literal(77)


EXPRESSIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "bound parameters": lambda: {
        "n": bindparam(None, 7),
        "s": bindparam("x", "b"),
        "loud": bindparam(None, "c", Shouted()),
    },
    "a parameter asked when it runs": lambda: {"n": bindparam(None, callable_=lambda: 8)},
    "literals": lambda: {"n": literal(5), "s": literal("lit"), "data": literal({"a": 1}, sa.JSON)},
    "a literal of NULL": lambda: {"s": literal(None), "n": null()},
    "text": lambda: {"n": text("1 + 1"), "s": literal_column("'c'")},
    "a subquery": lambda: {"n": select(func.count()).select_from(Box).scalar_subquery()},
    "functions": lambda: {"n": func.abs(-4), "s": func.upper("abc")},
    "case and cast": lambda: {"n": case((literal(1) == 1, 10), else_=20), "s": cast(13, sa.String(20))},
    "a type": lambda: {"s": type_coerce("abc", sa.String)},
    "an object with an expression": lambda: {"n": Named()},
}


@pytest.fixture
def maker() -> Iterator[sessionmaker[Session]]:
    engine = proper_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    made = sessionmaker(engine)
    with made.begin() as session:
        session.add(Box(id=1, n=1, s="a", loud="A", data={}))
    yield made
    engine.dispose()


@pytest.fixture
def recording(maker: sessionmaker[Session]) -> Iterator[Recording]:
    made = Recording(maker, auto_fields=False)
    yield made
    made.uninstall()


def told(recording: Recording) -> dict[int, Any]:
    return {event.pk: event.after for event in recording.take()}


def held(maker: sessionmaker[Session]) -> dict[int, Any]:
    with maker() as session:
        rows = [dict(row._mapping) for row in session.execute(select(Box.__table__))]
    return {row["id"]: {key: value for key, value in row.items() if key != "home"} for row in rows}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_event_shows_what_the_database_made_of_it(
    maker: sessionmaker[Session], recording: Recording, name: str
) -> None:
    with maker.begin() as session:
        for key, value in EXPRESSIONS[name]().items():
            setattr(session.get_one(Box, 1), key, value)
        session.add(Box(id=2, **EXPRESSIONS[name]()))
    assert told(recording) == held(maker)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_is_set_again_after_it(maker: sessionmaker[Session], recording: Recording, name: str) -> None:
    with maker.begin() as session:
        box = Box(id=2, **EXPRESSIONS[name]())
        session.add(box)
        session.flush()
        box.other = "o"
        with session.begin_nested():
            box.n = literal(3)
    assert told(recording)[2] == held(maker)[2]
    with maker.begin() as session:
        session.delete(session.get_one(Box, 2))
    assert told(recording) == {2: None}


def test_a_parameter_that_stays_on_an_object_of_an_earlier_transaction(
    maker: sessionmaker[Session], recording: Recording
) -> None:
    maker.configure(expire_on_commit=False)
    with maker() as session:
        box = session.get_one(Box, 1)
        box.n = literal(9)
        session.commit()
        recording.take()
        box.other = "o"
        session.commit()
        (event,) = recording.take()
        assert event.after == held(maker)[1]
        box.n = 10
        session.commit()
        (event,) = recording.take()
        assert (event.before, event.after) == ({}, held(maker)[1])


def test_a_schema_of_ones_own_and_a_stub_policy_see_no_expression_either(maker: sessionmaker[Session]) -> None:
    recording = Recording(maker, auto_fields=False, schemas={Box: BoxSchema}, policy="stub")
    try:
        with maker.begin() as session:
            session.add(Box(id=2, n=literal(4), s=bindparam(None, "b")))
        (event,) = recording.events
        assert event.after == {"id": 2, "twice": "44", "text": "<b>"}
    finally:
        recording.uninstall()


def test_hooks_are_told_what_is_known(maker: sessionmaker[Session]) -> None:
    seen: list[Any] = []

    @eventbus.listens_for(Box, "updated")
    def note(change: Any) -> None:
        seen.append((change.before, change.after))

    recording = Recording(maker, auto_fields=False)
    try:
        with maker.begin() as session:
            box = session.get_one(Box, 1)
            box.n, box.home = literal(4), literal("not published")
    finally:
        recording.uninstall()
        eventbus.stop_listening(note)
    ((before, after),) = seen
    assert before["n"] == 1
    assert after["n"] == 4
    assert "home" not in after
