"""Statements are known by what they write to, whichever way it is named; what is not known is never passed over."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, delete, insert, text, update
from sqlalchemy.ext.declarative import DeferredReflection
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    mapped_column,
    registry,
    relationship,
    sessionmaker,
)

from eventbus.errors import CaptureError, CaptureWarning, ConfigurationError, InstallError
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
    with library.maker.begin() as session, pytest.warns(CaptureWarning, match="no class is mapped to"):
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


def test_without_a_discriminator_rows_are_of_the_class_that_the_statement_names(library: Library) -> None:
    """As in Celery's result backend, whose extended results are a subclass on the same table."""
    task = library.map(library.table("task", Column("name", String(20)), Column("more", String(20))))
    extended = type("Extended", (task,), {})
    library.metadata.create_all(library.engine)
    with library.maker.begin() as session:
        session.add_all([extended(id=n) for n in range(3)])
        session.execute(insert(extended), [{"id": 3, "more": "m"}])
    with library.maker.begin() as session:
        session.execute(update(extended).where(extended.id == 0).values(more="m"))
        session.execute(update(extended), [{"id": 1, "more": "m"}])
        session.bulk_update_mappings(extended, [{"id": 3, "name": "n"}])
    with library.maker.begin() as session:
        session.query(extended).filter(extended.id == 2).delete()
    assert library.recording.short() == [
        *(("c", f"extended/{n}") for n in range(4)),
        ("u", "extended/0"), ("u", "extended/1"), ("u", "extended/3"), ("d", "extended/2"),
    ]  # fmt: skip


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
        with pytest.warns(CaptureWarning, match="no class is mapped to"):
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
def test_a_statement_on_an_alias_is_one_on_what_it_stands_for(world: World, session: Session, statement: Any) -> None:
    session.add(Contact(id="a", teams=[Team(id=1, title="t")]))
    session.commit()
    world.follow()
    session.execute(statement)
    session.commit()
    assert world.follow() == [("d", 'membership/["a",1]') if statement.is_delete else ("u", "team/1")]


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


def test_a_schema_for_one_statement_alone(world: World, session: Session) -> None:
    elsewhere: Any = {"schema_translate_map": {None: "main"}}
    session.execute(insert(Team).values(id=1, title="x"), execution_options=elsewhere)
    session.execute(update(Team).values(title="y"), execution_options=elsewhere)
    session.execute(update(Team), [{"id": 1, "title": "z"}] * 2, execution_options=elsewhere)
    session.commit()
    assert world.follow() == [("c", "team/1")]


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


def test_a_table_without_a_class_is_captured_where_include_names_it(library: Library) -> None:
    rates = Table("rates", library.metadata, Column("code", String(3), primary_key=True), Column("rate", Integer))
    library.metadata.create_all(library.engine)
    library.recording.uninstall()
    library.recording = Recording(library.maker, include=[rates])
    with library.maker.begin() as session, warnings.catch_warnings(action="error"):
        session.execute(insert(rates).values(code="EUR", rate=1))
        session.execute(insert(rates), [{"code": "USD", "rate": 1}, {"code": "CHF", "rate": 1}])
        session.execute(update(rates).where(rates.c.code != "EUR").values(rate=2))
        session.execute(delete(rates).where(rates.c.code == "CHF"))
    events = library.recording.take()
    assert [(event.op, event.subject, event.after) for event in events] == [
        ("c", "rates/EUR", {"code": "EUR", "rate": 1}),
        ("c", "rates/USD", {"code": "USD", "rate": 2}),
    ]


def test_a_table_without_a_class_is_told_of_once_unless_it_is_left_out(library: Library) -> None:
    rates = Table("rates", library.metadata, Column("code", String(3), primary_key=True), Column("rate", Integer))
    library.metadata.create_all(library.engine)
    statements = [insert(rates).values(code="EUR"), update(rates).values(rate=2), delete(sa.table("rates"))]
    told: dict[str, list[str]] = {}
    hows: list[dict[str, Any]] = [
        {},
        {"bulk": "ignore"},
        {"exclude": [rates]},
        {"exclude": ["rates"]},
        {"bulk": "raise"},
    ]
    for how in hows:
        library.recording.uninstall()
        library.recording = Recording(library.maker, **how)
        with library.maker() as session, warnings.catch_warnings(record=True, action="always") as seen:
            for statement in statements:
                try:
                    session.execute(statement)
                except CaptureError as error:
                    told.setdefault(str(how), []).append(str(error))
        told.setdefault(str(how), []).extend(str(each.message) for each in seen)
    assert [len(each) for each in told.values()] == [1, 0, 0, 0, 3]
    assert all("rates, a table that no class is mapped to" in each for texts in told.values() for each in texts)


def test_a_table_without_a_key_holds_no_records(library: Library) -> None:
    log = Table("log", library.metadata, Column("text", String(20)))
    library.metadata.create_all(library.engine)
    library.recording.uninstall()
    library.recording = Recording(library.maker, include=[log])
    with library.maker() as session, pytest.raises(ConfigurationError, match="table log has no primary key"):
        session.execute(insert(log).values(text="a"))


class Unfinished(DeclarativeBase):
    pass


class Plugin(Unfinished):
    __tablename__ = "plugin"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[Any] = relationship("NotImportedInThisProcess")


class Waiting(DeferredReflection, Unfinished):
    __tablename__ = "waiting"


def test_classes_of_another_base_that_are_not_finished_hurt_nobody(library: Library) -> None:
    tome = library.map(library.table("tome"))
    library.metadata.create_all(library.engine)
    with library.maker.begin() as session:
        session.add(tome(id=1))
        session.flush()
        session.execute(update(tome).values(id=2))
    assert library.recording.short() == [("c", "tome/2")]


def test_a_class_of_the_same_base_that_waits_for_its_table_hurts_nobody() -> None:
    class Reflected(DeclarativeBase):
        pass

    class Later(DeferredReflection, Reflected):
        __tablename__ = "later"

    class Tome(Reflected):
        __tablename__ = "tome"

        id: Mapped[int] = mapped_column(primary_key=True)

    engine = proper_engine("sqlite://", poolclass=sa.StaticPool)
    Reflected.metadata.create_all(engine, [Tome.__table__])  # type: ignore[list-item]
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE later (id INTEGER PRIMARY KEY)")
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker.begin() as session:
        session.add(Tome(id=1))
        session.flush()  # SQLAlchemy 2.0 does not before a statement on a Table
        session.execute(update(Tome.__table__).values(id=2))  # type: ignore[arg-type]
    Later.prepare(engine)
    with maker.begin() as session:
        session.add(Later(id=1))
    assert recording.short() == [("c", "tome/2"), ("c", "later/1")]
    recording.uninstall()
    engine.dispose()


def test_a_statement_on_a_table_whose_class_is_not_finished_runs_with_a_warning(library: Library) -> None:
    Unfinished.metadata.create_all(library.engine, [Plugin.__table__])  # type: ignore[list-item]
    with library.maker.begin() as session, pytest.warns(CaptureWarning, match="cannot be used yet"):
        session.execute(insert(Plugin.__table__).values(id=1))  # type: ignore[arg-type]
    assert not Plugin.__mapper__._configure_failed, "its author may finish it yet"
    with library.engine.connect() as connection:
        assert connection.scalar(sa.select(Plugin.__table__.c.id)) == 1


def test_same_names_in_another_base_hurt_only_those_who_use_them(library: Library) -> None:
    class Elsewhere(DeclarativeBase):
        pass

    ours = library.map(library.table("tome"))
    tables = [Table(name, Elsewhere.metadata, Column("id", Integer, primary_key=True)) for name in ("tome2", "note")]
    namesake: Any = type(ours.__name__, (Elsewhere,), {"__table__": tables[0]})
    note: Any = type("Note", (Elsewhere,), {"__table__": tables[1]})
    library.metadata.create_all(library.engine)
    Elsewhere.metadata.create_all(library.engine)
    with library.maker.begin() as session:
        session.add(ours(id=1))
    with library.maker.begin() as session:
        session.add(note(id=1))
    assert library.recording.short() == [("c", "tome/1"), ("c", "note/1")]
    with library.maker() as session:
        session.add(namesake(id=1))
        with pytest.raises(InstallError, match="would both be the entity"):
            session.flush()
