"""Within one outbox no foreign key is broken at any position of the log, however its writers met."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

import eventbus
from consumers.history.reading.history import History
from eventbus.commands import run
from eventbus.loaddata import command

pytestmark = pytest.mark.slow


class Base(DeclarativeBase):
    """A chain of references, and one that leads back into its own table."""


class Team(Base):
    """Others refer to it."""

    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("team.id"))


class Contact(Base):
    """Refers, and is referred to."""

    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int] = mapped_column(sa.ForeignKey("team.id"))
    notes: Mapped[list[Note]] = relationship(cascade="all, delete-orphan")


class Note(Base):
    """Goes with its contact."""

    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.ForeignKey("contact.id"))


@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
def test_no_foreign_key_is_broken_at_fifty_positions(database_url: str, tmp_path: Path) -> None:
    engine = sa.create_engine(database_url)
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    broker = f"sqlite:///{tmp_path / 'broker.db'}"
    bus = eventbus.install(maker, service="crm", url=broker)
    writers = [threading.Thread(target=write, args=(maker, number)) for number in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    bus.flush(60)
    bus.close()
    engine.dispose()
    data_dir = tmp_path / "data"
    drain(broker, data_dir)
    with History(data_dir / ".eventbus" / "history.sqlite3") as history:
        last = history.notes.position
        assert not history.query("SELECT position FROM tx WHERE had + seen < size OR part > 1 OR late")
    assert last > 150
    chance = random.Random(1)
    loaded = [rows_at(data_dir, position, tmp_path) for position in chance.sample(range(1, last + 1), 50)]
    assert max(loaded) > 20


def write(maker: sessionmaker[Session], number: int) -> None:
    """Fifty transactions; each refers to what whichever writer has committed a moment ago."""
    chance = random.Random(number)
    for step in range(50):
        mine = number * 1000 + step
        with maker.begin() as session:
            alone(session)
            teams = list(session.scalars(sa.select(Team.id)))
            if not teams or chance.random() < 0.3:
                session.add(Team(id=mine, parent_id=max(teams, default=None)))
            else:
                session.add(Contact(id=mine, team_id=max(teams), notes=[Note(id=mine), Note(id=mine + 500)]))
        with maker.begin() as session:
            alone(session)
            newest = session.scalars(sa.select(Contact).order_by(Contact.id.desc()).with_for_update()).first()
            if newest is not None and chance.random() < 0.3:
                session.delete(newest)


def alone(session: Session) -> None:
    """On SQLite: what is read stays so until the commit."""
    if session.get_bind().dialect.name == "sqlite":
        session.execute(sa.text("BEGIN IMMEDIATE"))


def drain(broker: str, data_dir: Path) -> None:
    """A mirror with a history, until all is in it."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")}
    more = {"EVENTBUS_URL": broker, "DATA_DIR": str(data_dir), "EVENTBUS_HISTORY": "sqlite"}
    subprocess.run([sys.executable, "-m", "consumers.json_mirror", "--drain"], env={**variables, **more}, check=True)


def rows_at(data_dir: Path, position: int, tmp_path: Path) -> int:
    """What a load of this position makes of an empty database in which references are checked; how many rows."""
    path = tmp_path / f"at-{position}.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    Base.metadata.create_all(engine)
    arguments = [str(data_dir), "--position", str(position), "--database", f"sqlite:///{path}"]
    assert run(command, [*arguments, "--models", f"{__name__}:Base"], "eventbus loaddata") == 0
    with engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA foreign_key_check")).fetchall() == []
        counts = [
            connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in Base.metadata.sorted_tables
        ]
    engine.dispose()
    return sum(filter(None, counts))
