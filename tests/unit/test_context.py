"""Who acts: said for a thread or task, or for one Session; what cannot be told costs no commit."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Integer, StaticPool, Uuid
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from eventbus import acting_as, current_author
from eventbus.errors import ConfigurationError
from eventbus.events import context
from eventbus.listeners.auto_fields import AutoFields
from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None]
    last_author: Mapped[str | None]
    created_by: Mapped[Any | None] = mapped_column(Integer)
    updated_by: Mapped[Any | None] = mapped_column(Uuid)


@pytest.fixture
def maker() -> Iterator[sessionmaker[Any]]:
    engine = proper_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


def authors(recording: Recording) -> list[Any]:
    """Of each event and of its record."""
    return [(event.author, event.after and event.after["last_author"]) for event in recording.take()]


@pytest.mark.parametrize("scoped", [False, True])
def test_the_author_of_a_session_holds_in_any_context_and_for_it_alone(maker: Any, scoped: bool) -> None:
    recording = Recording(maker, author=lambda: "nobody")
    session, other = scoped_session(maker) if scoped else maker(), maker()
    block = acting_as("ann", session=session)
    contextvars.copy_context().run(block.__enter__)  # as FastAPI enters a synchronous dependency
    with acting_as("bob"):
        session.add(Note(id=1))
        session.commit()
        other.add(Note(id=2))
        other.commit()
        with acting_as("cid", session=session):
            session.add(Note(id=3))
            session.commit()
        session.add(Note(id=4))
        session.commit()
    contextvars.copy_context().run(block.__exit__, None, None, None)
    session.add(Note(id=5))
    session.commit()
    assert authors(recording) == [(who, who) for who in ("ann", "bob", "cid", "ann", "nobody")]
    recording.uninstall()
    session.close()
    other.close()


def test_an_async_session_may_have_an_author() -> None:
    async def work() -> list[Any]:
        engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        maker: async_sessionmaker[AsyncSession] = async_sessionmaker(engine)
        recording = Recording(maker)
        async with maker() as session:
            with acting_as("ann", session=session):
                session.add(Note(id=1))
                await session.commit()
        await engine.dispose()
        recording.uninstall()
        return authors(recording)

    assert asyncio.run(work()) == [("ann", "ann")]


def test_a_block_may_end_in_another_context_than_it_began_in() -> None:
    block = acting_as("ann")
    contextvars.copy_context().run(block.__enter__)
    assert current_author() is None
    assert not block.__exit__(None, None, None)
    assert current_author() is None


def test_only_a_session_has_an_author(maker: Any) -> None:
    with pytest.raises(ConfigurationError, match="give one Session"), acting_as("ann", session=maker):
        raise AssertionError("not reached")


@pytest.mark.parametrize("own", [False, True])
def test_an_author_that_cannot_be_told_costs_no_commit(
    maker: Any, own: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a framework knows its user within a request alone."""

    def user() -> str:
        raise RuntimeError("outside of a request")

    monkeypatch.setattr(context, "_untold", set())
    recording = Recording(maker, author=user, auto_fields=AutoFields(author=user) if own else True)
    for number in (1, 2):
        with maker.begin() as session:
            session.add(Note(id=number))
    assert authors(recording) == [(None, None)] * 2
    assert caplog.text.count("author not told") == 1
    assert "outside of a request" in caplog.text
    recording.uninstall()


def test_an_author_that_a_column_cannot_have_costs_no_commit(maker: Any, caplog: pytest.LogCaptureFixture) -> None:
    recording = Recording(maker)
    key = uuid.uuid4()
    for number, who in ((1, "ann"), (2, "7"), (3, str(key))):
        with acting_as(who), maker.begin() as session:
            session.add(Note(id=number))
    with maker() as session:
        found = [(note.created_by, note.updated_by) for note in session.query(Note).order_by(Note.id)]
    assert found == [(None, None), (7, None), (None, key)]
    assert "author not stamped: 'ann'" in caplog.text
    recording.uninstall()
