"""What events of mappers and other listeners do within a flush, and what a flush touches beside what was set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import pytest
from sqlalchemy import Column, ForeignKey, Integer, String, Table, delete, event, func, insert, text, update
from sqlalchemy.exc import SADeprecationWarning, SAWarning
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    mapped_column,
    object_session,
    relationship,
    sessionmaker,
)
from sqlalchemy.types import TypeDecorator

from eventbus.errors import CaptureError
from tests.support.recording import Recording, Store, replay, tables
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Node(Base):
    __tablename__ = "node"

    id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str | None]
    count: Mapped[int | None]


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    node_id: Mapped[int | None]


class Shelf(Base):
    __tablename__ = "shelf"

    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[list[Book]] = relationship()


class Book(Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    pages: Mapped[int | None]
    shelf_id: Mapped[int | None] = mapped_column(ForeignKey("shelf.id"))


class Vehicle(Base):
    __tablename__ = "vehicle"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    turns: Mapped[int | None] = mapped_column(onupdate=text("coalesce(turns, 0) + 1"))
    version: Mapped[int] = mapped_column()

    __mapper_args__: ClassVar[dict[str, Any]] = {
        "polymorphic_on": "kind",
        "polymorphic_identity": "vehicle",
        "version_id_col": version,
    }


class Car(Vehicle):
    doors: Mapped[int | None]

    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "car"}


class Ship(Vehicle):
    __tablename__ = "ship"

    id: Mapped[int] = mapped_column(ForeignKey("vehicle.id"), primary_key=True)
    masts: Mapped[int | None]

    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "ship"}


class Page(Base):
    __tablename__ = "page"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    title: Mapped[str | None]
    edits: Mapped[int | None] = mapped_column(onupdate=text("coalesce(edits, 0) + 1"))

    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_on": "kind", "polymorphic_identity": "page"}


class Cover(Page):
    __tablename__ = "cover"

    id: Mapped[int] = mapped_column(ForeignKey("page.id"), primary_key=True)
    title: Mapped[str | None] = column_property(mapped_column("title", String), Page.__table__.c.title)

    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "cover"}


class LoweredOnTheWayOut(TypeDecorator[str]):
    impl = String(20)
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return func.lower(column)


class LoweredOnTheWayIn(TypeDecorator[str]):
    impl = String(20)
    cache_ok = True

    def bind_expression(self, bindparam: Any) -> Any:
        return func.lower(bindparam, type_=self)


class Word(Base):
    __tablename__ = "word"

    id: Mapped[str] = mapped_column(LoweredOnTheWayIn, primary_key=True)
    shown: Mapped[str | None] = mapped_column(LoweredOnTheWayOut, info={"eventbus": True})


class Place:
    """A database whose events are replayed: after each look the store equals the tables."""

    def __init__(self) -> None:
        self.engine = proper_engine("sqlite://")
        Base.metadata.create_all(self.engine)
        self.sessions = sessionmaker(self.engine)
        self.recording = Recording(self.sessions, auto_fields=False)
        self.store: Store = {}

    def follow(self) -> list[tuple[str, str, list[str]]]:
        events = self.recording.take()
        replay(events, self.store)
        assert self.store == tables(self.recording, self.engine)
        return [(each.op, each.subject, each.changed) for each in events]


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.recording.uninstall()
    place.engine.dispose()


@contextmanager
def on(target: Any, moment: str, do: Callable[[Any], None]) -> Iterator[None]:
    """Call it with the object of each such event of a mapper."""

    def listener(_mapper: Any, _connection: Any, obj: Any) -> None:
        do(obj)

    event.listen(target, moment, listener)
    try:
        yield
    finally:
        event.remove(target, moment, listener)


def run(obj: Any, statement: Any) -> None:
    session = object_session(obj)
    assert session is not None
    session.execute(statement)


def test_a_statement_on_the_row_that_the_flush_has_just_made(place: Place) -> None:
    def locate(node: Node) -> None:
        run(node, update(Node).where(Node.id == node.id).values(path=f"/{node.id}"))

    with on(Node, "after_insert", locate), place.sessions.begin() as session:
        session.add(Node(id=1, count=5))
    assert place.follow() == [("c", "node/1", [])]
    assert place.store["node", "1"] == {"id": 1, "path": "/1", "count": 5}


@pytest.mark.parametrize("moment", ["before_insert", "after_insert"])
def test_a_statement_on_a_row_that_the_flush_changes_too(place: Place, moment: str) -> None:
    with place.sessions.begin() as session:
        session.add(Node(id=1, path="a", count=0))
    place.follow()

    def count(note: Note) -> None:
        run(note, update(Node).where(Node.id == note.node_id).values(count=Node.count + 1))

    with on(Note, moment, count), place.sessions.begin() as session:
        session.get_one(Node, 1).path = "b"
        session.add(Note(id=1, node_id=1))
    assert sorted(place.follow()) == [("c", "note/1", []), ("u", "node/1", ["path", "count"])]
    assert place.store["node", "1"]["count"] == 1


def test_rows_that_statements_make_and_delete_within_a_flush(place: Place) -> None:
    def log(node: Node) -> None:
        run(node, insert(Note).values(id=node.id, node_id=node.id))

    def forget(node: Node) -> None:
        run(node, delete(Note).where(Note.node_id == node.id))

    with on(Node, "before_insert", log), place.sessions.begin() as session:
        session.add(Node(id=1))
    assert sorted(place.follow()) == [("c", "node/1", []), ("c", "note/1", [])]
    with on(Node, "after_delete", forget), place.sessions.begin() as session:
        session.delete(session.get_one(Node, 1))
    assert sorted(place.follow()) == [("d", "node/1", []), ("d", "note/1", [])]


def test_a_statement_before_the_flush_that_then_has_nothing_to_do(place: Place) -> None:
    @event.listens_for(place.sessions, "before_flush")
    def write(session: Session, *_: Any) -> None:
        for each in list(session.new):
            session.expunge(each)
            session.execute(insert(Node).values(id=each.id))

    with place.sessions.begin() as session:
        session.add(Node(id=1))
    event.remove(place.sessions, "before_flush", write)
    assert place.follow() == [("c", "node/1", [])]


def test_a_row_deleted_by_a_statement_before_the_flush_that_writes_it_anew(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Node(id=1, path="a"))
    place.follow()

    @event.listens_for(place.sessions, "before_flush")
    def replace(session: Session, *_: Any) -> None:
        session.execute(delete(Node).where(Node.id == 1))

    with place.sessions.begin() as session:
        session.add(Node(id=1, path="b"))
    event.remove(place.sessions, "before_flush", replace)
    assert place.follow() == [("u", "node/1", ["path"])]


def test_a_row_deleted_by_a_statement_within_the_flush_that_writes_it_anew_is_refused(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Node(id=1, path="a"))
    place.follow()

    def replace(node: Node) -> None:
        run(node, delete(Node).where(Node.id == node.id))

    with place.sessions() as session, on(Node, "before_insert", replace):
        session.add(Node(id=1, path="b"))
        with pytest.raises(CaptureError, match="deleted the row within the flush"):
            session.commit()
    assert place.follow() == []


def test_a_row_made_by_the_flush_and_deleted_by_a_statement_in_it_is_nothing(place: Place) -> None:
    def drop(note: Note) -> None:
        run(note, delete(Note).where(Note.id == note.id).execution_options(synchronize_session=False))

    with on(Note, "after_insert", drop), place.sessions.begin() as session:
        session.add_all([Note(id=1), Node(id=1)])
    assert place.follow() == [("c", "node/1", [])]


def test_a_statement_on_a_row_that_the_flush_then_deletes(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Node(id=1, path="a"))
    place.follow()

    def sign(node: Node) -> None:
        run(node, update(Node).where(Node.id == node.id).values(path="deleted by ann"))

    with on(Node, "before_delete", sign), place.sessions.begin() as session:
        session.delete(session.get_one(Node, 1))
    assert place.follow() == [("d", "node/1", [])]


def test_a_statement_in_a_savepoint_within_the_flush(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Node(id=1, count=0))
    place.follow()

    def count(note: Note) -> None:
        session = object_session(note)
        assert session is not None
        with session.begin_nested():
            session.execute(update(Node).values(count=Node.count + 1))

    with on(Note, "before_insert", count), place.sessions.begin() as session:
        session.add(Note(id=1))
    assert sorted(place.follow()) == [("c", "note/1", []), ("u", "node/1", ["count"])]


def test_a_statement_of_a_flush_that_failed_in_a_savepoint_is_forgotten(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Node(id=1, count=0))
    place.follow()

    def count(note: Note) -> None:
        run(note, update(Node).values(count=9))
        raise RuntimeError("on purpose")

    with place.sessions.begin() as session:
        with on(Note, "after_insert", count), suppress(RuntimeError), session.begin_nested():
            session.add(Note(id=1))
        session.add(Note(id=2))
    assert place.follow() == [("c", "note/2", [])]


def test_a_statement_of_a_listener_after_the_flush(place: Place) -> None:
    @event.listens_for(place.sessions, "after_flush")
    def stamp(session: Session, _: Any) -> None:
        session.execute(update(Node).values(path="stamped"))

    with place.sessions.begin() as session:
        session.add(Node(id=1))
    event.remove(place.sessions, "after_flush", stamp)
    assert place.follow() == [("c", "node/1", [])]


def test_an_expression_set_within_the_flush_has_changed_its_column(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Node(id=1, path="a", count=1))
    place.follow()

    def rise(node: Node) -> None:
        node.count = Node.count + 1

    with on(Node, "before_update", rise):
        with place.sessions.begin() as session:
            session.get_one(Node, 1).path = "b"
        assert place.follow() == [("u", "node/1", ["path", "count"])]
        with place.sessions.begin() as session:
            node = session.get_one(Node, 1)
            node.path, node.path = "c", "b"
        assert place.follow() == [("u", "node/1", ["count"])], "there and back, but SQLAlchemy asks the mapper's events"


def test_a_column_that_was_expired_before_the_flush_is_no_change(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Node(id=1, path="a", count=1))
    place.follow()
    with place.sessions.begin() as session:
        node = session.get_one(Node, 1)
        session.expire(node, ["count"])
        node.path = "b"
    assert place.follow() == [("u", "node/1", ["path"])]


def test_nor_is_one_of_an_object_that_the_flush_itself_changes(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Shelf(id=1, books=[Book(id=1, title="a", pages=9)]))
    place.follow()
    with place.sessions.begin() as session:
        shelf = session.get_one(Shelf, 1)
        session.expire(shelf.books[0], ["title"])
        session.delete(shelf)  # which sets the book's foreign key to NULL
    assert sorted(place.follow()) == [("d", "shelf/1", []), ("u", "book/1", ["shelf_id"])]


def test_a_flush_of_some_objects_alone(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Node(id=1, path="a"))
    place.follow()
    with place.sessions() as session:
        node = session.get_one(Node, 1)
        node.path = "b"
        pending = Note(id=1)
        session.add(pending)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SADeprecationWarning)  # of SQLAlchemy 2.1
            session.flush([node])
        session.expunge(pending)
        session.commit()
    assert place.follow() == [("u", "node/1", ["path"])]


def test_what_a_listener_changes_after_the_last_flush_is_in_the_same_event(place: Place) -> None:
    @event.listens_for(place.sessions, "after_flush_postexec")
    def fill(session: Session, _: Any) -> None:
        for each in session.identity_map.values():
            if each.count is None:
                each.count = 7

    node = Node(id=1)
    with place.sessions.begin() as session:
        session.add(node)
    event.remove(place.sessions, "after_flush_postexec", fill)
    assert place.follow() == [("c", "node/1", [])]
    assert place.store["node", "1"]["count"] == 7


def test_an_object_of_the_base_class_with_anothers_discriminator_is_a_record_of_the_other(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Vehicle(id=1, kind="car"))
    assert place.follow() == [("c", "car/1", [])]
    with pytest.warns(SAWarning, match="incompatible polymorphic identity"), place.sessions.begin() as session:
        session.get_one(Vehicle, 1).kind = "vehicle"
    assert place.follow() == [("d", "car/1", []), ("c", "vehicle/1", [])]


def test_a_version_counter_updates_its_table_and_sets_off_what_that_table_does(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Ship(id=1, masts=2, turns=1))
    place.follow()
    with place.sessions.begin() as session:
        session.get_one(Ship, 1).masts = 3
    assert place.follow() == [("u", "ship/1", ["turns", "version", "masts"])]


def test_an_attribute_kept_in_two_tables_sets_off_what_both_do(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Cover(id=1, title="a", edits=1))
    place.follow()
    with place.sessions.begin() as session:
        session.get_one(Cover, 1).title = "b"
    ((op, subject, changed),) = place.follow()
    assert (op, subject, sorted(changed)) == ("u", "cover/1", ["edits", "title"])


def test_types_that_sql_rewrites_on_either_way(place: Place) -> None:
    with place.sessions.begin() as session:
        session.add(Word(id="a", shown="ABC"))
    assert place.follow() == [("c", "word/a", [])]
    assert place.store["word", '"a"'] == {"id": "a", "shown": "ABC"}


def test_a_foreign_key_to_a_table_that_is_not_there_is_no_concern_of_others(place: Place) -> None:
    lost = Table("lost", Base.metadata, Column("x", Integer, ForeignKey("nowhere.id", ondelete="CASCADE")))
    try:
        with place.sessions.begin() as session:
            session.add(Note(id=1))
        assert place.follow() == [("c", "note/1", [])]
    finally:
        Base.metadata.remove(lost)
