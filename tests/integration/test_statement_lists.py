"""A list of rows comes to what it does without the bus: row by row where that shows, also if one of them fails."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, String, bindparam, create_engine, delete, event, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from eventbus.errors import CaptureError
from tests.support.databases import fresh_database
from tests.support.discovery import Server
from tests.support.recording import Recording, replay, tables
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True)
    place: Mapped[int | None]


ENTRIES: Any = Entry.__table__
NEXT = select(func.coalesce(func.max(ENTRIES.alias("before").c.place), 0) + 1).scalar_subquery()
Rows = list[tuple[int, str, int | None]]


class Book:
    """A database with the entries 1 to 3, and Sessions whose events are followed."""

    def __init__(self, url: str) -> None:
        self.engine = proper_engine(url)
        Base.metadata.create_all(self.engine)
        self.sessions = sessionmaker(self.engine)
        self.recording = Recording(self.sessions, auto_fields=False)
        with self.sessions.begin() as session:
            session.add_all([Entry(id=number, name=name, place=0) for number, name in enumerate("abc", 1)])
        self.store = replay(self.recording.take(), {})
        if self.engine.dialect.name == "postgresql":
            with self.engine.begin() as connection:
                connection.execute(text("ALTER SEQUENCE entry_id_seq RESTART WITH 4"))

    def rows(self) -> Rows:
        """What the table holds, which the events must have told."""
        replay(self.recording.take(), self.store)
        assert self.store == tables(self.recording, self.engine)
        with self.engine.connect() as connection:
            return [(row.id, row.name, row.place) for row in connection.execute(select(ENTRIES).order_by(ENTRIES.c.id))]


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def book(request: pytest.FixtureRequest, services: Callable[[str], Server], tmp_path: Path) -> Iterator[Book]:
    name = f"eventbus_{uuid.uuid4().hex[:9]}"
    with fresh_database(request.param, lambda: services(request.param).url, name, tmp_path) as url:
        made = Book(url)
        yield made
        made.recording.uninstall()
        made.engine.dispose()


@contextmanager
def seen(connection: Connection) -> Iterator[list[str]]:
    """What is sent on the connection inside."""
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement)

    event.listen(connection, "before_cursor_execute", note)
    yield sent
    event.remove(connection, "before_cursor_execute", note)


def named(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


@pytest.mark.parametrize("target", [Entry, ENTRIES], ids=["class", "table"])
def test_a_row_sees_those_before_it(book: Book, target: Any) -> None:
    with book.sessions.begin() as session:
        session.execute(insert(target).values(place=NEXT), named("x", "y", "z"))
    assert [place for _, _, place in book.rows()] == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("book", ["postgres"], indirect=True)
def test_no_driver_of_postgresql_counts_the_rows_of_a_list(book: Book, driver: str) -> None:
    url = book.engine.url.set(drivername=f"postgresql+{driver}")

    async def counted() -> int:
        engine = create_async_engine(url)
        async with AsyncSession(engine, sync_session_class=book.sessions.class_) as session:
            result = await session.execute(insert(ENTRIES), named("x", "y"))
            await session.commit()
        await engine.dispose()
        return result.rowcount  # type: ignore[attr-defined,no-any-return]

    assert asyncio.run(counted()) == -1
    assert [name for _, name, _ in book.rows()] == ["a", "b", "c", "x", "y"]


# -- a list that fails, and a program that goes on ----------------

Step = Callable[[Session], Any]
FAILING: dict[str, Step] = {
    "insert": lambda s: s.execute(insert(Entry), named("x", "y", "a", "z")),
    "insert, table": lambda s: s.execute(insert(ENTRIES), named("x", "y", "a", "z")),
    "insert with keys": lambda s: s.execute(
        insert(ENTRIES), [{"id": id_, "name": name} for id_, name in [(8, "x"), (9, "y"), (2, "z"), (1, "w")]]
    ),
    "insert that computes": lambda s: s.execute(insert(ENTRIES).values(place=NEXT), named("x", "y", "a", "z")),
    "update by key": lambda s: s.execute(update(Entry), [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}]),
    "update, table": lambda s: s.execute(
        update(ENTRIES).where(ENTRIES.c.id == bindparam("k")).values(name="x"), [{"k": 2}, {"k": 3}]
    ),
}
STAY: dict[str, Rows] = {
    "insert": [(4, "x", None), (5, "y", None)],
    "insert, table": [(4, "x", None), (5, "y", None)],
    "insert with keys": [(8, "x", None), (9, "y", None)],
    "insert that computes": [(4, "x", 1), (5, "y", 2)],
    "update by key": [(1, "x", 0)],
    "update, table": [(2, "x", 0)],
}
"""The rows that are new or changed on SQLite."""
AS_ONE = ("insert", "insert, table", "insert with keys")
"""MariaDB's drivers send these as one statement."""


@pytest.mark.parametrize("name", FAILING)
def test_what_a_list_did_before_it_failed_is_told(book: Book, name: str) -> None:
    before = book.rows()
    with book.sessions() as session:
        with pytest.raises(IntegrityError):
            FAILING[name](session)
        session.commit()
    dialect = book.engine.dialect.name
    stay = [] if dialect == "postgresql" or (dialect == "mysql" and name in AS_ONE) else STAY[name]
    assert [row for row in book.rows() if row not in before] == stay


KEEP = {
    "sqlite": "CREATE TRIGGER keep BEFORE DELETE ON entry WHEN OLD.id = 2 BEGIN SELECT RAISE(ABORT, 'kept'); END",
    "mysql": "CREATE TABLE note (entry_id integer, FOREIGN KEY (entry_id) REFERENCES entry (id)) SELECT 2 AS entry_id",
}


@pytest.mark.parametrize("book", ["sqlite", "mariadb"], indirect=True)
def test_deletions_of_a_list_that_failed_are_told(book: Book) -> None:
    with book.engine.begin() as connection:
        connection.exec_driver_sql(KEEP[book.engine.dialect.name])
    with book.sessions() as session:
        with pytest.raises(IntegrityError):
            session.execute(delete(ENTRIES).where(ENTRIES.c.id == bindparam("k")), [{"k": 1}, {"k": 2}, {"k": 3}])
        session.commit()
    assert [key for key, _, _ in book.rows()] == [2, 3]


# -- upserts whose rows meet each other ---------------------------

UPSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


@pytest.mark.parametrize("book", ["sqlite", "postgres"], indirect=True)
@pytest.mark.parametrize("target", [Entry, ENTRIES], ids=["class", "table"])
def test_rows_of_an_upsert_may_change_each_other(book: Book, target: Any) -> None:
    upsert = UPSERT[book.engine.dialect.name](target)
    adds = upsert.on_conflict_do_update(
        index_elements=["name"], set_={"place": ENTRIES.c.place + upsert.excluded.place}
    )
    rows = [{"name": name, "place": place} for name, place in [("a", 1), ("x", 2), ("x", 3), ("a", 4)]]
    with book.sessions.begin() as session:
        session.execute(adds, rows)
    assert [(name, place) for _, name, place in book.rows()] == [("a", 5), ("b", 0), ("c", 0), ("x", 5)]


@pytest.mark.parametrize("book", ["postgres"], indirect=True)
@pytest.mark.parametrize(("name", "statements"), [("x", 1), ("a", 3)], ids=["apart", "meeting"])
def test_rows_that_do_not_meet_go_at_once(book: Book, name: str, statements: int) -> None:
    upsert = postgresql.insert(Entry)
    sets = upsert.on_conflict_do_update(index_elements=["name"], set_={"place": upsert.excluded.place})
    with book.sessions.begin() as session, seen(session.connection()) as sent:
        session.execute(sets, [{"name": each, "place": 1} for each in ("a", "b", name)])
    assert len([each for each in sent if each.startswith("INSERT INTO entry")]) == statements


# -- deadlocks ----------------------------------------------------


@pytest.mark.parametrize("book", ["mariadb"], indirect=True)
def test_what_a_deadlock_has_undone_is_not_told(book: Book) -> None:
    """MariaDB rolls back the whole transaction, and the loser's program commits all the same."""
    both, lost = threading.Barrier(2), []

    def cross(first: int, second: int) -> None:
        with book.sessions() as session:
            session.add(Entry(name=f"by {first}"))
            session.flush()
            session.execute(update(Entry).where(Entry.id == first).values(place=first))
            both.wait(30)
            try:
                session.execute(update(Entry).where(Entry.id == second).values(place=first))
            except DBAPIError:
                lost.append(first)
            session.commit()

    threads = [threading.Thread(target=cross, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lost) == 1
    assert len(book.rows()) == 4


# -- numbers of SQLite --------------------------------------------


@pytest.mark.parametrize("book", ["sqlite"], indirect=True)
def test_of_a_list_some_rows_may_have_keys(book: Book) -> None:
    with book.sessions.begin() as session:
        session.execute(delete(Entry).where(Entry.id == 2))
        session.execute(
            insert(ENTRIES), [{"id": id_, "name": name} for id_, name in [(None, "x"), (2, "y"), (9, "z"), (None, "w")]]
        )
    assert [(key, name) for key, name, _ in book.rows()][1:] == [(2, "y"), (3, "c"), (4, "x"), (9, "z"), (10, "w")]


@pytest.mark.parametrize("book", ["sqlite"], indirect=True)
def test_numbers_that_have_run_out_are_refused(book: Book) -> None:
    with book.sessions.begin() as session:
        session.add(Entry(id=2**63 - 1, name="last"))
    with book.sessions() as session, pytest.raises(CaptureError, match="run out"):
        session.execute(insert(Entry), named("x", "y"))


@pytest.mark.parametrize("database_url", ["postgres", "mariadb"], indirect=True)
def test_a_list_whose_keys_the_engine_forbids_to_tell_is_refused_in_words(database_url: str) -> None:
    engine = create_engine(database_url, use_insertmanyvalues=False)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    recording = Recording(sessions, auto_fields=False)
    try:
        with sessions() as session, pytest.raises(CaptureError, match="use_insertmanyvalues=False"):
            session.execute(insert(Entry), [{"name": "a"}, {"name": "b"}])
    finally:
        recording.uninstall()
        engine.dispose()
