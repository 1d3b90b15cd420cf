"""A statement that runs on the keys of the rows that were read binds them as their column does."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import String, Uuid, delete, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy.types import TypeDecorator

from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Prefixed(TypeDecorator[str]):
    """Stored otherwise than Python has it."""

    impl = String(60)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else f"stored-{value}"

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.removeprefix("stored-")


class Decorated(Base):
    __tablename__ = "decorated"

    id: Mapped[str] = mapped_column(Prefixed, primary_key=True)
    name: Mapped[str | None] = mapped_column(String(40))


class Textual(Base):
    __tablename__ = "textual"

    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(40))


@pytest.mark.parametrize("rows", [3, 510])
@pytest.mark.parametrize("model", [Decorated, Textual])
def test_a_key_is_bound_by_the_type_of_its_column(database_url: str, model: Any, rows: int) -> None:
    engine = proper_engine(database_url)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with sessions.begin() as session:
        session.add_all([model(id=str(uuid.UUID(int=number)), name="a") for number in range(rows)])
    recording = Recording(sessions, auto_fields=False)
    names = select(model.name).distinct()
    for statement in (update(model).where(model.name.in_(names)).values(name="b"), delete(model)):
        with sessions.begin() as session:
            assert session.execute(statement).rowcount == rows  # type: ignore[attr-defined]
        assert len(recording.take()) == rows
    recording.uninstall()
    Base.metadata.drop_all(engine)
    engine.dispose()
