"""A schema for each tenant: two rows of one key are never one record without a word."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import StaticPool
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from eventbus import muted
from eventbus.errors import CaptureError, CaptureWarning
from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Contact(Base):
    __tablename__ = "contact"

    id: Mapped[int] = mapped_column(primary_key=True)


TENANTS = ("north", "south")


def translated(tenant: str) -> dict[str, Any]:
    return {"schema_translate_map": {None: tenant}}


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = proper_engine("sqlite://", poolclass=StaticPool)

    @sa.event.listens_for(engine, "connect")
    def attach(raw: Any, _: Any) -> None:
        for tenant in TENANTS:
            raw.execute(f"ATTACH ':memory:' AS {tenant}")

    for tenant in TENANTS:
        with engine.begin() as connection:
            Base.metadata.create_all(connection.execution_options(**translated(tenant)))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("by", ["engine", "connection"])
@pytest.mark.parametrize("statement", [False, True])
def test_the_second_tenant_of_one_installation_is_refused(engine: sa.Engine, by: str, statement: bool) -> None:
    maker = sessionmaker()
    recording = Recording(maker)

    def write(tenant: str) -> None:
        bind = engine.execution_options(**translated(tenant)) if by == "engine" else engine
        with maker(bind=bind) as session:
            session.connection(execution_options=translated(tenant) if by == "connection" else {})
            if statement:
                session.execute(sa.insert(Contact).values(id=1))
            else:
                session.add(Contact(id=1))
            session.commit()

    write("north")
    with pytest.raises(CaptureError, match="of the schema 'south' are written, where they were of 'north'"):
        write("south")
    assert recording.short() == [("c", "contact/1")]
    with maker(bind=engine.execution_options(**translated("south"))) as session, muted(session):
        session.add(Contact(id=1))
        session.commit()
    recording.uninstall()


def test_an_installation_for_each_tenant_is_the_way(engine: sa.Engine) -> None:
    for tenant in TENANTS:
        maker = sessionmaker(engine.execution_options(**translated(tenant)))
        recording = Recording(maker)
        with maker.begin() as session:
            session.add(Contact(id=1))
        assert recording.short() == [("c", "contact/1")]
        recording.uninstall()


@pytest.mark.parametrize(
    "form", ["SET LOCAL search_path TO {}", "select set_config('search_path', '{}', true)", "USE {}"]
)
def test_another_schema_chosen_by_text_is_told_of(engine: sa.Engine, form: str) -> None:
    maker = sessionmaker(engine)
    for mode in ("capture", "raise", "ignore"):
        recording = Recording(maker, bulk=mode)
        with maker() as session:
            with warnings.catch_warnings(action="error"):
                for _ in range(2):
                    choose(session, form.format("north"))
            if mode == "raise":
                with pytest.raises(CaptureError, match="chooses another schema"):
                    choose(session, form.format("south"))
            elif mode == "capture":
                with pytest.warns(CaptureWarning, match="chooses another schema"):
                    choose(session, form.format("south"))
            else:
                choose(session, form.format("south"))
        recording.uninstall()


def choose(session: Any, text: str) -> None:
    """SQLite does not know such a statement; that it was looked at is what counts."""
    try:
        session.execute(sa.text(text))
    except sa.exc.OperationalError:
        session.rollback()
