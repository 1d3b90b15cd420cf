"""What the database does by itself is warned of, once a kind; what SQLAlchemy does instead is captured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, StaticPool, String, UniqueConstraint
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    orm_insert_sentinel,
    relationship,
    sessionmaker,
)

from eventbus.errors import CaptureWarning
from tests.support.recording import Recording, Store, replay
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Project(Base):
    __tablename__ = "project"

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str | None] = mapped_column(String(9), unique=True)
    name: Mapped[str | None]
    releases: Mapped[list[Release]] = relationship(cascade="all, delete-orphan", foreign_keys="Release.project_id")


class Release(Base):
    __tablename__ = "release"

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int | None] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    project_code: Mapped[str | None] = mapped_column(
        ForeignKey("project.code", onupdate="CASCADE", ondelete="SET NULL")
    )


class Node(Base):
    __tablename__ = "node"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("node.id", ondelete="CASCADE"))


class Model(Base):
    __tablename__ = "model"

    name: Mapped[str] = mapped_column(primary_key=True)
    versions: Mapped[list[Version]] = relationship(cascade="all", passive_updates=False)


class Version(Base):
    __tablename__ = "version"

    name: Mapped[str] = mapped_column(ForeignKey("model.name", onupdate="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Person(Base):
    __tablename__ = "person"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="person")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Engineer(Person):
    __tablename__ = "engineer"

    id: Mapped[int] = mapped_column(ForeignKey("person.id", ondelete="CASCADE", onupdate="CASCADE"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012


class Badge(Base):
    __tablename__ = "badge"

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id", ondelete="SET DEFAULT"))


class Slot(Base):
    __tablename__ = "slot"
    __table_args__ = (UniqueConstraint("place", sqlite_on_conflict="REPLACE"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[int]


class Mark(Base):
    __tablename__ = "mark"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True, sqlite_on_conflict_unique="IGNORE")


class Line(Base):
    __tablename__ = "line"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    _sentinel: Mapped[int] = orm_insert_sentinel()


@pytest.fixture
def maker() -> Iterator[sessionmaker[Session]]:
    engine = proper_engine("sqlite://", poolclass=StaticPool)
    sa.event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = ON"))
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    with maker.begin() as session:
        session.add(Project(id=1, code="a", releases=[Release(id=1, project_code="a"), Release(id=2)]))
        session.add_all([Project(id=2, code="b"), Node(id=1), Model(name="old", versions=[Version(number=1)])])
        session.add_all([Person(id=1), Engineer(id=2)])
        session.flush()
        session.add_all([Node(id=2, parent_id=1), Badge(id=1, person_id=1)])
    yield maker
    engine.dispose()


def told(maker: Any, *works: Callable[[Session], Any]) -> list[list[str]]:
    """The warnings of each work, in a transaction of its own of one installation."""
    recording = Recording(maker)
    found = []
    for work in works:
        with warnings.catch_warnings(record=True, action="always") as seen, maker.begin() as session:
            work(session)
            session.flush()
        found.append([str(each.message) for each in seen if issubclass(each.category, CaptureWarning)])
    recording.uninstall()
    return found


STATEMENTS: dict[str, Callable[[Session], Any]] = {
    "delete(class)": lambda session: session.execute(sa.delete(Project).where(Project.id == 1)),
    "delete(table)": lambda session: session.execute(Project.__table__.delete()),  # type: ignore[attr-defined]
    "Query.delete": lambda session: session.query(Project).filter_by(id=2).delete(),
}


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_a_delete_statement_goes_round_relationships(maker: Any, statement: Any) -> None:
    first, second = told(maker, statement, statement)
    assert len(first) == 1
    assert "release.project_id references it ON DELETE CASCADE" in first[0]
    assert "release.project_code references it ON DELETE SET NULL" in first[0]
    assert second == []


def test_objects_whose_relationships_do_the_work_need_no_warning(maker: Any) -> None:
    (found,) = told(maker, lambda session: session.delete(session.get_one(Project, 2)))
    assert len(found) == 1
    assert "project_id" not in found[0], "SQLAlchemy deletes by this one itself"
    assert "release.project_code references it ON DELETE SET NULL" in found[0]


def test_a_reference_to_the_own_table_is_one_too(maker: Any) -> None:
    by_object, by_statement = told(
        maker,
        lambda session: session.delete(session.get_one(Node, 2)),
        lambda session: session.execute(sa.delete(Node)),
    )
    assert all("node.parent_id references it ON DELETE CASCADE" in text for text in (*by_object, *by_statement))
    assert len(by_object) == len(by_statement) == 1


def test_parts_of_one_record_are_no_cascade(maker: Any) -> None:
    gone, others, by_statement = told(
        maker,
        lambda session: session.delete(session.get_one(Engineer, 2)),
        lambda session: session.execute(sa.delete(Badge)),
        lambda session: session.execute(sa.delete(Person)),
    )
    assert "badge.person_id references it ON DELETE SET DEFAULT" in gone[0]
    assert "engineer" not in gone[0].partition(":")[2]
    assert others == []
    assert "badge.person_id references it ON DELETE SET DEFAULT" in by_statement[0]
    assert "engineer" not in by_statement[0].partition(":")[2]


MOVES: dict[str, Callable[[Session], Any]] = {
    "an object": lambda session: setattr(session.get_one(Project, 1), "code", "c"),
    "update(class)": lambda session: session.execute(sa.update(Project).where(Project.id == 1).values(code="c")),
    "update(table)": lambda session: session.execute(
        sa.update(Project.__table__).where(Project.id == 1),
        {"code": "c"},  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_what_others_refer_to_is_changed(maker: Any, move: Any) -> None:
    unrelated = sa.update(Project).where(Project.id == 1).values(name="n")
    nothing, first, second = told(maker, lambda session: session.execute(unrelated), move, move)
    assert nothing == second == []
    assert len(first) == 1
    assert "release.project_code references it ON UPDATE CASCADE" in first[0]


def test_keys_that_sqlalchemy_moves_itself_need_no_warning(maker: Any) -> None:
    # The table lets the database do it, the relationship does it itself: together they fail.
    maker.kw["bind"].raw_connection().execute("PRAGMA foreign_keys = OFF")
    recording = Recording(maker)
    store: Store = {}
    with maker.begin() as session, warnings.catch_warnings(action="error"):
        session.add(Model(name="a", versions=[Version(number=1), Version(number=2)]))
    replay(recording.take(), store)
    with maker.begin() as session, warnings.catch_warnings(action="error"):
        session.get_one(Model, "a").name = "b"
    replay(recording.take(), store)
    assert {key for entity, key in store if entity == "version"} == {'["b", 1]', '["b", 2]'}
    recording.uninstall()


@pytest.mark.parametrize(("model", "values", "how"), [(Slot, {"place": 1}, "REPLACE"), (Mark, {"text": "a"}, "IGNORE")])
def test_constraints_that_resolve_conflicts_without_a_word_are_told_of(
    maker: Any, model: Any, values: dict[str, Any], how: str
) -> None:
    first, second = told(
        maker, lambda session: session.add(model(id=1, **values)), lambda session: session.add(model(id=2, **values))
    )
    assert [f"ON CONFLICT {how}" in text for text in first] == [True]
    assert second == []


def test_rows_that_an_update_replaces_are_told_of(maker: Any) -> None:
    replacing = sa.update(Slot).values(place=1).prefix_with("OR REPLACE")
    first, second = told(maker, lambda session: session.execute(replacing), lambda session: session.execute(replacing))
    assert [text for text in first if "UPDATE OR REPLACE of Slot: rows that it replaces are not captured" in text]
    assert second == []


def test_a_sentinel_column_is_no_part_of_a_record(maker: Any) -> None:
    recording = Recording(maker)
    with maker.begin() as session:
        session.add_all([Line(id=1, text="a"), Line(id=2, text="b")])
    with maker.begin() as session:
        session.execute(sa.insert(Line), [{"id": 3, "text": "c"}])
        assert [event.after for event in recording.take()] == [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]
    assert [event.after for event in recording.take()] == [{"id": 3, "text": "c"}]
    recording.uninstall()
