"""Statements are known by what they write to, whichever way it is named; what is not known is never passed over."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, delete, insert, text, update
from sqlalchemy.orm import (
    DeclarativeBase,
    Session,
    aliased,
    registry,
    relationship,
    sessionmaker,
)

from eventbus.errors import CaptureError, CaptureWarning
from tests.support.recording import Recording
from tests.support.world import World, proper_engine
from tests.support.zoo import Contact, Team, membership


class Library:
    """A base of its own, so that classes can be mapped to it at any time."""

    def __init__(self) -> None:
        self.Base: Any = type("Base", (DeclarativeBase,), {})
        self.metadata: MetaData = self.Base.metadata
        self.engine = proper_engine("sqlite://")
        self.maker = sessionmaker(self.engine)
        self.recording = Recording(self.maker)
        self.classes: list[Any] = []

    def map(self, table: Table, **attributes: Any) -> Any:
        self.classes.append(type(table.name.title(), (self.Base,), {"__table__": table, **attributes}))
        return self.classes[-1]

    def table(self, name: str, *columns: Column[Any]) -> Table:
        return Table(name, self.metadata, Column("id", Integer, primary_key=True), *columns)


@pytest.fixture
def library() -> Iterator[Library]:
    library = Library()
    yield library
    library.recording.uninstall()
    library.engine.dispose()


def test_a_table_that_a_registry_with_another_metadata_maps(library: Library) -> None:
    tome = library.table("tome", Column("title", String(20)))
    models, made = registry(), type("Tome", (), {})
    models.map_imperatively(made, tome)
    library.metadata.create_all(library.engine)
    with library.maker.begin() as session:
        session.execute(insert(tome).values(id=1))
    assert library.recording.short() == [("c", "tome/1")]


def test_a_table_whose_class_was_mapped_after_a_statement_on_it(library: Library) -> None:
    volume = library.table("volume", Column("title", String(20)))
    library.metadata.create_all(library.engine)
    with library.maker.begin() as session:
        session.execute(insert(volume).values(id=1))
    assert library.recording.short() == []
    library.map(volume)
    with library.maker.begin() as session:
        session.execute(update(volume).values(title="t"))
    assert library.recording.short() == [("u", "volume/1")]


def test_a_row_of_a_subclass_that_was_mapped_after_a_statement_on_the_class(library: Library) -> None:
    tome = library.table("tome", Column("kind", String(20)), Column("title", String(20)))
    library.metadata.create_all(library.engine)
    made = library.map(tome, __mapper_args__={"polymorphic_on": "kind", "polymorphic_identity": "tome"})
    with library.maker.begin() as session:
        session.execute(update(made).values(title="t"))
    atlas = type("Atlas", (made,), {"__mapper_args__": {"polymorphic_identity": "atlas"}})
    with library.maker.begin() as session:
        session.add(atlas(id=1))
        session.flush()
        session.execute(update(made).values(title="u"))
    with library.maker.begin() as session:
        session.execute(delete(made))
    assert library.recording.short() == [("c", "atlas/1"), ("d", "atlas/1")]


def test_links_of_a_class_that_was_mapped_after_the_first_commit(library: Library) -> None:
    tome = library.map(library.table("tome"))
    link = Table(
        "lending",
        library.metadata,
        Column("reader_id", ForeignKey("lender.id"), primary_key=True),
        Column("tome_id", ForeignKey("tome.id"), primary_key=True),
    )
    reader = library.table("lender")
    library.metadata.create_all(library.engine)
    with library.maker.begin() as session:
        session.add(tome(id=1))
        session.flush()
        session.execute(delete(link))
    library.map(reader, tomes=relationship(tome, secondary=link))
    library.recording.take()
    with library.maker.begin() as session:
        session.execute(insert(link).values(reader_id=1, tome_id=1))
    assert library.recording.short() == [("c", "lending/[1,1]")]


ALIASES: list[Any] = [
    update(Team.__table__.alias("t")).values(title="x"),  # type: ignore[attr-defined]
    update(aliased(Team)).values(title="x"),
    delete(membership.alias("m")),
]


@pytest.mark.parametrize("statement", ALIASES)
def test_a_statement_on_an_alias_is_refused(session: Session, statement: Any) -> None:
    session.add(Contact(id="a", teams=[Team(id=1, title="t")]))
    session.commit()
    with pytest.raises(CaptureError, match="by an alias"):
        session.execute(statement)


LOOKALIKES: list[Any] = [
    update(sa.table("team", sa.column("title"))).values(title="x"),
    delete(sa.table("membership")),
    insert(Table("team", MetaData(), Column("id", Integer), Column("title", String(20)))).values(id=5, title="x"),
]


@pytest.mark.parametrize("statement", LOOKALIKES)
def test_another_object_of_a_captured_tables_name_is_warned_of(statement: Any) -> None:
    for mode in ("capture", "warn", "raise", "ignore"):
        world = World("sqlite://", bulk=mode)
        with world.maker() as session:
            session.add(Contact(id="a"))
            session.commit()
            if mode == "raise":
                with pytest.raises(CaptureError, match="another object than the Table of"):
                    session.execute(statement)
            elif mode == "ignore":
                session.execute(statement)
            else:
                with pytest.warns(CaptureWarning, match="another object than the Table of"):
                    session.execute(statement)
        world.close()


def test_a_table_that_is_not_captured_is_nobodys_lookalike() -> None:
    world = World("sqlite://", exclude=[Team, membership])
    with world.maker() as session, warnings.catch_warnings(action="error"):
        session.add(Contact(id="a"))
        session.flush()
        session.execute(update(Team.__table__).values(title="x"))  # type: ignore[arg-type]
        session.execute(delete(sa.table("team")))
        session.execute(delete(membership))
        session.execute(delete(sa.table("membership")))
    world.close()


def test_a_table_of_that_name_whose_class_is_left_out_is_no_lookalike(library: Library) -> None:
    class Elsewhere(DeclarativeBase):
        pass

    ours, theirs = library.table("tome"), Table("tome", Elsewhere.metadata, Column("id", Integer, primary_key=True))
    library.map(ours)
    other: Any = type("Theirs", (Elsewhere,), {"__table__": theirs})
    library.metadata.create_all(library.engine)
    library.recording.uninstall()
    library.recording = Recording(library.maker, exclude=[other])
    with library.maker.begin() as session:
        session.execute(insert(ours).values(id=1))
        with pytest.warns(CaptureWarning, match="another object than the Table of Tome"):
            session.execute(delete(sa.table("tome")).where(sa.false()))
        session.execute(delete(theirs).where(sa.false()))
        session.execute(delete(other).where(sa.false()))
    assert library.recording.short() == [("c", "tome/1")]


@pytest.mark.parametrize(
    "sql",
    [
        "\n  WITH x AS (SELECT 1) UPDATE team SET title = 'x'",
        "/* why */ -- and\n with x as (select 1) delete from team",
        "\tINSERT INTO team VALUES (5, 'x')",
    ],
)
def test_text_that_writes_is_known_whatever_comes_before_its_first_word(session: Session, sql: str) -> None:
    with pytest.warns(CaptureWarning, match="SQL text that writes"):
        session.execute(text(sql))


def test_a_schema_for_one_statement_alone_is_refused(session: Session) -> None:
    elsewhere = {"schema_translate_map": {None: "main"}}
    with pytest.raises(CaptureError, match="schema_translate_map for one statement"):
        session.execute(insert(Team).values(title="x"), execution_options=elsewhere)
    session.rollback()
    session.connection(execution_options=elsewhere)
    session.execute(insert(Team).values(title="x"), execution_options=elsewhere)


def test_the_applications_own_bulk_methods_are_there_again_after_uninstalling() -> None:
    class Own(Session):
        def bulk_insert_mappings(self, *args: Any, **kwargs: Any) -> None:
            raise NotImplementedError

    own = Own.bulk_insert_mappings
    recording = Recording(Own)
    assert Own.bulk_insert_mappings is not own
    recording.uninstall()
    assert Own.bulk_insert_mappings is own
    assert "bulk_update_mappings" not in Own.__dict__
