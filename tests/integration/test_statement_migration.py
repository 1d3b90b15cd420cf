"""While a migration is under way a model names columns that its table lacks: what does not name these works as bare."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import String, bindparam, delete, func, insert, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, load_only, mapped_column, sessionmaker

from tests.support.databases import fresh_database
from tests.support.discovery import Server
from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Trial(Base):
    """As the newer program has it."""

    __tablename__ = "trial"

    added: Mapped[str | None] = mapped_column("Added", String(20))
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(20))
    score: Mapped[int | None]


TRIALS: Any = Trial.__table__
OLDER = {
    "sqlite": "CREATE TABLE trial (id integer PRIMARY KEY, NAME varchar(20), score integer)",
    "postgresql": "CREATE TABLE trial (id serial PRIMARY KEY, name varchar(20), score integer)",
    "mysql": "CREATE TABLE trial (id integer PRIMARY KEY AUTO_INCREMENT, NAME varchar(20), score integer)",
}
"""As the table is, by dialect; SQLite and MariaDB do not mind capital letters."""
UPSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert, "mysql": mysql.insert}


def upsert(session: Session) -> Any:
    statement = UPSERT[session.get_bind().dialect.name](TRIALS).values([{"id": 1, "name": "u"}, {"id": 9, "name": "u"}])
    if isinstance(statement, mysql.Insert):
        return session.execute(statement.on_duplicate_key_update(name="v"))
    return session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"name": "v"}))


def partly_loaded(session: Session) -> Trial:
    return session.scalars(select(Trial).options(load_only(Trial.name)).where(Trial.id == 1)).one()


def change(session: Session) -> None:
    partly_loaded(session).name = "flushed"


STEPS: dict[str, Callable[[Session], Any]] = {
    "update": lambda s: s.execute(update(Trial).where(Trial.id < 3).values(name="x")),
    "update by a subquery": lambda s: s.execute(
        update(Trial).where(Trial.id == select(func.max(TRIALS.c.id)).scalar_subquery()).values(score=5),
        execution_options={"synchronize_session": False},
    ),
    "update a list by key": lambda s: s.execute(update(Trial), [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]),
    "update a list": lambda s: s.execute(
        update(TRIALS).where(TRIALS.c.id == bindparam("key")).values(name=bindparam("given")),
        [{"key": 1, "given": "x"}, {"key": 7, "given": "y"}],
    ),
    "update of a key": lambda s: s.execute(update(TRIALS).where(TRIALS.c.id == 2).values(id=20)),
    "delete": lambda s: s.execute(delete(Trial).where(Trial.name == "b")),
    "delete all": lambda s: s.execute(delete(TRIALS)),
    "insert": lambda s: s.execute(insert(TRIALS).values(id=10, name="n")),
    "insert several": lambda s: s.execute(insert(TRIALS).values([{"id": 10, "name": "n"}, {"id": 11, "name": None}])),
    "insert a list": lambda s: s.execute(insert(TRIALS), [{"name": "n"}, {"name": "o"}]),
    "upsert": upsert,
    "a flush": change,
    "a deletion": lambda s: s.delete(partly_loaded(s)),
}  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def engine(
    request: pytest.FixtureRequest, services: Callable[[str], Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.Engine]:
    kind = request.param
    name = f"eventbus_{uuid.uuid4().hex[:9]}"
    with fresh_database(kind, lambda: services(kind).url, name, tmp_path_factory.mktemp(kind)) as url:
        engine = proper_engine(url)
        yield engine
        engine.dispose()


class Migration:
    """The older table with three rows, and Sessions on it."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.sessions = sessionmaker(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS trial")
            connection.exec_driver_sql(OLDER[engine.dialect.name])
            connection.exec_driver_sql("INSERT INTO trial (name, score) VALUES ('a', 1), ('b', 2), ('c', 3)")

    def run(self, step: Callable[[Session], Any]) -> tuple[Any, dict[int, dict[str, Any]]]:
        """What a step gives back, and the rows after its commit."""
        with self.sessions.begin() as session:
            result = step(session)
            told = getattr(result, "rowcount", None), getattr(result, "returns_rows", None)
        return told, self.rows()

    def rows(self) -> dict[int, dict[str, Any]]:
        with self.engine.connect() as connection:
            rows = [dict(row._mapping) for row in connection.execute(text("SELECT * FROM trial ORDER BY id"))]
        return {row["id"]: {key.lower(): value for key, value in row.items()} for row in rows}

    @contextmanager
    def recorded(self) -> Iterator[Recording]:
        recording = Recording(self.sessions, auto_fields=False)
        try:
            yield recording
        finally:
            recording.uninstall()


@pytest.mark.parametrize("name", STEPS)
def test_what_does_not_name_the_column_runs_as_bare_and_is_told_as_it_is(engine: sa.Engine, name: str) -> None:
    bare = Migration(engine).run(STEPS[name])
    migration = Migration(engine)
    before = migration.rows()
    with migration.recorded() as recording:
        assert migration.run(STEPS[name]) == bare
        now, told = dict(before), recording.take()
    for event in told:
        now.pop(event.pk, None)
        if event.op != "d":
            assert event.after is not None
            now[event.pk] = event.after
    assert now == bare[1]
    assert told


def test_the_column_is_told_as_soon_as_it_is_there_and_no_more_once_it_has_gone(engine: sa.Engine) -> None:
    migration = Migration(engine)

    def alter(what: str) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE trial {what}")

    def told() -> Any:
        migration.run(STEPS["update"])
        migration.run(lambda session: session.execute(update(TRIALS).values(name="z")))
        return {event.pk: event.after for event in recording.take()}

    column = engine.dialect.identifier_preparer.quote("Added")
    with migration.recorded() as recording:
        assert "added" not in told()[1]
        alter(f"ADD COLUMN {column} varchar(20) DEFAULT 'd'")
        assert told()[1]["added"] == "d"
        alter(f"DROP COLUMN {column}")
        with suppress(DBAPIError):  # the one that finds it out
            told()
        assert "added" not in told()[1]
