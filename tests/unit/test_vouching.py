"""What an event vouches for: the fields that its transaction wrote, or all of a row that was read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from marshmallow import Schema, fields, post_dump
from sqlalchemy import JSON, String, create_engine, func, update
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from eventbus.events.envelope import Event
from tests.support.recording import Recording


class Base(DeclarativeBase): ...


class Doc(Base):
    __tablename__ = "doc"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(50))
    phone: Mapped[str | None] = mapped_column(String(50))
    notes: Mapped[str | None] = mapped_column(String(50))
    plain: Mapped[Any | None] = mapped_column(JSON)
    tracked: Mapped[Any | None] = mapped_column(MutableDict.as_mutable(JSON()))
    secret: Mapped[str | None] = mapped_column(String(50), info={"eventbus": False})

    @property
    def label(self) -> str:
        return f"{self.name}: {self.phone}" if self.name else "nobody"


class Place:
    """Sessions on an empty database with one `Doc`, and their events; options go to the Recording."""

    def __init__(self, **options: Any) -> None:
        engine = create_engine("sqlite://")
        Base.metadata.create_all(engine)
        self.maker = sessionmaker(engine, expire_on_commit=False)
        with self.maker.begin() as session:
            session.add(Doc(id=1, name="Ann", phone="1", notes="n", plain={"a": 1}, tracked={"deep": {"a": 1}}))
        self.recording = Recording(self.maker, auto_fields=False, **options)

    def data(self, change: Callable[[Session, Doc], object]) -> tuple[Event, Mapping[str, Any]]:
        """The one event of a transaction in which the Doc is changed, and its data as it is on the wire."""
        with self.maker.begin() as session:
            change(session, session.get_one(Doc, 1))
        ((_, batch),) = self.recording.sink.submitted
        (event,) = self.recording.take()
        (body,) = batch.bodies
        return event, json.loads(body)["data"]


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.recording.uninstall()


def test_what_was_written_is_not_told_twice(place: Place) -> None:
    event, data = place.data(lambda _, doc: setattr(doc, "phone", "2"))
    assert (event.changed, event.written, event.whole) == (["phone"], ["phone"], False)
    assert not data.keys() & {"written", "whole"}


def test_what_was_set_and_set_back_was_written(place: Place) -> None:
    def change(session: Session, doc: Doc) -> None:
        doc.name, doc.phone = "Bob", "2"
        session.flush()
        with session.begin_nested():
            doc.name = "Ann"

    event, _ = place.data(change)
    assert (event.changed, event.written) == (["phone"], ["name", "phone"])


def test_a_value_that_the_flush_takes_for_the_old_one_was_not_written(place: Place) -> None:
    def change(_: Session, doc: Doc) -> None:
        doc.name, doc.phone = "Ann", "2"

    assert place.data(change)[0].written == ["phone"]


def test_what_stays_home_is_not_named(place: Place) -> None:
    def change(session: Session, doc: Doc) -> None:
        doc.secret = doc.name = "x"
        session.flush()
        doc.secret, doc.phone = None, "2"

    assert place.data(change)[0].written == ["name", "phone"]


def test_a_secret_set_back_alone_makes_no_event(place: Place) -> None:
    with place.maker.begin() as session:
        doc = session.get_one(Doc, 1)
        for doc.secret in ("x", None):
            session.flush()
    assert place.recording.take() == []


@pytest.mark.parametrize("flushed", [False, True])
def test_json_changed_in_place_is_vouched_for_where_the_update_wrote_it(place: Place, *, flushed: bool) -> None:
    def change(session: Session, doc: Doc) -> None:
        if flushed:
            doc.plain = {"a": 2}
            session.flush()
        doc.plain["a"] = 3
        doc.tracked["deep"]["a"] = 3
        doc.name = "Bob"

    event, _ = place.data(change)
    assert event.written == (["name", "plain"] if flushed else ["name"])
    assert event.after is not None
    assert not flushed or event.after["plain"] == {"a": 2}


def test_a_new_row_is_what_its_insert_wrote(place: Place) -> None:
    with place.maker.begin() as session:
        doc = Doc(id=2, plain={"a": 1}, tracked={"deep": {"a": 1}})
        session.add(doc)
        session.flush()
        doc.plain["a"] = 2
        doc.tracked["deep"]["a"] = 2
        doc.name = "Bob"
    (event,) = place.recording.take()
    assert event.after is not None
    assert (event.op, event.whole, event.after["name"]) == ("c", True, "Bob")
    assert (event.after["plain"], event.after["tracked"]) == ({"a": 1}, {"deep": {"a": 1}})


def test_a_tracked_change_in_place_was_written(place: Place) -> None:
    event, _ = place.data(lambda _, doc: doc.tracked.update(b=2))
    assert (event.changed, event.written) == (["tracked"], ["tracked"])


def test_what_a_savepoint_left_in_an_object_is_not_what_was_written_before_it(place: Place) -> None:
    def change(session: Session, doc: Doc) -> None:
        doc.name = "Bob"
        session.flush()
        savepoint = session.begin_nested()
        session.execute(update(Doc).values(name="Eve"))
        session.refresh(doc)
        savepoint.rollback()
        doc.phone = "2"

    event, _ = place.data(change)
    assert event.after is not None
    assert (event.after["name"], {*event.written} >= {"name", "phone"}) == ("Bob", True)


def test_a_statement_reads_its_rows(place: Place) -> None:
    event, data = place.data(lambda session, _: session.execute(update(Doc).values(name=func.upper(Doc.name))))
    assert (event.changed, event.whole, data["whole"]) == (["name"], True, True)


def test_a_statement_and_a_flush_are_whole_in_either_order(place: Place) -> None:
    by_key = update(Doc).where(Doc.id == 1).execution_options(synchronize_session=False)

    def first(session: Session, doc: Doc) -> None:
        session.execute(by_key.values(name="Bob"))
        doc.phone = "2"

    def last(session: Session, doc: Doc) -> None:
        doc.phone = "3"
        session.flush()
        session.execute(by_key.values(name="Eve"))

    for change, name, phone in ((first, "Bob", "2"), (last, "Eve", "3")):
        event, _ = place.data(change)
        assert event.after is not None
        assert (event.whole, event.after["name"], event.after["phone"]) == (True, name, phone)


def test_a_record_under_a_new_key_is_what_the_row_holds(place: Place) -> None:
    session = place.maker()
    stale = session.get_one(Doc, 1)
    session.commit()
    place.data(lambda _, doc: setattr(doc, "phone", "2"))
    with place.maker.begin() as other:
        other.execute(update(Doc).values(name="Bob"))
    place.recording.take()
    stale.id, stale.notes = 2, "moved"
    session.commit()
    gone, came = place.recording.take()
    assert (gone.op, gone.pk, came.op, came.whole) == ("d", 1, "c", True)
    assert came.after is not None
    assert [came.after[name] for name in ("id", "name", "phone", "notes")] == [2, "Bob", "2", "moved"]


def test_what_is_read_at_the_commit_is_vouched_for(place: Place) -> None:
    def change(session: Session, doc: Doc) -> None:
        session.expire(doc, ["notes"])
        doc.name = "Bob"

    event, _ = place.data(change)
    assert (event.changed, event.written) == (["name"], ["name", "notes"])


def test_a_row_that_is_read_again_is_whole() -> None:
    place = Place(reread=True)
    event, _ = place.data(lambda _, doc: setattr(doc, "phone", "2"))
    assert (event.changed, event.whole) == (["phone"], True)
    place.recording.uninstall()


def test_delete_flush_and_add_is_whole(place: Place) -> None:
    def change(session: Session, doc: Doc) -> None:
        session.delete(doc)
        session.flush()
        session.add(Doc(id=1, name="Bob"))

    event, _ = place.data(change)
    assert (event.op, event.whole) == ("u", True)


def test_delete_and_add_in_one_flush_is_an_update_of_what_was_set(place: Place) -> None:
    def change(session: Session, doc: Doc) -> None:
        session.delete(doc)
        session.add(Doc(id=1, name="Ann", phone="2"))

    event, _ = place.data(change)
    assert {"name", "phone"} <= {*event.written}
    assert "phone" in event.changed


class Own(Schema):
    """A renamed field, a property, a function of one column, one of none, a constant's method."""

    id = fields.Integer()
    name = fields.String()
    tel = fields.String(attribute="phone", data_key="Tel")
    label = fields.String()
    initial = fields.Function(lambda doc: (doc.name or "?")[0])
    now = fields.Function(lambda _: 1)
    kind = fields.Method("kind_of")

    def kind_of(self, doc: Doc) -> str:
        return "short" if len(doc.plain or {}) < 2 else "long"


@pytest.fixture
def own() -> Iterator[Place]:
    made = Place(schemas={Doc: Own})
    yield made
    made.recording.uninstall()


@pytest.mark.parametrize(
    ("column", "value", "written"),
    [
        ("name", "Bob", {"name", "label", "initial", "now"}),
        ("phone", "2", {"Tel", "label", "now"}),
        ("plain", {"b": 1}, {"kind", "now"}),
    ],
)
def test_a_computed_field_is_vouched_for_where_a_column_it_reads_was_written(
    own: Place, column: str, value: Any, written: set[str]
) -> None:
    event, _ = own.data(lambda _, doc: setattr(doc, column, value))
    assert {*event.written} == written
    assert event.after is not None
    assert written <= event.after.keys()


def test_a_computed_field_reads_what_it_reads_now(own: Place) -> None:
    own.data(lambda _, doc: setattr(doc, "name", None))
    event, _ = own.data(lambda _, doc: setattr(doc, "phone", "3"))
    assert "label" not in event.written


class Hooked(Schema):
    """A hook leaves out what is null and adds something."""

    id = fields.Integer()
    name = fields.String()
    phone = fields.String()

    @post_dump
    def tidy(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**{name: value for name, value in data.items() if value is not None}, "both": str(data)}


def test_what_a_hook_leaves_out_is_vouched_for_and_so_is_what_it_adds() -> None:
    place = Place(schemas={Doc: Hooked})
    event, _ = place.data(lambda _, doc: setattr(doc, "phone", None))
    assert (event.written, event.after and event.after.keys()) == (["phone", "both"], {"id", "name", "both"})
    place.recording.uninstall()


def test_a_stub_says_what_was_written() -> None:
    place = Place(policy="stub", max_bytes=2000)
    event, data = place.data(lambda _, doc: setattr(doc, "plain", "x" * 2000))
    assert event.stub
    assert (data["changed"], data["written"], event.written) == ([], ["plain"], ["plain"])
    event, _ = place.data(lambda session, _: session.execute(update(Doc).values(plain="y" * 2000)))
    assert event.stub
    assert event.whole
    place.recording.uninstall()
