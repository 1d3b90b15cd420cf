"""Rows of many-to-many tables under changes of keys: told of as SQLAlchemy moves them, and no otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, StaticPool, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

from eventbus.errors import CaptureWarning
from tests.support.recording import Recording, Store, replay, tables
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


def linking(name: str) -> Table:
    return Table(
        name,
        Base.metadata,
        Column("owner", ForeignKey("owner.name", onupdate="CASCADE"), primary_key=True),
        Column("thing", ForeignKey("thing.name", onupdate="CASCADE"), primary_key=True),
    )


moved, cascaded = linking("moved"), linking("cascaded")


class Thing(Base):
    __tablename__ = "thing"

    name: Mapped[str] = mapped_column(primary_key=True)


class Owner(Base):
    """`moved`: SQLAlchemy moves the rows along with the key; `cascaded`: the database does."""

    __tablename__ = "owner"

    name: Mapped[str] = mapped_column(primary_key=True)
    note: Mapped[str | None]
    moved: Mapped[list[Thing]] = relationship(secondary=moved, passive_updates=False)
    cascaded: Mapped[list[Thing]] = relationship(secondary=cascaded)


def open_world(relation: str, *, cascades: bool) -> tuple[sessionmaker[Session], Recording, Store]:
    engine = proper_engine("sqlite://", poolclass=StaticPool)
    if cascades:
        sa.event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = ON"))
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    recording, store = Recording(maker), {}
    with maker.begin() as session:
        session.add(Owner(name="a", **{relation: [Thing(name="x"), Thing(name="y")]}))
    return maker, recording, replay(recording.take(), store)


def rename(session: Session) -> None:
    session.get_one(Owner, "a").name = "b"


def rename_with_a_target_that_left(session: Session) -> None:
    owner = session.get_one(Owner, "a")
    session.expunge(owner.moved[0])
    owner.name = "b"


def rename_a_target(session: Session) -> None:
    """SQLAlchemy moves none, though the owner is flushed and its collection was changed."""
    owner = session.get_one(Owner, "a")
    owner.moved.append(Thing(name="z"))
    owner.moved[0].name = "w"


def rename_and_change(session: Session) -> None:
    owner = session.get_one(Owner, "a")
    owner.name, owner.note = "b", "n"
    owner.moved.append(Thing(name="z"))


@pytest.mark.parametrize("change", [rename, rename_with_a_target_that_left, rename_a_target, rename_and_change])
def test_rows_are_moved_as_sqlalchemy_moves_them(change: Callable[[Session], None]) -> None:
    maker, recording, store = open_world("moved", cascades=False)
    with warnings.catch_warnings(action="ignore"), maker.begin() as session:
        change(session)
    replay(recording.take(), store)
    assert store == tables(recording, maker.kw["bind"])
    recording.uninstall()


def test_a_row_that_the_database_has_moved_goes_by_the_key_that_is_known() -> None:
    maker, recording, store = open_world("cascaded", cascades=True)
    with maker() as session:
        owner = session.get_one(Owner, "a")
        owner.cascaded.pop()
        owner.name = "b"
        with pytest.warns(CaptureWarning, match="cascaded.owner references it ON UPDATE CASCADE"):
            session.commit()
    told: Any = recording.short()
    assert ("d", 'cascaded/["a","y"]') in told
    assert ("d", 'cascaded/["b","y"]') not in told, "nobody knows of that one"
    recording.uninstall()
    assert store
