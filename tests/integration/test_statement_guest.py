"""Statements run as they would without the bus: same results and rows, no more locks, no more privileges."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, String, bindparam, delete, func, insert, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from eventbus.errors import CaptureError, CaptureWarning
from tests.support.databases import fresh_database
from tests.support.discovery import Server
from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True)
    label: Mapped[str | None] = mapped_column("tag", String(20))
    tally: Mapped[int] = mapped_column(server_default=text("7"))
    touched: Mapped[int | None] = mapped_column(onupdate=lambda: 1)


class Page(Base):
    __tablename__ = "page"

    book: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    line: Mapped[str | None] = mapped_column(String(20))


class Person(Base):
    __tablename__ = "person"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012 - declarative

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str | None] = mapped_column(String(20))


class Manager(Person):
    __tablename__ = "manager"
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012 - declarative

    id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    level: Mapped[int | None]


class Boss(Manager):
    __tablename__ = "boss"
    __mapper_args__ = {"polymorphic_identity": "boss"}  # noqa: RUF012 - declarative

    id: Mapped[int] = mapped_column(ForeignKey("manager.id"), primary_key=True)
    swing: Mapped[str | None] = mapped_column(String(20))


class Clerk(Person):
    """Of the same table as its superclass."""

    __mapper_args__ = {"polymorphic_identity": "clerk"}  # noqa: RUF012 - declarative

    desk: Mapped[str | None] = mapped_column(String(20))


class Virtual(Base):
    """Whose table gives nothing back."""

    __tablename__ = "virtual"
    __table_args__ = {"implicit_returning": False}  # noqa: RUF012 - declarative

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(20))


ITEMS: Any = Item.__table__
PAGES: Any = Page.__table__
NUMBERED = ("item", "person", "virtual")
FROM_ONE = {
    "postgresql": "ALTER SEQUENCE {}_id_seq RESTART",
    "mysql": "ALTER TABLE {} AUTO_INCREMENT = 1",
}
UPSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert, "mysql": mysql.insert}


class House:
    """A database with some rows, and Sessions on it, which are captured from `record` until it is `empty` again."""

    def __init__(self, url: str) -> None:
        self.engine = proper_engine(url)
        self.dialect = self.engine.dialect
        Base.metadata.create_all(self.engine)
        self.sessions = sessionmaker(self.engine)
        self.recording: Recording | None = None

    def fill(self) -> None:
        with self.sessions.begin() as session:
            session.add_all([Item(name=name, tally=number) for number, name in enumerate("abc", 1)])
            session.add_all([Page(book=1, number=number, line="l") for number in (1, 2)])
            session.add_all([Boss(name="boss", level=1, swing="s"), *(Virtual(name=name) for name in "uvw")])
            session.flush()
            session.add_all([Clerk(name="clerk", desk="d"), Person(name="p")])

    def record(self) -> Recording:
        self.recording = Recording(self.sessions, auto_fields=False)
        return self.recording

    def empty(self) -> None:
        if self.recording is not None:
            self.recording.uninstall()
            self.recording = None
        self.engine.dispose()  # with what was set on its connections
        with self.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
            for table in NUMBERED if self.dialect.name != "sqlite" else ():
                connection.exec_driver_sql(FROM_ONE[self.dialect.name].format(table))

    def upsert(self, values: Any, **sets: Any) -> Any:
        statement = UPSERT[self.dialect.name](Item).values(values)
        if isinstance(statement, mysql.Insert):
            return statement.on_duplicate_key_update(**sets) if sets else statement.prefix_with("IGNORE")
        if sets:
            return statement.on_conflict_do_update(index_elements=["name"], set_=sets)
        return statement.on_conflict_do_nothing()

    def rows(self, session: Session) -> dict[str, list[Any]]:
        session.flush()
        return {
            table.name: [tuple(row) for row in session.connection().execute(select(table).order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
        }


@pytest.fixture(scope="module")
def houses(
    services: Callable[[str], Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], House]]:
    """The house of each kind of database, which the tests here share."""
    with ExitStack() as stack:

        @cache
        def house(kind: str) -> House:
            name = f"eventbus_{uuid.uuid4().hex[:9]}"
            fresh = fresh_database(kind, lambda: services(kind).url, name, tmp_path_factory.mktemp(kind))
            return House(stack.enter_context(fresh))

        yield house


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def house(request: pytest.FixtureRequest, houses: Callable[[str], House]) -> Iterator[House]:
    """`@pytest.mark.parametrize("house", ["postgres"], indirect=True)` leaves others out."""
    house = houses(request.param)
    house.fill()
    yield house
    house.empty()
    house.engine.dispose()


# -- results ----------------------------------------------------

Step = Callable[[Session, House], Any]
STEPS: dict[str, Step] = {
    "insert": lambda s, _: s.execute(insert(Item).values(id=10, name="n")),
    "insert, table": lambda s, _: s.execute(insert(ITEMS).values(id=10, name="n")),
    "insert without key": lambda s, _: s.execute(insert(Item).values(name="n", label="x")),
    "insert beside": lambda s, _: s.execute(insert(ITEMS), {"id": 10, "name": "n"}),
    "insert several": lambda s, _: s.execute(insert(Item).values([{"id": 10, "name": "n"}, {"id": 11, "name": "o"}])),
    "insert a list": lambda s, _: s.execute(insert(Item), [{"name": "n"}, {"name": "o", "label": "x"}]),
    "insert a list with keys": lambda s, _: s.execute(insert(Item), [{"id": 10, "name": "n"}, {"id": 11, "name": "o"}]),
    "insert a list, table": lambda s, _: s.execute(insert(ITEMS), [{"name": "n"}, {"name": "o"}]),
    "insert select": lambda s, _: s.execute(insert(Item).from_select(["id", "name"], select(Item.id + 20, Item.label))),
    "insert select, table": lambda s, h: s.execute(
        insert(ITEMS).from_select(["id", "name"], select(ITEMS.c.id + 20, func.concat(ITEMS.c.name, "!")))
        if h.dialect.name != "sqlite"
        else insert(ITEMS).from_select(["id", "name"], select(ITEMS.c.id + 20, ITEMS.c.name + "!"))
    ),
    "insert an expression": lambda s, _: s.execute(insert(Item).values(id=10, name=func.lower("N"))),
    "insert, nothing given back": lambda s, _: s.execute(insert(Virtual).values(name="n")),
    "update, nothing given back": lambda s, _: s.execute(update(Virtual).values(name="x")),
    "delete, nothing given back": lambda s, _: s.execute(delete(Virtual)),
    "insert inline": lambda s, _: s.execute(insert(ITEMS).values(id=10, name="n").inline()),
    "insert returning": lambda s, _: s.execute(insert(Item).values(id=10, name="n").returning(Item.name)),
    "insert returning objects": lambda s, _: s.execute(insert(Item).values(id=10, name="n").returning(Item)),
    "insert a list returning": lambda s, _: s.execute(
        insert(Item).returning(Item.name, sort_by_parameter_order=True), [{"name": "n"}, {"name": "o"}]
    ),
    "insert a list, core_only": lambda s, _: s.execute(
        insert(Item), [{"name": "n"}, {"name": "o"}], execution_options={"dml_strategy": "raw"}
    ),
    "insert return_defaults": lambda s, _: s.execute(insert(ITEMS).values(id=10, name="n").return_defaults()),
    "insert joined": lambda s, _: s.execute(insert(Boss), [{"name": "n", "swing": "x"}, {"name": "o", "level": 2}]),
    "insert single": lambda s, _: s.execute(insert(Clerk).values(id=10, name="n", desk="x")),
    "insert composite": lambda s, _: s.execute(insert(Page), [{"book": 2, "number": 1}, {"book": 2, "number": 2}]),
    "upsert nothing": lambda s, h: s.execute(h.upsert({"id": 1, "name": "a"})),
    "upsert nothing, new": lambda s, h: s.execute(h.upsert({"id": 10, "name": "n"})),
    "upsert update": lambda s, h: s.execute(h.upsert({"id": 1, "name": "a"}, tally=9)),
    "upsert update, new": lambda s, h: s.execute(h.upsert({"id": 10, "name": "n"}, tally=9)),
    "upsert several": lambda s, h: s.execute(h.upsert([{"id": 1, "name": "a"}, {"id": 10, "name": "n"}], tally=9)),
    "update": lambda s, _: s.execute(update(Item).where(Item.tally < 3).values(label="x")),
    "update, table": lambda s, _: s.execute(update(ITEMS).where(ITEMS.c.tally < 3).values(tag="x")),
    "update nothing": lambda s, _: s.execute(update(Item).where(Item.id == 99).values(label="x")),
    "update by an expression": lambda s, _: s.execute(update(Item).values(tally=Item.tally + 1)),
    "update by key": lambda s, _: s.execute(update(Item), [{"id": 1, "label": "x"}, {"id": 2, "label": "y"}]),
    "update a list, table": lambda s, _: s.execute(
        update(ITEMS).where(ITEMS.c.id == bindparam("k")).values(tag=bindparam("v")),
        [{"k": 1, "v": "x"}, {"k": 99, "v": "y"}],
    ),
    "update of a key": lambda s, _: s.execute(update(Item).where(Item.id == 1).values(id=50)),
    "update, fetch": lambda s, _: s.execute(
        update(Item).values(label="x"), execution_options={"synchronize_session": "fetch"}
    ),
    "update, evaluate": lambda s, _: s.execute(
        update(Item).values(label="x"), execution_options={"synchronize_session": "evaluate"}
    ),
    "update of an alias": lambda s, _: s.execute(update(aliased(Item)).values(label="x")),
    "update by a subquery": lambda s, _: s.execute(
        update(Page).where(Page.number.in_(select(Item.id).where(Item.name == "a"))).values(line="x")
    ),
    "update joined": lambda s, _: s.execute(update(Boss).where(Boss.id == 1).values(swing="x")),
    "update joined, middle": lambda s, _: s.execute(update(Manager).where(Manager.id == 1).values(level=5)),
    "update joined by key": lambda s, _: s.execute(update(Boss), [{"id": 1, "swing": "y", "name": "z"}]),
    "update single": lambda s, _: s.execute(update(Clerk).values(desk="x")),
    "update returning": lambda s, _: s.execute(update(Item).values(label="x").returning(Item.name, Item.label)),
    "update returning objects": lambda s, _: s.execute(update(Item).values(label="x").returning(Item)),
    "update from_statement": lambda s, _: s.execute(
        select(Item).from_statement(update(Item).values(label="x").returning(Item))
    ),
    "update scalars": lambda s, _: s.scalars(update(Item).values(label="x").returning(Item.id)),
    "delete": lambda s, _: s.execute(delete(Item).where(Item.tally < 3)),
    "delete, table": lambda s, _: s.execute(delete(ITEMS)),
    "delete a list, table": lambda s, _: s.execute(
        delete(ITEMS).where(ITEMS.c.id == bindparam("k")), [{"k": 1}, {"k": 99}]
    ),
    "delete joined": lambda s, _: s.execute(delete(Boss)),
    "delete returning": lambda s, _: s.execute(delete(Item).returning(Item.name)),
    "delete, fetch": lambda s, _: s.execute(
        delete(Page).where(Page.number == 1), execution_options={"synchronize_session": "fetch"}
    ),
    "delete of no key": lambda s, _: s.execute(delete(Item).where(Item.id.in_([]))),
    "delete of no key, table": lambda s, _: s.execute(delete(ITEMS).where(ITEMS.c.id.in_([]), ITEMS.c.name == "a")),
    "delete where never": lambda s, _: s.execute(delete(Item).where(sa.false())),
    "delete where never, fetch": lambda s, _: s.execute(
        delete(Item).where(Item.id == sa.null()), execution_options={"synchronize_session": "fetch"}
    ),
    "delete where never, returning": lambda s, _: s.execute(delete(Item).where(sa.false()).returning(Item.name)),
    "update of no key": lambda s, _: s.execute(update(Item).where(Item.id.in_([])).values(label="x")),
    "insert select of nothing": lambda s, _: s.execute(
        insert(Item).from_select(["id", "name"], select(Item.id + 20, Item.name).where(sa.false()))
    ),
    "delete by a subquery": lambda s, _: s.execute(delete(Page).where(Page.number.in_(select(Item.id)))),
}


def _attribute(name: str) -> Callable[[Any], Any]:
    return lambda result: getattr(result, name)


ASKED: dict[str, Callable[[Any], Any]] = {
    "type": lambda result: type(result).__name__,
    "rowcount": _attribute("rowcount"),
    "lastrowid": _attribute("lastrowid"),
    "returns_rows": _attribute("returns_rows"),
    "is_insert": _attribute("is_insert"),
    "inserted_primary_key": lambda result: result.inserted_primary_key and tuple(result.inserted_primary_key),
    "inserted_primary_key_rows": lambda result: [tuple(row) for row in result.inserted_primary_key_rows],
    "returned_defaults": lambda result: result.returned_defaults and tuple(result.returned_defaults),
    "last_inserted_params": lambda result: result.last_inserted_params(),
    "last_updated_params": lambda result: result.last_updated_params(),
    "lastrow_has_defaults": lambda result: result.lastrow_has_defaults(),
    "postfetch_cols": lambda result: [column.name for column in result.postfetch_cols()],
    "keys": lambda result: list(result.keys()),
    "closed": _attribute("closed"),
    "all": lambda result: result.all(),
    "scalars": lambda result: result.scalars().all(),
    "mappings": lambda result: result.mappings().all(),
    "freeze": lambda result: result.freeze().data,
    "unique one": lambda result: result.unique().one_or_none(),
}
READING = ("all", "scalars", "mappings", "freeze", "unique one")


def plain(value: Any) -> Any:
    """What can be compared: objects by what they hold, generated numbers as such."""
    if isinstance(value, Base):
        return type(value).__name__, value.name  # type: ignore[attr-defined]
    if isinstance(value, dict | sa.RowMapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | sa.Row):
        return [plain(each) for each in value]
    return "generated" if isinstance(value, int) and value > 3 else value


def surface(house: House, name: str) -> dict[str, Any]:
    """What may be asked of a Result, and the rows there are then; what reads its rows is asked of one of its own."""
    said = asked(house, name, [what for what in ASKED if what not in READING])
    if said.get("returns_rows", True):
        for what in READING:
            said |= asked(house, name, [what])
    else:
        said |= asked(house, name, READING)  # each of them raises
    return said


def asked(house: House, name: str, questions: Sequence[str]) -> dict[str, Any]:
    with house.sessions() as session:
        item = session.get_one(Item, 1)
        try:
            result = STEPS[name](session, house)
        except Exception as error:  # noqa: BLE001 - which one is what is compared
            return {"raises": type(error).__name__}
        said = {what: answer(ASKED[what], result) for what in questions}
        if "type" in questions:
            said |= {"rows": plain(house.rows(session)), "object": sa.inspect(item).dict.get("label")}
        session.rollback()
    return said


def answer(ask: Callable[[Any], Any], result: Any) -> Any:
    try:
        return plain(ask(result))
    except Exception as error:  # noqa: BLE001 - which one is what is compared
        return type(error).__name__


def test_statements_give_what_they_would(house: House) -> None:
    bare = {name: surface(house, name) for name in STEPS}
    house.record()
    with_it = {name: surface(house, name) for name in STEPS}
    differ = {
        (name, what): (bare[name].get(what), with_it[name].get(what))
        for name in STEPS
        for what in {**bare[name], **with_it[name]}
        if bare[name].get(what) != with_it[name].get(what)
    }
    assert differ == {}


def refused(house: House, statement: Any) -> str:
    with house.sessions() as session:
        try:
            session.execute(statement)
        except sa.exc.IntegrityError as error:
            return str(error)
    raise AssertionError("the statement is not refused")


def test_an_error_shows_the_statement_of_the_program(house: House) -> None:
    statements: list[Any] = [
        insert(Item).values(id=1, name="n"),
        insert(ITEMS).values([{"id": 20, "name": "n"}, {"id": 20, "name": "o"}]),
        update(Item).values(name="same"),
        update(Item).where(Item.id == 1).values(name="b"),
    ]
    bare = [refused(house, each) for each in statements]
    house.record()
    assert [refused(house, each) for each in statements] == bare


# -- locks ------------------------------------------------------

Work = Callable[[Session, House], Any]


def _count(number: int) -> Work:
    return lambda s, _: s.execute(update(Item).where(Item.id == number).values(tally=Item.tally + 1))


def _chosen(criterion: Any) -> Work:
    return lambda s, _: s.execute(
        update(Item).where(criterion).values(tally=9).execution_options(synchronize_session=False)
    )


def _add(key: int) -> Work:
    return lambda s, h: s.execute(h.upsert({"id": key, "name": f"new{key}"}, tally=1))


PAIRS: dict[str, tuple[Work, Work]] = {
    "a child of a counted parent": (
        lambda s, _: s.execute(update(Person).where(Person.id == 1).values(name="x")),
        lambda s, _: s.execute(insert(Manager.__table__), [{"id": 1, "level": 1}]),  # type: ignore[arg-type]
    ),
    "a child of a parent counted by key": (
        lambda s, _: s.execute(update(Person), [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}]),
        lambda s, _: s.execute(insert(Manager.__table__), [{"id": 1, "level": 1}]),  # type: ignore[arg-type]
    ),
    "upserts of new rows": (_add(20), _add(21)),
    "upserts that do nothing": (
        lambda s, h: s.execute(h.upsert({"id": 1, "name": "a"})),
        lambda s, h: s.execute(h.upsert({"id": 1, "name": "a"})),
    ),
    "an upsert that does nothing, and an update": (lambda s, h: s.execute(h.upsert({"id": 1, "name": "a"})), _count(1)),
    "updates of two rows": (_count(1), _count(2)),
    "updates of two rows by key": (
        lambda s, _: s.execute(update(Item), [{"id": 1, "label": "x"}]),
        lambda s, _: s.execute(update(Item), [{"id": 2, "label": "x"}]),
    ),
    "an update of a row that words choose": (_chosen(text("id = :k").bindparams(k=1)), _count(2)),
    "an update of a row that a function chooses": (
        _chosen((Item.id == 1) & (func.left(Item.name, 1) == "a")),
        _count(2),
    ),
    "an update of a row that the time chooses": (
        _chosen((Item.id == 1) & (func.now() > sa.literal("2020-01-01", sa.DateTime))),
        _count(2),
    ),
    "deletions of two rows": (
        lambda s, _: s.execute(delete(Item).where(Item.id == 1)),
        lambda s, _: s.execute(delete(Item).where(Item.id == 2)),
    ),
    "an update by another table's rows, and an update of these": (
        lambda s, _: s.execute(update(Page).where(Page.number == Item.id, Item.id == 1).values(line="x")),
        _count(1),
    ),
    "an update of one part of a record, and of another": (
        lambda s, _: s.execute(update(Boss).where(Boss.id == 1).values(swing="x")),
        lambda s, _: s.execute(update(Person).where(Person.id == 1).values(name="x")),
    ),
    "deletions of one part of a record, and an update": (
        lambda s, _: s.execute(delete(Boss).where(Boss.id == 1)),
        lambda s, _: s.execute(update(Person).where(Person.id == 1).values(name="x")),
    ),
    "bulk methods": (
        lambda s, _: s.bulk_update_mappings(Item, [{"id": 1, "label": "x"}]),
        lambda s, _: s.bulk_insert_mappings(Item, [{"name": "n"}]),
    ),
}


def _flushed(change: Callable[[Session, int], object]) -> Callable[[int], Work]:
    def work(session: Session, number: int) -> None:
        change(session, number)
        session.flush()

    return lambda number: lambda s, _: work(s, number)


KINDS: dict[str, Callable[[int], Work]] = {
    "update": _count,
    "update by key": lambda n: lambda s, _: s.execute(update(Item), [{"id": n, "label": "x"}]),
    "update a list, table": lambda n: (
        lambda s, _: s.execute(
            update(ITEMS).where(ITEMS.c.id == bindparam("k")).values(tag=bindparam("v")), [{"k": n, "v": "x"}]
        )
    ),
    "update by another column": lambda n: (
        lambda s, _: s.execute(update(Item).where(Item.name == "abc"[n - 1]).values(tally=9))
    ),
    "update no row": lambda n: lambda s, _: s.execute(update(Item).where(Item.id == 50 + n).values(tally=9)),
    "flush of a change": _flushed(lambda s, n: setattr(s.get_one(Item, n), "tally", 9)),
    "delete": lambda n: lambda s, _: s.execute(delete(Item).where(Item.id == n)),
    "delete a list, table": lambda n: (
        lambda s, _: s.execute(delete(ITEMS).where(ITEMS.c.id == bindparam("k")), [{"k": n}])
    ),
    "delete no row": lambda n: lambda s, _: s.execute(delete(Item).where(Item.id == 50 + n)),
    "flush of a deletion": _flushed(lambda s, n: s.delete(s.get_one(Item, n))),
    "insert": lambda n: lambda s, _: s.execute(insert(Item).values(id=30 + n, name=f"i{n}")),
    "insert a list": lambda n: lambda s, _: s.execute(insert(Item), [{"name": f"j{n}"}, {"name": f"k{n}"}]),
    "insert select": lambda n: (
        lambda s, _: s.execute(
            insert(Item).from_select(["id", "name"], select(Person.id + 40 + n, Person.kind).where(Person.id == n))
        )
    ),
    "flush of a new one": _flushed(lambda s, n: s.add(Item(name=f"f{n}"))),
    "upsert, new": lambda n: _add(60 + n),
    "upsert, there": lambda n: lambda s, h: s.execute(h.upsert({"id": n, "name": "abc"[n - 1]}, tally=5)),
    "upsert nothing": lambda n: lambda s, h: s.execute(h.upsert({"id": n, "name": "abc"[n - 1]})),
}
"""Each on the row of a number."""
EVERY_PAIR = PAIRS | {f"{first}, {second}": (KINDS[first](1), KINDS[second](2)) for first in KINDS for second in KINDS}


def waits(house: House, first: Work, second: Work) -> bool:
    """Whether the second, in a transaction of its own, has to wait until the first one's ends."""
    with house.sessions() as one, house.sessions() as other:
        if house.dialect.name == "postgresql":
            other.connection().exec_driver_sql("SET LOCAL lock_timeout = 100")
        else:
            other.connection().exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 0")
        first(one, house)
        try:
            second(other, house)
        except OperationalError as error:
            if "lock" not in str(error).lower():
                raise
            return True
        except (sa.exc.IntegrityError, StaleDataError):
            return False  # that key is taken, or nothing is there: no wait
        finally:
            other.rollback()
            one.rollback()
    return False


@pytest.mark.parametrize("house", ["postgres", "mariadb"], indirect=True)
def test_transactions_that_do_not_wait_for_each_other_do_not_with_the_bus(house: House) -> None:
    """Over all pairs of kinds of statement on PostgreSQL; on MariaDB, where a pair takes ten times as long, some."""
    pairs = EVERY_PAIR if house.dialect.name == "postgresql" else PAIRS
    free = {name: pair for name, pair in pairs.items() if not waits(house, *pair)}
    assert len(free) > len(pairs) / 3, "hardly any pair runs side by side: this tests nothing"
    house.record()
    assert [name for name, pair in free.items() if waits(house, *pair)] == []


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def both(house: House, first: Work, second: Work) -> list[str]:
    """Two transactions at once, each a read and then its work: what they raise."""
    raised: list[str] = []
    ready = threading.Barrier(2, timeout=10)

    def run(work: Work) -> None:
        try:
            with house.sessions.begin() as session:
                session.execute(text("SELECT 1"))
                ready.wait()
                work(session, house)
        except (OperationalError, StaleDataError) as error:
            raised.append(str(error))

    threads = [threading.Thread(target=run, args=(work,)) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("house", ["postgres", "mariadb"], indirect=True)
def test_upserts_of_different_new_rows_are_no_deadlock(house: House) -> None:
    recording = house.record()
    raised = [each for key in range(100, 120, 2) for each in both(house, _add(key), _add(key + 1))]
    assert raised == []
    assert sorted({op for op, _ in recording.short()}) == ["c"]


@pytest.mark.parametrize("house", ["postgres"], indirect=True)
@pytest.mark.parametrize("way", ["by key", "where", "bulk", "core list"])
def test_a_row_that_another_transaction_replaces_meanwhile_is_told_of(house: House, way: str) -> None:
    """If the statement hits the new row; SQLAlchemy minds that a list does not hit all."""
    recording = house.record()
    work: Work = {
        "by key": lambda s, _: s.execute(update(Item), [{"id": 1, "label": "mine"}, {"id": 2, "label": "mine"}]),
        "where": lambda s, _: s.execute(update(Item).where(Item.id == 1).values(label="mine")),
        "bulk": lambda s, _: s.bulk_update_mappings(Item, [{"id": 1, "label": "mine"}, {"id": 2}]),
        "core list": lambda s, _: s.execute(
            update(ITEMS).where(ITEMS.c.id == bindparam("k")).values(tag=bindparam("v")),
            [{"k": 1, "v": "mine"}, {"k": 2, "v": "mine"}],
        ),
    }[way]
    with house.sessions() as replacing:
        replacing.execute(delete(Item).where(Item.id == 1))
        replacing.execute(insert(Item).values(id=1, name="a", label="theirs"))
        thread = threading.Thread(target=both, args=(house, work, lambda _, __: None))
        thread.start()
        with house.engine.connect() as watching:
            while thread.is_alive() and not watching.exec_driver_sql(WAITING).scalar():
                watching.rollback()
        replacing.commit()
    thread.join()
    told = [event.after["label"] for event in recording.take() if event.pk == 1 and event.after is not None]
    with house.sessions() as session:
        assert session.get_one(Item, 1).label in told  # in which order, their outbox rows say


# -- privileges -------------------------------------------------

ALLOWED: dict[str, tuple[str, Work]] = {
    "insert": ("SELECT, INSERT", lambda s, _: s.execute(insert(Page).values(book=5, number=1))),
    "insert a list": (
        "SELECT, INSERT",
        lambda s, _: s.execute(insert(Page), [{"book": 5, "number": n} for n in (1, 2)]),
    ),
    "upsert nothing": (
        "SELECT, INSERT",
        lambda s, _: s.execute(postgresql.insert(Page).values(book=1, number=1).on_conflict_do_nothing()),
    ),
    "delete": ("SELECT, DELETE", lambda s, _: s.execute(delete(Page).where(Page.number == 1))),
    "delete a list": (
        "SELECT, DELETE",
        lambda s, _: s.execute(delete(PAGES).where(PAGES.c.number == bindparam("n")), [{"n": 1}, {"n": 9}]),
    ),
    "update": ("SELECT, UPDATE (line)", lambda s, _: s.execute(update(Page).values(line="x"))),
    "update by key": (
        "SELECT, UPDATE (line)",
        lambda s, _: s.execute(update(Page), [{"book": 1, "number": n, "line": "x"} for n in (1, 2)]),
    ),
}


@pytest.fixture
def role(house: House) -> Iterator[str]:
    name = f"guest_{house.engine.url.database}"
    with house.engine.begin() as connection:
        connection.exec_driver_sql(f'CREATE ROLE "{name}" NOLOGIN')
    yield name
    with house.engine.begin() as connection:
        connection.exec_driver_sql(f'DROP OWNED BY "{name}"')
        connection.exec_driver_sql(f'DROP ROLE "{name}"')


@pytest.mark.parametrize("house", ["postgres"], indirect=True)
def test_a_role_needs_no_more_than_its_statement_does(house: House, role: str) -> None:
    house.record()
    for privileges, work in ALLOWED.values():
        with house.engine.begin() as connection:
            connection.exec_driver_sql(f'GRANT {privileges} ON page TO "{role}"')
        with house.sessions() as session:
            session.connection().exec_driver_sql(f'SET LOCAL ROLE "{role}"')
            work(session, house)
            session.connection()
            session.rollback()
        with house.engine.begin() as connection:
            connection.exec_driver_sql(f'REVOKE ALL ON page FROM "{role}"')


def test_a_session_that_routes_is_asked_as_without_the_bus() -> None:
    engine = proper_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)

    class Routing(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None) -> Any:  # type: ignore[override]
            return engine

    recording = Recording(maker := sessionmaker(class_=Routing))
    for statement in (insert(Item).values(id=1, name="a"), update(Item).values(name="b"), delete(Item)):
        with maker.begin() as session:
            session.execute(statement)
    assert [event.op for event in recording.take()] == ["c", "u", "d"]
    recording.uninstall()
    engine.dispose()


# -- lists by key -----------------------------------------------


def reading(house: House, statement: Any, rows: list[dict[str, Any]]) -> tuple[list[Any], int]:
    """The events of a list of updates in a transaction of its own, and how many SELECTs they took."""
    recording, sent = house.recording or house.record(), []

    def note(_: Any, __: Any, text: str, *___: Any) -> None:
        sent.append(text)

    sa.event.listen(house.engine, "before_cursor_execute", note)
    try:
        with house.sessions.begin() as session:
            session.connection().execute(select(1))  # what a new connection asks first
            sent.clear()
            session.execute(statement, rows)
    finally:
        sa.event.remove(house.engine, "before_cursor_execute", note)
    return recording.take(), sum(text.startswith("SELECT") for text in sent)


@pytest.mark.parametrize("house", ["postgres", "mariadb"], indirect=True)
def test_a_list_by_key_reads_its_rows_once_and_vouches_for_what_it_wrote(house: House) -> None:
    told, selects = reading(house, update(Item), [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}])
    assert selects == 1
    assert [each.after for each in told] == [
        {"id": 1, "name": "x", "label": None, "tally": 1, "touched": 1},
        {"id": 2, "name": "y", "label": None, "tally": 2, "touched": 1},
    ]
    assert [(each.before, each.changed, each.whole) for each in told] == [
        ({"name": "a"}, ["name", "touched"], False),
        ({"name": "b"}, ["name", "touched"], False),
    ]


@pytest.mark.parametrize("house", ["postgres", "mariadb"], indirect=True)
def test_a_list_by_key_reads_again_what_it_cannot_know(house: House) -> None:
    """A key that hit no row, or a value that the database computes."""
    by_key = update(ITEMS).where(ITEMS.c.id == bindparam("k"))
    told, selects = reading(house, by_key.values(tag=bindparam("v")), [{"k": 1, "v": "x"}, {"k": 99, "v": "y"}])
    assert [(each.pk, each.after["label"], each.whole) for each in told] == [(1, "x", True)]
    assert selects > 1
    told, _ = reading(house, by_key.values(tag=func.upper("q")), [{"k": 1}, {"k": 2}])
    assert [(each.pk, each.after["label"]) for each in told] == [(1, "Q"), (2, "Q")]


@pytest.mark.parametrize("house", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    "choose",
    [
        select,
        lambda gone: select(func.count(gone.c.line)),
        lambda gone: select(func.count()).select_from(gone),
        lambda gone: select(Item.id, gone.c.line).join(gone, sa.true()),
        lambda gone: select(Item.id).join(gone, sa.true()),
        lambda gone: select(Item.id).add_cte(gone),
    ],
)
def test_a_select_that_writes_inside_a_cte_is_noticed(house: House, choose: Callable[[Any], Any]) -> None:
    recording = house.record()
    gone = delete(Page).where(Page.number == 1).returning(Page.line).cte("gone")
    ignored = {"eventbus_bulk": "ignore"}
    with house.sessions.begin() as session:
        session.execute(choose(gone), execution_options=ignored)
        with pytest.warns(CaptureWarning, match="DELETE of Page inside a CTE"):
            session.execute(choose(gone))
        session.execute(choose(gone))
        with pytest.raises(CaptureError, match="bulk='raise'"):
            session.execute(choose(gone), execution_options={"eventbus_bulk": "raise"})
    assert recording.short() == []


@pytest.mark.parametrize("house", ["postgres"], indirect=True)
def test_what_writes_inside_a_cte_is_noticed(house: House) -> None:
    recording = house.record()
    gone = delete(Page).where(Page.number == 1).returning(Page.line).cte("gone")
    changed = update(Item).where(Item.id == 1).values(label="x").cte("changed")
    statement = insert(Person).from_select(["kind", "name"], select(sa.literal("person"), gone.c.line))
    with house.sessions.begin() as session:
        with pytest.warns(CaptureWarning, match="DELETE of Page inside a CTE"):
            session.execute(statement)
        with pytest.warns(CaptureWarning, match="UPDATE of Item inside a CTE"):
            session.execute(delete(Page).where(Page.number == 2).add_cte(changed))
    assert [op for op, _ in recording.short()] == ["c", "d"]


class Shy(sqlite3.Cursor):
    """Counts no rows where it gives some back, as SQLAlchemy 2.0 has it of aiosqlite."""

    @property
    def rowcount(self) -> int:
        return super().rowcount if self.description is None else -1

    @property
    def lastrowid(self) -> Any:
        return super().lastrowid if self.description is None else -1


class ShyConnection(sqlite3.Connection):
    def cursor(self, *_: Any) -> Any:
        return super().cursor(Shy)


def test_a_driver_that_counts_no_rows_which_are_given_back(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shy.sqlite3", connect_args={"factory": ShyConnection})
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    statements: list[Any] = [
        insert(Item).values(id=1, name="a", tally=1),
        update(Item).values(tally=2),
        update(Item).where(Item.id == 9).values(tally=2),
        delete(Item),
    ]
    recording = Recording(sessions, auto_fields=False)
    with sessions.begin() as session:
        results: list[Any] = [session.execute(each) for each in statements]
        assert [result.rowcount for result in results] == [1, 1, 0, 1]
        rows: list[Any] = [{"name": "b", "tally": 1}]
        result: Any = session.execute(insert(Item).values(rows[0]))
        assert (result.lastrowid, result.inserted_primary_key) == (1, (1,))
        session.execute(delete(Item))
    with sessions.begin() as session:
        session.execute(insert(Item), [{"id": 1, "name": "a", "tally": 1}])
        session.execute(update(Item), [{"id": 1, "tally": 3}])
    assert recording.short() == [("c", "item/1")]
    recording.uninstall()
    engine.dispose()
