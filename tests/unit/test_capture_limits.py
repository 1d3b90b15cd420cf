"""Where capture ends: what cannot be published or seen is decided before the commit, or warned of, never silent."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from marshmallow import Schema, fields
from sqlalchemy import Column, ForeignKey, Integer, String, Table, event, func, select, text
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    foreign,
    load_only,
    mapped_column,
    relationship,
    sessionmaker,
)

from eventbus.errors import CaptureWarning, EventTooLarge, SerializationError
from tests.support.recording import Recording, Store, replay, tables
from tests.support.world import World, proper_engine
from tests.support.zoo import Contact, Document, Team


class Base(DeclarativeBase):
    pass


class Shelf(Base):
    __tablename__ = "shelf"

    id: Mapped[int] = mapped_column(primary_key=True)
    weight: Mapped[float | None]
    books: Mapped[list[Book]] = relationship(cascade="all, delete", passive_deletes=True)


class Book(Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(String(100))
    shelf_id: Mapped[int | None] = mapped_column(ForeignKey("shelf.id", ondelete="CASCADE", onupdate="CASCADE"))


class Lowered(String):
    def bind_expression(self, bindvalue: Any) -> Any:
        return func.lower(bindvalue)


class Tag(Base):
    __tablename__ = "tag"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None] = mapped_column(Lowered(20))


class Loan(Base):
    __tablename__ = "loan"

    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int | None] = mapped_column(ForeignKey("book.id", ondelete="SET NULL"))


class Library:
    def __init__(self, **options: Any) -> None:
        self.engine = proper_engine("sqlite://")

        @event.listens_for(self.engine, "connect")
        def foreign_keys(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA foreign_keys=ON")

        Base.metadata.create_all(self.engine)
        self.maker = sessionmaker(self.engine)
        self.recording = Recording(self.maker, **options)


@pytest.fixture
def library() -> Iterator[Library]:
    library = Library()
    yield library
    library.recording.uninstall()
    library.engine.dispose()


@pytest.fixture
def session(library: Library) -> Iterator[Session]:
    with library.maker() as session:
        yield session


def test_deletions_by_the_database_are_warned_of_once(session: Session) -> None:
    for number in (1, 2):
        session.add(Shelf(id=number, books=[Book(id=number)]))
    session.commit()
    session.delete(session.get_one(Shelf, 1))
    with pytest.warns(CaptureWarning, match="relationship Shelf.books has passive_deletes"):
        session.commit()
    session.delete(session.get_one(Shelf, 2))
    session.commit()


def test_foreign_keys_that_no_relationship_serves_are_warned_of_too(session: Session) -> None:
    book = Book(id=1)
    session.add(book)
    session.commit()
    session.delete(book)
    with pytest.warns(CaptureWarning, match="loan.book_id references it ON DELETE SET NULL"):
        session.commit()


def test_a_row_that_went_away_unseen_is_published_as_deleted(library: Library, session: Session) -> None:
    shelf = Shelf(id=1, weight=1)
    session.add(shelf)
    session.commit()
    library.recording.take()
    shelf.weight = Shelf.weight + 1
    session.flush()
    session.connection().execute(text("DELETE FROM shelf"))
    with pytest.warns(CaptureWarning, match="gone before the commit"):
        session.commit()
    assert library.recording.short() == [("d", "shelf/1")]


def test_what_a_type_has_sql_make_of_a_value_is_read_at_the_commit(library: Library) -> None:
    store: Store = {}

    def follow() -> list[Any]:
        events = library.recording.take()
        assert replay(events, store) == tables(library.recording, library.engine)
        return [(event.op, event.before, event.after and event.after["text"]) for event in events]

    with library.maker(expire_on_commit=False) as session:
        session.add(Tag(id=1, text="A"))
        session.commit()
        assert follow() == [("c", None, "a")]
        session.get_one(Tag, 1).text = "B"
        session.commit()
        assert follow() == [("u", {}, "b")]
        session.delete(session.get_one(Tag, 1))
        session.add(Tag(id=1, text="C"))
        session.commit()
        assert follow() == [("u", {}, "c")]
        session.delete(session.get_one(Tag, 1))
        session.commit()
        assert follow() == [("d", {"id": 1}, None)]


def test_what_json_cannot_hold_fails_the_commit_with_record_and_field(session: Session) -> None:
    session.add(Shelf(id=1, weight=float("inf")))
    with pytest.raises(SerializationError, match=r"shelf/1.*weight") as caught:
        session.commit()
    assert (caught.value.record, caught.value.field) == ("shelf/1", "weight")
    session.rollback()
    assert session.get(Shelf, 1) is None


def test_what_the_database_made_fit_is_told_as_it_is(library: Library, session: Session) -> None:
    session.add(Shelf(id=1, weight=float("nan")))
    session.commit()
    (told,) = library.recording.take()
    assert told.after == {"id": 1, "weight": None}, "SQLite holds no NaN: the row has NULL"


def test_or_goes_out_as_a_stub(library: Library) -> None:
    library.recording.uninstall()
    library = Library(policy="stub")
    with library.maker() as session:
        session.add_all([Shelf(id=1, weight=float("inf")), Shelf(id=2, weight=1.0)])
        session.commit()
    stub, event_ = library.recording.take()
    assert (stub.op, stub.pk, stub.after) == ("c", 1, {"id": 1})
    assert event_.after == {"id": 2, "weight": 1.0}
    library.recording.uninstall()


def test_an_event_too_large_fails_the_commit_or_goes_out_as_a_stub() -> None:
    library = Library(max_bytes=1024)
    with library.maker() as session:
        session.add(Book(id=1, title="x" * 1000))
        with pytest.raises(EventTooLarge, match="EVENTBUS_MAX_EVENT_BYTES is 1024"):
            session.commit()
    library.recording.uninstall()
    library = Library(max_bytes=1024, policy="stub")
    with library.maker() as session:
        session.add(Book(id=1, title="x" * 1000))
        session.commit()
    (stub,) = library.recording.take()
    assert stub.after == {"id": 1}
    library.recording.uninstall()


def test_excluded_classes_are_not_captured_their_links_are() -> None:
    world = World("sqlite://", exclude=[Contact])
    with world.maker() as session:
        session.add(Contact(id="a", teams=[Team(id=1, title="t")]))
        session.commit()
    assert sorted(world.recording.short()) == [("c", 'membership/["a",1]'), ("c", "team/1")]
    world.close()


def test_included_classes_alone_are_captured() -> None:
    world = World("sqlite://", include=[Team])
    with world.maker() as session:
        session.add(Contact(id="a", teams=[Team(id=1, title="t")]))
        session.commit()
    assert world.recording.short() == [("c", "team/1")]
    world.close()


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_names_of_nothing_are_told_of_once(option: str, caplog: pytest.LogCaptureFixture) -> None:
    """A model goes by its entity's name, not its table's; a link table by its own."""
    world = World("sqlite://", **{option: ["team", "membership", "contacts", "conatct", Contact]})
    for number in (1, 2):
        with world.maker() as session:
            session.add(Team(id=number, title="t"))
            session.commit()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(":")[0] for text in told] == [
        f"install({option}=['conatct'])",
        f"install({option}=['contacts'])",
    ]
    assert "contact, " in told[0]
    world.close()


def test_a_secondary_table_with_an_id_of_its_own_is_known_by_what_it_links() -> None:
    class Apart(DeclarativeBase):
        pass

    link = Table(
        "link",
        Apart.metadata,
        Column("id", Integer, primary_key=True),
        Column("left_id", ForeignKey("side.id")),
        Column("right_id", ForeignKey("side.id")),
    )

    class Side(Apart):
        __tablename__ = "side"
        id: Mapped[int] = mapped_column(primary_key=True)
        others: Mapped[list[Side]] = relationship(
            secondary=link,
            primaryjoin=lambda: Side.id == link.c.left_id,
            secondaryjoin=lambda: Side.id == link.c.right_id,
        )

    engine = proper_engine("sqlite://")
    Apart.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        one = Side(id=1, others=[Side(id=2)])
        session.add(one)
        session.commit()
        events = recording.take()
        assert ("c", "link/[1,2]") in [(each.op, each.subject) for each in events]
        store = replay(events, {})
        assert store == tables(recording, engine)
        one.others.clear()
        session.commit()
    assert recording.short() == [("d", "link/[1,2]")]
    recording.uninstall()
    engine.dispose()


@pytest.mark.parametrize("references", [(True, True), (True, False), (False, False)])
def test_a_secondary_table_without_keys_is_known_by_what_it_links(references: tuple[bool, bool]) -> None:
    class Own(DeclarativeBase):
        pass

    names = zip(("post.id", "tag.id"), references, strict=True)
    keys = [[ForeignKey(name)] if refers else [] for name, refers in names]
    links = Table("links", Own.metadata, Column("post_id", Integer, *keys[0]), Column("tag_id", Integer, *keys[1]))

    class Tag(Own):
        __tablename__ = "tag"

        id: Mapped[int] = mapped_column(primary_key=True)

    class Post(Own):
        __tablename__ = "post"

        id: Mapped[int] = mapped_column(primary_key=True)
        tags: Mapped[list[Tag]] = relationship(
            Tag,
            secondary=links,
            primaryjoin=lambda: Post.id == foreign(links.c.post_id),
            secondaryjoin=lambda: Tag.id == foreign(links.c.tag_id),
        )

    engine = proper_engine("sqlite://")
    Own.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    store: Store = {}
    with maker() as session:
        post = Post(id=1, tags=[Tag(id=1), Tag(id=2), Tag(id=3)])
        session.add(post)
        session.commit()
        post.tags.pop()
        session.commit()
        session.execute(links.insert().values(post_id=1, tag_id=3))
        session.execute(links.delete().where(links.c.tag_id == 1))
        session.commit()
    assert replay(recording.take(), store) == tables(recording, engine)
    assert {key for entity, key in store if entity == "links"} == {"[1, 2]", "[1, 3]"}
    recording.uninstall()
    engine.dispose()


@pytest.mark.filterwarnings("ignore:Object of type <Book> not in session:sqlalchemy.exc.SAWarning")
def test_links_that_one_side_knows_are_told_of_as_far_as_they_are_written() -> None:
    class Base(DeclarativeBase):
        pass

    lending = Table(
        "lending",
        Base.metadata,
        Column("reader_id", ForeignKey("reader.id"), primary_key=True),
        Column("book_id", ForeignKey("book.id"), primary_key=True),
    )

    class Reader(Base):
        __tablename__ = "reader"

        id: Mapped[int] = mapped_column(primary_key=True)
        books: Mapped[list[Any]] = relationship("Book", secondary=lending, cascade="")

    class Book(Base):
        __tablename__ = "book"

        id: Mapped[int] = mapped_column(primary_key=True)

    engine = proper_engine("sqlite://")
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine, expire_on_commit=False)
    recording = Recording(maker)
    with maker() as session:
        one, two = Book(id=1), Book(id=2)
        reader = Reader(id=1, books=[one, two, Book(id=3)])
        session.add_all([reader, one, two])
        session.commit()
        links = [event for event in recording.short() if event[1].startswith("lending")]
        assert links == [("c", "lending/[1,1]"), ("c", "lending/[1,2]")]
        reader.books.remove(one)
        session.delete(reader)
        session.commit()
        assert sorted(recording.short()) == [("d", "lending/[1,1]"), ("d", "lending/[1,2]"), ("d", "reader/1")]
    recording.uninstall()
    engine.dispose()


def test_a_mapped_secondary_with_a_key_of_its_own_is_warned_of_and_captured_as_objects_alone() -> None:
    class Base(DeclarativeBase):
        pass

    class Seat(Base):
        __tablename__ = "seat"

        id: Mapped[int] = mapped_column(primary_key=True)
        guest_id: Mapped[int | None] = mapped_column(ForeignKey("guest.id"))
        dinner_id: Mapped[int] = mapped_column(ForeignKey("dinner.id"))

    class Guest(Base):
        __tablename__ = "guest"

        id: Mapped[int] = mapped_column(primary_key=True)
        dinners: Mapped[list[Any]] = relationship("Dinner", secondary="seat")
        seen: Mapped[list[Any]] = relationship("Dinner", secondary="seat", viewonly=True)

    class Dinner(Base):
        __tablename__ = "dinner"

        id: Mapped[int] = mapped_column(primary_key=True)

    engine = proper_engine("sqlite://")
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        session.add(Guest(id=1, dinners=[Dinner(id=1), Dinner(id=2)]))
        with pytest.warns(CaptureWarning) as warned:
            session.commit()
        assert sorted(recording.short()) == [("c", "dinner/1"), ("c", "dinner/2"), ("c", "guest/1")]
        assert [str(each.message).split(" has ")[0] for each in warned] == ["Guest.dinners"]
        session.add_all([Dinner(id=3), Seat(id=7, guest_id=1, dinner_id=3)])
        session.commit()
        assert sorted(recording.short()) == [("c", "dinner/3"), ("c", "seat/7")]
        session.get_one(Guest, 1).dinners = []
        with warnings.catch_warnings(action="error"):
            session.commit()
        assert recording.short() == []
    recording.uninstall()
    engine.dispose()


def test_classes_that_share_a_table_or_have_none_are_warned_of() -> None:
    class Base(DeclarativeBase):
        pass

    table = Table("shared", Base.metadata, Column("id", Integer, primary_key=True), Column("name", String(20)))
    other = Table("other", Base.metadata, Column("shared_id", ForeignKey("shared.id"), primary_key=True))

    class One(Base):
        __table__ = table

    class Two(Base):
        __table__ = table

    class Both(Base):
        __table__ = table.join(other)
        id = column_property(table.c.id, other.c.shared_id)

    engine = proper_engine("sqlite://")
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        session.add(Both(id=1))
        with pytest.warns(CaptureWarning) as warned:
            session.commit()
    assert [str(each.message).partition(":")[0].replace(f"{__name__}.", "") for each in warned] == [
        f"{One.__qualname__} and {Two.__qualname__} are mapped to the same table",
        "Both is mapped to a join or subquery",
    ]
    assert recording.events == []
    recording.uninstall()
    silent = Recording(maker, exclude=[Two, Both])
    with maker() as session, warnings.catch_warnings(action="error"):
        session.add_all([Both(id=2), One(id=3)])
        session.commit()
    assert silent.short() == [("c", "one/3")]
    silent.uninstall()
    engine.dispose()


def test_what_a_schema_computes_from_other_columns_is_read_for_it(library: Library) -> None:
    class BookSchema(Schema):
        id = fields.Integer()
        label = fields.Method("make_label")

        def make_label(self, book: Book) -> str:
            return f"{book.title} on {book.shelf_id}"

    library.recording.uninstall()
    recording = Recording(library.maker, schemas={Book: BookSchema})
    with library.maker() as session:
        session.add_all([Shelf(id=1), Book(id=1, title="t", shelf_id=1)])
        session.commit()
        session.expunge_all()
        book = session.scalars(select(Book).options(load_only(Book.shelf_id))).one()
        recording.take()
        book.shelf_id = None
        session.commit()
    (event_,) = recording.take()
    assert event_.after == {"id": 1, "label": "t on None"}
    recording.uninstall()


def test_a_key_set_to_an_expression_is_told_of_where_the_database_returns_it() -> None:
    world = World("sqlite://")
    with world.maker() as session:
        document = Document(code="a", title="t")
        session.add(document)
        session.commit()
        world.follow()
        document.code = func.upper("b")
        session.commit()
    assert sorted(world.follow()) == [("c", "document/B"), ("d", "document/a")]
    world.close()
