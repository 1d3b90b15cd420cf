"""What is filled in before a flush, and what is left alone."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Date, DateTime, ForeignKey, String, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

from eventbus.errors import ConfigurationError
from eventbus.events.context import acting_as
from eventbus.listeners.auto_fields import AutoFieldNames, AutoFields, ShortIds
from tests.support.recording import Recording
from tests.support.world import proper_engine

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def at(hour: int) -> datetime:
    """That day, as a column without a zone has it."""
    return NOON.replace(hour=hour, tzinfo=None)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    text: Mapped[str | None]
    original_author: Mapped[str | None]
    last_author: Mapped[str | None]
    created_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime | None] = mapped_column(DateTime)
    folder_id: Mapped[str | None] = mapped_column(ForeignKey("folder.id"))
    folder: Mapped[Folder | None] = relationship(back_populates="notes")
    pages: Mapped[list[Page]] = relationship(back_populates="note")


class Folder(Base):
    __tablename__ = "folder"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    updated_by: Mapped[str | None]
    notes: Mapped[list[Note]] = relationship(back_populates="folder")


class Page(Base):
    """Its whole key is foreign keys: an association row."""

    __tablename__ = "page"

    note_id: Mapped[str] = mapped_column(ForeignKey("note.id"), primary_key=True)
    folder_id: Mapped[str] = mapped_column(ForeignKey("folder.id"), primary_key=True)
    created_by: Mapped[str | None]
    note: Mapped[Note] = relationship(back_populates="pages")


class Typed(Base):
    """Columns of other types."""

    __tablename__ = "typed"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    created_by: Mapped[int | None]
    updated_by: Mapped[uuid.UUID | None]
    created_at: Mapped[date | None] = mapped_column(Date)


class Own(Base):
    """Fills its fields by itself."""

    __tablename__ = "own"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=lambda: "own-id")
    value: Mapped[int | None]
    created_by: Mapped[str | None] = mapped_column(default="default")
    updated_by: Mapped[str | None] = mapped_column(onupdate="onupdate")
    created_at: Mapped[str | None] = mapped_column(server_default=text("'server'"))


class Code(Base):
    __tablename__ = "code"

    id: Mapped[str] = mapped_column(String(4), primary_key=True)
    owner: Mapped[str | None]


@dataclass
class Clock:
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Place:
    """A database with a Session of a given setting."""

    clock: Clock = field(default_factory=Clock)
    author: Callable[[], str | None] = lambda: "ann"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = proper_engine("sqlite://")
        Base.metadata.create_all(self.engine)
        self.maker = sessionmaker(self.engine)
        fields = AutoFields(author=self.author, now=self.clock, **self.options)
        self.recording = Recording(self.maker, auto_fields=fields)


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.recording.uninstall()
    place.engine.dispose()


@pytest.fixture
def session(place: Place) -> Iterator[Session]:
    with place.maker() as session:
        yield session


def saved(session: Session, record: Any) -> Any:
    session.add(record)
    session.commit()
    session.refresh(record)
    return record


def test_a_new_object_gets_id_authors_and_times(session: Session) -> None:
    note = saved(session, Note(text="t"))
    assert uuid.UUID(note.id).version == 7
    assert (note.original_author, note.last_author) == ("ann", "ann")
    assert note.created_at == NOON.replace(tzinfo=None)  # SQLite keeps no zone
    assert note.updated_at == NOON.replace(tzinfo=None)


def test_what_the_application_sets_wins(session: Session) -> None:
    then = NOON - timedelta(days=1)
    note = saved(session, Note(id="mine", original_author="me", last_author="me", created_at=then, updated_at=then))
    assert (note.id, note.original_author, note.last_author) == ("mine", "me", "me")
    assert note.updated_at == then.replace(tzinfo=None)
    note.last_author = None
    note.updated_at = then - timedelta(days=1)
    session.commit()
    assert (note.last_author, note.updated_at) == (None, (then - timedelta(days=1)).replace(tzinfo=None))


def test_none_on_a_new_object_is_not_set(session: Session) -> None:
    note = saved(session, Note(id=None, original_author=None, created_at=None))
    assert note.id
    assert note.original_author == "ann"


def test_a_changed_object_gets_its_last_author_and_time(place: Place, session: Session) -> None:
    note = saved(session, Note(text="t"))
    place.clock.now = NOON + timedelta(hours=1)
    with acting_as("bob"):
        note.text = "u"
        session.commit()
    assert (note.original_author, note.last_author) == ("ann", "ann")  # this place's author is fixed
    assert (note.created_at, note.updated_at) == (NOON.replace(tzinfo=None), at(13))


def test_an_object_without_a_real_change_gets_no_update(place: Place, session: Session) -> None:
    note = saved(session, Note(text="t", folder=Folder()))
    folder = note.folder
    place.clock.now = NOON + timedelta(hours=1)
    statements: list[str] = []
    event.listen(place.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    note.text = "u"
    note.text = "t"
    folder.notes.append(Note(text="another"))
    note.folder = folder
    session.commit()
    assert [each for each in statements if each.startswith("UPDATE")] == []


def test_another_parent_is_a_change_of_the_child(place: Place, session: Session) -> None:
    note = saved(session, Note(text="t", folder=Folder()))
    other = saved(session, Folder())
    place.clock.now = NOON + timedelta(hours=1)
    note.folder = other
    session.commit()
    assert note.updated_at == at(13)
    place.clock.now = NOON + timedelta(hours=2)
    note.folder = None
    session.commit()
    assert note.updated_at == at(14)
    place.clock.now = NOON + timedelta(hours=3)
    session.refresh(note)
    note.folder = None
    session.commit()
    assert note.updated_at == at(14)


def test_an_object_that_is_deleted_is_not_touched(place: Place, session: Session) -> None:
    note = saved(session, Note(text="t"))
    note.text = "u"
    session.delete(note)
    session.commit()
    assert [each.op for each in place.recording.take()] == ["c", "d"]


def test_association_rows_are_left_alone(session: Session) -> None:
    note, folder = saved(session, Note()), saved(session, Folder())
    page = saved(session, Page(note_id=note.id, folder_id=folder.id))
    assert page.created_by is None


def test_columns_with_defaults_of_their_own_are_left_alone(session: Session) -> None:
    own = saved(session, Own())
    assert (own.id, own.created_by, own.created_at) == ("own-id", "default", "server")
    own.value = 1
    session.commit()
    assert own.updated_by == "onupdate"


def test_other_types_of_columns() -> None:
    who = iter(["7", str(uuid.UUID(int=7))])
    place = Place(
        author=lambda: next(who),
        options={"names": AutoFieldNames(original_author=("created_by",), last_author=())},
    )
    with place.maker() as session:
        typed = saved(session, Typed())
        assert typed.id.version == 7
        assert (typed.created_by, typed.created_at) == (7, NOON.date())
    place.recording.uninstall()
    place = Place(author=lambda: str(uuid.UUID(int=7)), options={"names": AutoFieldNames(original_author=())})
    with place.maker() as session:
        assert saved(session, Typed()).updated_by == uuid.UUID(int=7)
    place.recording.uninstall()


def test_other_names_of_fields() -> None:
    place = Place(options={"names": AutoFieldNames(original_author=("owner",)), "new_id": ShortIds(4)})
    with place.maker() as session:
        assert saved(session, Code()).owner == "ann"
    place.recording.uninstall()


def test_without_an_author_nothing_is_stamped() -> None:
    place = Place(author=lambda: None)
    with place.maker() as session:
        note = saved(session, Note())
        assert (note.original_author, note.last_author) == (None, None)
        assert note.created_at is not None
    place.recording.uninstall()


def test_the_author_is_asked_once_a_flush_and_only_if_needed() -> None:
    asked = itertools.count()

    def author() -> str:
        next(asked)
        return "x"

    place = Place(author=author)
    with place.maker() as session:
        session.add_all([Note() for _ in range(5)])
        session.commit()
        assert next(asked) == 1
        session.add(Page(note_id="a", folder_id="b"))
        session.commit()
        assert next(asked) == 2
    place.recording.uninstall()


def test_an_id_too_long_for_its_column_says_what_to_do(session: Session) -> None:
    session.add(Code())
    with pytest.raises(ConfigurationError, match=r"code.id holds 4 characters.*ShortIds\(4\)"):
        session.commit()


class Few:
    """A generator that repeats itself."""

    may_collide = True

    def __init__(self) -> None:
        self._ids = itertools.cycle("aabbcdefgh")

    def __call__(self) -> str:
        return next(self._ids)


def test_short_ids_are_drawn_again_where_they_are_taken() -> None:
    place = Place(options={"new_id": Few()})
    with place.maker() as session:
        session.add(Code(id="a"))
        session.commit()
    with place.maker() as session:
        session.add_all([Code(id="c"), Code(), Code(), Code()])
        statements: list[str] = []
        event.listen(place.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        session.commit()
        ids = {code.id for code in session.query(Code)}
    assert len(ids) == 5
    assert sum(each.startswith("SELECT") for each in statements) <= 4
    place.recording.uninstall()


def test_short_ids_give_up_where_none_is_left() -> None:
    place = Place(options={"new_id": Few()})
    with place.maker() as session:
        session.add_all([Code() for _ in range(9)])
        with pytest.raises(ConfigurationError, match="20 times in a row"):
            session.commit()
    place.recording.uninstall()


def test_short_ids_are_of_their_length_and_alphabet() -> None:
    assert re.fullmatch("[2-9a-hj-kmnp-z]{12}", ShortIds(12)())
