"""A connection that is lost just as a table is asked about: the statement fails as bare, and that is no answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, String, create_engine, insert, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from tests.support.recording import Recording


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


LOUDER = """
CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE note SET name = name || '!' WHERE id = NEW.id; RETURN NULL; END $$;
CREATE TRIGGER louder AFTER INSERT OR UPDATE ON note FOR EACH ROW WHEN (pg_trigger_depth() = 0)
  EXECUTE FUNCTION louder()
"""
UPSERT: Any = postgresql.insert(Note)
UPSERT = UPSERT.on_conflict_do_update(index_elements=["id"], set_={"name": UPSERT.excluded.name})
STATEMENTS: dict[str, tuple[Any, Any]] = {
    "update": (update(Note).where(Note.id == 1).values(name="b"), None),
    "insert": (insert(Note).values(id=2, name="b"), None),
    "list": (UPSERT, [{"id": 1, "name": "b"}, {"id": 2, "name": "c"}]),
}


@pytest.fixture
def engine(postgres_db: str) -> Iterator[Engine]:
    engine = create_engine(postgres_db)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Note).values(id=1, name="a"))
        connection.exec_driver_sql(LOUDER)
    yield engine
    engine.dispose()


def lose(session: Session, engine: Engine) -> None:
    """The server ends the Session's connection, which does not know of it yet."""
    pid = session.scalar(text("SELECT pg_backend_pid()"))
    with engine.connect() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def failure(sessions: sessionmaker[Session], engine: Engine, kind: str) -> OperationalError:
    statement, parameters = STATEMENTS[kind]
    with sessions() as session:
        lose(session, engine)
        with pytest.raises(OperationalError) as caught:
            session.execute(statement, parameters)
    return caught.value


@pytest.mark.parametrize("kind", STATEMENTS)
def test_what_a_lost_connection_does_not_tell_of_a_table_is_asked_again(engine: Engine, kind: str) -> None:
    sessions = sessionmaker(engine)
    recording = Recording(sessions, auto_fields=False)
    try:
        failure(sessions, engine, kind)
        with sessions.begin() as session:
            session.execute(update(Note).values(name="z"))
        (event,) = recording.take()
        assert event.after is not None
        assert event.after["name"] == "z!", "what RETURNING tells is not what the trigger leaves"
    finally:
        recording.uninstall()


@pytest.mark.parametrize("kind", ["update", "insert"])
def test_the_error_of_a_lost_connection_is_the_statements_own(engine: Engine, kind: str) -> None:
    sessions = sessionmaker(engine)
    bare = failure(sessions, engine, kind)
    recording = Recording(sessions, auto_fields=False)
    try:
        found = failure(sessions, engine, kind)
        for each in (bare, found):
            assert each.connection_invalidated
        assert (type(found.orig), str(found.orig), found.statement) == (type(bare.orig), str(bare.orig), bare.statement)
    finally:
        recording.uninstall()
