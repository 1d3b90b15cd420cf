"""Statements and bulk methods are changes like others, one a row. Every test ends with store == tables."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from sqlalchemy import Insert, bindparam, case, delete, event, func, insert, lambda_stmt, literal, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from eventbus.errors import CaptureError, CaptureWarning, ConfigurationError
from tests.support.recording import Recording
from tests.support.world import World, proper_engine
from tests.support.zoo import (
    Boat,
    Car,
    Contact,
    Counter,
    Document,
    Engineer,
    Order,
    OrderLine,
    Paper,
    Person,
    Team,
    Truck,
    Vehicle,
    membership,
)

VEHICLES: Any = Vehicle.__table__
UPSERTS: dict[str, Callable[..., Any]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
    "mysql": mysql.insert,
}


def have(world: World, session: Session, *objects: Any) -> None:
    """These rows are there, and known to the store."""
    session.add_all(objects)
    session.commit()
    world.follow()
    session.expunge_all()


def test_an_update_tells_old_and_new_values_of_the_rows_it_changed(world: World, session: Session) -> None:
    have(world, session, Team(id=1, title="a"), Team(id=2, title="b"), Team(id=3, title="c"))
    session.execute(update(Team).where(Team.id < 3).values(title=func.upper("b")))
    session.execute(update(Team).where(Team.id == 2).values(title="b"))
    session.commit()
    (updated,) = world.recording.events
    assert (updated.pk, updated.before, updated.changed) == (1, {"title": "a"}, ["title"])
    assert world.follow() == [("u", "team/1")]


def test_an_update_of_an_object_that_is_loaded_and_changed_too(world: World, session: Session) -> None:
    have(world, session, Contact(id="a", name="one", phone="1"))
    contact = session.get_one(Contact, "a")
    contact.name = "two"
    session.execute(update(Contact).values(phone="2"))
    contact.street = "s"
    session.commit()
    (updated,) = world.recording.events
    assert updated.before == {"name": "one", "phone": "1", "street": None, "stamp": None}
    assert world.follow() == [("u", "contact/a")]


BEHIND_ITS_BACK: list[Callable[[Session], Any]] = [
    lambda session: session.execute(update(Contact.__table__).values(phone="2")),  # type: ignore[arg-type]
    lambda session: session.execute(
        update(Contact).values(phone="2"), execution_options={"synchronize_session": False}
    ),
    lambda session: session.bulk_update_mappings(Contact, [{"id": "a", "phone": "2"}]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("statement", BEHIND_ITS_BACK)
@pytest.mark.parametrize("when", ["before", "between", "in a savepoint", "new"])
def test_an_object_that_does_not_know_of_a_statement_hides_nothing_of_it(
    world: World, session: Session, statement: Callable[[Session], Any], when: str
) -> None:
    contact = Contact(id="a", name="one", phone="1")
    session.add(contact)
    if when != "new":
        session.commit()
        world.follow()
    session.flush()
    session.refresh(contact)
    if when == "between":
        contact.name = "two"
        session.flush()
    with session.begin_nested() if when == "in a savepoint" else nullcontext():
        statement(session)
    contact.street = "s"
    assert contact.phone == "1"
    session.commit()
    after = world.recording.events[-1].after
    assert after is not None
    assert (after["phone"], after["street"]) == ("2", "s")
    assert world.follow() == [("c" if when == "new" else "u", "contact/a")]


def test_a_statement_made_of_a_lambda(world: World, session: Session) -> None:
    have(world, session, Paper(id=1, title="a"), Paper(id=2, title="b"))
    title = "by a lambda"
    session.execute(lambda_stmt(lambda: update(Paper).where(Paper.id == 1).values(title=title)))
    session.execute(lambda_stmt(lambda: delete(Paper)) + (lambda each: each.where(Paper.id == 2)))
    session.commit()
    assert world.follow() == [("u", "paper/1"), ("d", "paper/2")]


def test_upserts_whose_parameters_have_names_of_their_own(world: World, session: Session) -> None:
    have(world, session, Paper(id=1, title="a"))
    statement = UPSERTS[session.get_bind().dialect.name](Paper)
    statement = statement.values(id=bindparam("number"), title=bindparam("given"))
    if isinstance(statement, mysql.Insert):
        statement = statement.on_duplicate_key_update(title=statement.inserted.title)
    else:
        statement = statement.on_conflict_do_update(index_elements=["id"], set_={"title": statement.excluded.title})
    session.execute(statement, [{"number": 1, "given": "x"}, {"number": 2, "given": "y"}])
    session.execute(statement, {"number": 2, "given": "z"})
    session.commit()
    assert world.follow() == [("u", "paper/1"), ("c", "paper/2")]


def test_values_given_beside_the_statement(world: World, session: Session) -> None:
    have(world, session, *[Paper(id=number, title="t") for number in (1, 2, 3)])
    session.execute(update(Paper), [{"id": 1, "title": "by key"}, {"id": 2, "title": "t"}])
    table: Any = Paper.__table__
    chosen = update(table).where(table.c.id == bindparam("chosen")).values(title=bindparam("given"))
    session.execute(chosen, [{"chosen": 2, "given": "core"}, {"chosen": 9, "given": "nobody"}])
    session.commit()
    assert world.follow() == [("u", "paper/1"), ("u", "paper/2")]


def test_a_deletion_tells_what_was_there(world: World, session: Session) -> None:
    have(world, session, Team(id=1, title="a"), Team(id=2, title="b"))
    session.query(Team).filter(Team.title == "b").delete()
    session.commit()
    (deleted,) = world.recording.events
    assert (deleted.pk, deleted.before) == (2, {"id": 2, "title": "b"})
    assert world.follow() == [("d", "team/2")]


def test_inserts_of_one_of_many_and_from_other_rows(world: World, session: Session) -> None:
    session.execute(insert(Team).values(title="one"))
    session.execute(insert(Counter), [{"double": 1}, {"double": 2}])
    assert session.scalars(insert(Team).returning(Team.title), [{"title": "x"}, {"title": "y"}]).all() == ["x", "y"]
    session.execute(insert(Boat).from_select(["name"], select(Team.title).where(Team.title != "x")))
    session.commit()
    assert [op for op, _ in world.follow()] == ["c"] * 7


def test_a_changed_key_is_a_deletion_and_a_creation(world: World, session: Session) -> None:
    have(world, session, Document(code="a", title="t"))
    session.execute(update(Document).values(code="b"))
    session.commit()
    assert world.follow() == [("d", "document/a"), ("c", "document/b")]
    computed = update(Document).values(code=func.upper(Document.code))
    if session.get_bind().dialect.update_returning:
        session.execute(computed)
        session.commit()
        assert world.follow() == [("d", "document/b"), ("c", "document/B")]
    else:
        with pytest.raises(CaptureError, match="compute new primary keys"):
            session.execute(computed)


def test_a_key_changed_after_a_statement_takes_along_what_the_row_holds(world: World, session: Session) -> None:
    have(world, session, Document(code="a", title="old"))
    document = session.get_one(Document, "a")
    session.execute(update(Document).values(title="new"), execution_options={"synchronize_session": False})
    document.code = "b"
    session.commit()
    assert world.recording.events[-1].after == {"code": "b", "title": "new", "version": 2}
    assert world.follow() == [("d", "document/a"), ("c", "document/b")]


@pytest.mark.parametrize("database", ["sqlite://"])
def test_keys_given_as_text_are_the_ones_that_the_table_holds(database: str) -> None:
    world = World(database)
    with world.maker() as session:
        session.execute(insert(Paper).values(id="1", title="a"))
        session.bulk_insert_mappings(Paper, [{"id": "2", "title": "a"}, {"id": "3", "title": "a"}])  # type: ignore[arg-type]
        session.execute(update(Paper), [{"id": "1", "title": "b"}, {"id": "2", "title": "b"}])
        session.commit()
        assert world.follow() == [("c", "paper/1"), ("c", "paper/2"), ("c", "paper/3")]
        session.merge(Counter(id="7", double=1))
        session.commit()
        assert world.follow() == [("c", "counter/7")]
        session.expunge_all()
        session.merge(Counter(id="7", double=2))
        session.commit()
        assert world.follow() == [("u", "counter/7")]
    world.close()


def test_rows_of_a_secondary_table(world: World, session: Session) -> None:
    have(world, session, Contact(id="a"), Team(id=1, title="t"))
    session.execute(insert(membership).values(contact_id="a", team_id=1))
    session.commit()
    session.execute(update(membership).values(role="boss"))
    session.commit()
    session.execute(delete(membership))
    session.commit()
    assert [op for op, _ in world.follow()] == ["c", "u", "d"]


# -- classes ----------------------------------------------------


def test_a_row_is_a_record_of_its_own_class(world: World, session: Session) -> None:
    have(world, session, Person(id=1, name="p"), Engineer(id=2, name="e", language="x"))
    session.execute(update(Person).values(name="all"))
    session.execute(update(Engineer).values(language="y"))
    session.commit()
    assert world.follow() == [("u", "person/1"), ("u", "engineer/2")]
    have(world, session, Vehicle(id=1), Car(id=2), Truck(id=3))
    session.execute(delete(Vehicle).where(Vehicle.id > 1))
    session.commit()
    assert world.follow() == [("d", "car/2"), ("d", "truck/3")]


def test_columns_that_only_a_subclass_has_in_the_same_table(world: World, session: Session) -> None:
    have(world, session, Vehicle(id=1), Car(id=2, doors=4), Truck(id=3, load=1))
    session.execute(update(VEHICLES).where(VEHICLES.c.id > 1).values(doors=5))
    session.execute(insert(VEHICLES).values(id=4, kind="car", doors=2))
    session.commit()
    first, _ = world.recording.events
    assert (first.subject, first.before, first.after) == (
        "car/2",
        {"doors": 4},
        {"id": 2, "kind": "car", "name": None, "doors": 5},
    )
    assert world.follow() == [("u", "car/2"), ("c", "car/4")]
    session.execute(update(Vehicle).where(Vehicle.id == 2).values({Car.doors: 3}))
    session.commit()
    assert world.follow() == [("u", "car/2")]


KINDS: list[Callable[[Session], Any]] = [
    lambda session: session.execute(insert(Vehicle), [{"id": 1, "kind": "car"}]),
    lambda session: session.execute(insert(Vehicle).values(id=1, kind="car")),
    lambda session: session.execute(insert(Vehicle).from_select(["id", "kind"], select(Team.id, Team.title))),
    lambda session: session.bulk_insert_mappings(Vehicle, [{"id": 1, "kind": "car"}]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("statement", KINDS)
def test_a_row_inserted_as_of_a_subclass_is_that_ones_record(
    world: World, session: Session, statement: Callable[[Session], Any]
) -> None:
    have(world, session, Team(id=1, title="car"))
    statement(session)
    session.commit()
    assert world.follow() == [("c", "car/1")]


def test_a_row_inserted_through_another_class_is_its_own_ones_record(world: World, session: Session) -> None:
    session.execute(insert(Truck), [{"id": 1, "kind": "car"}])
    session.commit()
    assert world.follow() == [("c", "car/1")]


def test_a_row_given_to_another_class_is_another_record(world: World, session: Session) -> None:
    have(world, session, Vehicle(id=1, name="v"), Car(id=2, doors=4))
    session.execute(update(Vehicle).values(kind="car"))
    session.commit()
    assert world.follow() == [("d", "vehicle/1"), ("c", "car/1")]


@pytest.mark.filterwarnings("ignore:Flushing object:sqlalchemy.exc.SAWarning")
def test_an_object_given_to_another_class_is_another_record(world: World, session: Session) -> None:
    have(world, session, Vehicle(id=1, name="v"), Car(id=2, doors=4))
    session.get_one(Vehicle, 1).kind = "car"
    session.get_one(Vehicle, 2).name = "renamed"
    session.commit()
    assert sorted(world.follow()) == [("c", "car/1"), ("d", "vehicle/1"), ("u", "car/2")]


def test_classes_told_apart_by_an_expression() -> None:
    class Base(DeclarativeBase):
        pass

    class Parcel(Base):
        __tablename__ = "parcel"

        id: Mapped[int] = mapped_column(primary_key=True)
        weight: Mapped[int] = mapped_column()
        __mapper_args__ = {  # noqa: RUF012 - declarative reads it so
            "polymorphic_identity": "light",
            "polymorphic_on": case((weight.column > 5, "heavy"), else_="light"),
        }

    class Heavy(Parcel):
        __mapper_args__ = {"polymorphic_identity": "heavy"}  # noqa: RUF012 - declarative reads it so

    engine = proper_engine("sqlite://")
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording = Recording(maker)
    with maker() as session:
        session.add_all([Parcel(id=1, weight=1), Parcel(id=2, weight=3), Heavy(id=3, weight=9)])
        session.commit()
        assert recording.short() == [("c", "parcel/1"), ("c", "parcel/2"), ("c", "heavy/3")]
        session.execute(update(Parcel).values(weight=Parcel.weight + 3))
        session.commit()
        assert sorted(recording.short()) == [("c", "heavy/2"), ("d", "parcel/2"), ("u", "heavy/3"), ("u", "parcel/1")]
        session.execute(delete(Parcel.__table__))  # type: ignore[arg-type]
        session.commit()
        assert sorted(recording.short()) == [("d", "heavy/2"), ("d", "heavy/3"), ("d", "parcel/1")]
    recording.uninstall()
    engine.dispose()


def test_rows_of_a_class_that_is_not_captured_are_passed_over() -> None:
    world = World("sqlite://", exclude=[Truck])
    with world.maker() as session:
        have(world, session, Car(id=1, doors=4), Truck(id=2))
        session.execute(update(Vehicle).values(name="n"))
        session.commit()
        assert world.follow() == [("u", "car/1")]
        session.execute(delete(Vehicle))
        session.commit()
        assert world.follow() == [("d", "car/1")]
    world.close()


@pytest.mark.parametrize("target", [Engineer, Engineer.__table__])
def test_the_parts_of_a_joined_record_may_be_inserted_one_by_one(world: World, session: Session, target: Any) -> None:
    session.execute(insert(Person.__table__).values(id=1, kind="engineer", name="e"))  # type: ignore[arg-type]
    session.execute(insert(target).values(id=1, language="x"))
    session.commit()
    assert world.follow() == [("c", "engineer/1")]


# -- the rows that are chosen -----------------------------------

CHANCE: dict[str, Any] = {
    "sqlite": func.random() < 0,
    "postgresql": func.random() < 0.5,
    "mysql": func.rand() < 0.5,
}


def test_a_where_that_chooses_anew_hits_the_rows_that_it_hits(world: World, session: Session) -> None:
    have(world, session, *[Paper(id=number, title="t") for number in range(1, 61)])
    by_chance = CHANCE[session.get_bind().dialect.name]
    papers: Any = Paper.__table__
    updated = session.execute(update(Paper).where(by_chance).values(title="u")).rowcount  # type: ignore[attr-defined]
    session.execute(update(papers).where(by_chance).values(updated_by="b"))
    session.commit()
    assert world.follow().count(("u", "paper/1")) <= 1
    assert session.scalar(select(func.count()).where(Paper.title == "u")) == updated
    session.execute(delete(Paper).where(by_chance))
    session.execute(delete(papers).where(by_chance))
    session.commit()
    assert 0 < len(world.follow()) < 60


def test_a_where_that_cannot_choose_anew_runs_as_it_is(world: World, session: Session) -> None:
    have(world, session, Paper(id=1, title="T"))
    with world.statements() as seen:
        session.execute(update(Paper).where(func.lower(func.coalesce(Paper.title, "x")) == "t").values(title="u"))
    (run,) = (each for each in seen if each.startswith("UPDATE") and "lower(coalesce(" in each)
    assert "WHERE" in run
    session.commit()
    assert world.follow() == [("u", "paper/1")]


def test_the_keys_of_rows_that_were_seen_may_be_composite_inherited_or_odd(world: World, session: Session) -> None:
    odd = [f"{number}'%s:x\\%%" for number in range(600)]
    order = Order(id=1, title="o", lines=[OrderLine(position=number, text="X") for number in (1, 2)])
    have(
        world, session, order, Engineer(id=1, name="E"), Person(id=2, name="E"), *[Document(code=each) for each in odd]
    )
    line = session.get_one(OrderLine, (1, 1))
    session.execute(update(OrderLine).where(OrderLine.text.in_(select(literal("X")))).values(text="y"))
    engineers = update(Engineer).where(Engineer.id == Person.id, Engineer.name.in_(select(literal("E"))))
    session.execute(engineers.values(language="l"))
    session.execute(update(Document).where(Document.code.not_in(select(literal("no")))).values(title="long"))
    assert line.text == "y"
    session.commit()
    assert len(world.follow()) == 603


def test_rows_chosen_by_other_tables(world: World, session: Session) -> None:
    have(world, session, *[Order(id=n, title=f"o{n}", papers=[Paper(id=n, title="p")]) for n in (1, 2)])
    paper = session.get_one(Paper, 1)
    first = select(Order.id).where(Order.title == "o1")
    session.execute(update(Paper).where(Paper.order_id.in_(first)).values(updated_by="x"))
    if session.get_bind().dialect.name != "mysql":  # there the columns of both tables would be read for one UPDATE
        session.execute(update(Paper).where(Paper.order_id == Order.id, Order.id == 1).values(title=Order.title))
    assert paper.updated_by == "x"
    session.commit()
    assert world.follow() == [("u", "paper/1")]


def test_a_statement_that_others_narrow_down_is_believed_about_what_it_hit(world: World, session: Session) -> None:
    have(world, session, *[Boat(id=number, name="B") for number in (1, 2, 3)], Document(code="a"))

    def narrow(state: Any) -> None:
        document = state.bind_mapper.class_ is Document
        mine = Document.code == "b" if document else Boat.id < 2 + state.is_update
        state.statement = state.statement.where(mine)

    event.listen(world.maker, "do_orm_execute", narrow)
    session.execute(update(Boat).where(func.lower(Boat.name) == "b").values(name="c"))
    session.execute(delete(Boat).returning(Boat.id))
    session.execute(update(Document).values(code="c"))
    session.commit()
    event.remove(world.maker, "do_orm_execute", narrow)
    assert sorted(world.follow()) == [("d", "boat/1"), ("u", "boat/2")]


def test_a_delete_tells_what_it_deleted_and_how_many(world: World, session: Session) -> None:
    have(world, session, Boat(id=1, name="a"), Boat(id=2, name="b"))
    boats: Any = Boat.__table__
    result: Any = session.execute(delete(boats).where(boats.c.id == 1).returning(boats.c.name))
    assert (result.rowcount, result.all()) == (1, [("a",)])
    assert session.scalars(delete(Boat).returning(Boat)).one().name == "b"
    session.commit()
    assert world.follow() == [("d", "boat/1"), ("d", "boat/2")]


def test_rows_chosen_by_a_statement_that_writes(world: World, session: Session) -> None:
    have(world, session, Team(id=1, title="a"), Boat(id=1, name="b"))
    gone = delete(Boat).returning(Boat.id).cte("gone")
    statement = update(Team).where(Team.id.in_(select(gone.c.id))).values(title="x")
    dialect = session.get_bind().dialect
    if dialect.name == "postgresql":
        with pytest.warns(CaptureWarning, match="DELETE of Boat inside a CTE"):
            session.execute(statement)
        session.commit()
        assert world.recording.short() == [("u", "team/1")]  # what a CTE writes is not captured


# -- upserts ----------------------------------------------------


def upsert(session: Session, *rows: dict[str, Any], one: bool = False) -> Any:
    statement = UPSERTS[session.get_bind().dialect.name](Document).values(rows[0] if one else list(rows))
    if isinstance(statement, mysql.Insert):
        return statement.on_duplicate_key_update(title=statement.inserted.title)
    return statement.on_conflict_do_update(index_elements=["code"], set_={"title": statement.excluded.title})


def test_an_upsert_creates_some_rows_and_updates_others(world: World, session: Session) -> None:
    have(world, session, Document(code="a", title="old"), Document(code="b", title="same"))
    rows = [{"code": code, "title": title, "version": 1} for code, title in (("a", "new"), ("b", "same"), ("c", "c"))]
    session.execute(upsert(session, *rows))
    session.commit()
    dialect = session.get_bind().dialect.name
    # PostgreSQL tells no old values. What was seen without a lock, on MariaDB, may have changed before it is the same.
    assert world.recording.events[0].before == ({} if dialect == "postgresql" else {"title": "old"})
    same = [] if dialect == "sqlite" else [("u", "document/b")]
    assert world.follow() == [("u", "document/a"), *same, ("c", "document/c")]


def test_an_upsert_that_gives_another_key(world: World, session: Session) -> None:
    have(world, session, Document(code="a", title="old", version=1))
    statement: Any = upsert(session, {"code": "a", "title": "new", "version": 1})
    if isinstance(statement, mysql.Insert):
        statement = mysql.insert(Document).values(code="a", version=1).on_duplicate_key_update(code="b")
    else:
        statement = UPSERTS[session.get_bind().dialect.name](Document).values(code="a", version=1)
        statement = statement.on_conflict_do_update(index_elements=["code"], set_={"code": "b"})
    session.execute(statement)
    session.commit()
    assert world.follow() == [("d", "document/a"), ("c", "document/b")]


def test_rows_that_an_insert_leaves_alone_are_nothing(world: World, session: Session) -> None:
    have(world, session, Document(code="a", title="old"))
    statement: Any = UPSERTS[session.get_bind().dialect.name](Document)
    ignoring = statement.prefix_with("IGNORE") if isinstance(statement, mysql.Insert) else statement
    if not isinstance(statement, mysql.Insert):
        ignoring = statement.on_conflict_do_nothing()
    session.execute(ignoring, [{"code": "a", "title": "n", "version": 1}, {"code": "b", "title": "n", "version": 1}])
    session.commit()
    assert world.follow() == [("c", "document/b")]


def test_a_statement_that_failed_holds_on_to_nothing(world: World) -> None:
    with world.maker() as session:
        session.execute(insert(Team).values(id=1, title="a"))
        connection = weakref.ref(session.connection())
        with pytest.raises(IntegrityError):
            session.execute(insert(Team).values(id=1, title="b"))
    gc.collect()
    assert connection() is None


# -- the Session's bulk methods ---------------------------------


def test_bulk_methods(world: World, session: Session) -> None:
    have(world, session, Boat(name="a"), Truck(id=1, name="a"))
    truck = session.get_one(Truck, 1)
    session.expunge(truck)
    truck.load = 2
    session.bulk_insert_mappings(Boat, [{"name": "m"}, {"name": "n"}])  # type: ignore[arg-type]
    session.bulk_update_mappings(Boat, [{"id": 1, "name": "b"}])  # type: ignore[arg-type]
    session.bulk_save_objects([truck, Engineer(name="e", language="l"), Car(id=7, doors=1)])
    session.commit()
    assert world.recording.events[2].before == {"name": "a"}
    assert world.follow() == [
        ("c", "boat/2"),
        ("c", "boat/3"),
        ("u", "boat/1"),
        ("u", "truck/1"),
        ("c", "engineer/1"),
        ("c", "car/7"),
    ]


# -- modes ------------------------------------------------------

STATEMENTS: list[Callable[[Session], Any]] = [
    lambda session: session.execute(update(Team).values(title="x")),
    lambda session: session.execute(insert(Team).values(title="x")),
    lambda session: session.execute(delete(Team)),
    lambda session: session.bulk_save_objects([Team(title="x")]),
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_statements_may_be_warned_of_refused_or_ignored(statement: Callable[[Session], Any]) -> None:
    for mode in ("warn", "raise", "ignore"):
        world = World("sqlite://", bulk=mode)
        with world.maker() as session:
            have(world, session, Team(id=1, title="a"))
            if mode == "warn":
                with pytest.warns(CaptureWarning, match="not captured"):
                    statement(session)
            elif mode == "raise":
                with pytest.raises(CaptureError, match="refuses"):
                    statement(session)
                assert session.scalars(select(Team.title)).all() == ["a"]
            else:
                with warnings.catch_warnings(action="error"):
                    statement(session)
            session.commit()
        assert world.recording.events == []
        world.close()


def test_one_statement_may_choose_for_itself(world: World, session: Session) -> None:
    have(world, session, Team(id=1, title="a"))
    session.execute(update(Team).values(title="b"), execution_options={"eventbus_bulk": "ignore"})
    session.commit()
    assert world.recording.take() == []
    with pytest.raises(CaptureError, match="eventbus_bulk='never'"):
        session.execute(update(Team).values(title="c"), execution_options={"eventbus_bulk": "never"})
    with pytest.raises(ConfigurationError, match="bulk='never'"):
        World("sqlite://", bulk="never")


def test_text_that_writes_is_warned_of_once(world: World, session: Session) -> None:
    for number in range(2):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            session.execute(text("DELETE FROM team"))
            session.execute(text("SELECT 1"))
        assert len(warned) == 1 - number


# -- the moment -------------------------------------------------


def test_a_statement_sees_what_is_pending_where_it_would_have_been_flushed(world: World, session: Session) -> None:
    session.add(Team(id=1, title="a"))
    session.execute(update(Team).values(title="b"))
    with session.no_autoflush:
        session.add(Team(id=2, title="a"))
        session.execute(update(Team).values(title="c"))
    session.commit()
    assert [(each.pk, each.after) for each in world.recording.events] == [
        (1, {"id": 1, "title": "c"}),
        (2, {"id": 2, "title": "a"}),
    ]
    assert world.follow() == [("c", "team/1"), ("c", "team/2")]


@pytest.mark.parametrize("earlier", [True, False])
def test_a_statement_within_another_listener_of_the_flush(world: World, session: Session, earlier: bool) -> None:
    def rename(session: Session, _: Any) -> None:
        session.execute(update(Team).where(Team.id == 1).values(title="renamed"))
        for each in session.new:
            if isinstance(each, Boat):
                each.name = "set too late to be written"

    if earlier:
        world.recording.uninstall()
    event.listen(world.maker, "after_flush", rename)
    if earlier:
        world.recording = Recording(world.maker)
    session.add_all([Team(id=1, title="a"), Boat(id=1, name="a")])
    session.commit()
    assert world.recording.events[-1].after == {"id": 1, "name": "a"}
    assert world.follow() == [("c", "team/1"), ("c", "boat/1")]


def test_rows_of_a_statement_within_a_savepoint_go_with_it(world: World, session: Session) -> None:
    have(world, session, Team(id=1, title="a"), Team(id=2, title="a"))
    with session.begin_nested():
        session.execute(update(Team).where(Team.id == 1).values(title="b"))
    savepoint = session.begin_nested()
    session.execute(delete(Team))
    savepoint.rollback()
    session.commit()
    assert world.follow() == [("u", "team/1")]


def test_an_insert_keeps_its_result(session: Session) -> None:
    one: Insert = insert(Team).values(title="one")
    assert session.execute(one).inserted_primary_key.id > 0  # type: ignore[attr-defined]
    session.execute(one.inline())
    beside = session.execute(insert(Team.__table__), {"title": "t"})  # type: ignore[arg-type]
    assert beside.inserted_primary_key.id > 0
    given: Any = session.execute(upsert(session, {"code": "a", "title": "o", "version": 1}, one=True))
    assert given.inserted_primary_key.code == "a"
    counters: Any = Counter.__table__
    assert session.execute(insert(counters), [{"double": 1}] * 3).returns_rows is False  # type: ignore[attr-defined]
    assert [team.title for team in session.scalars(insert(Team).returning(Team), [{"title": "o"}])] == ["o"]
