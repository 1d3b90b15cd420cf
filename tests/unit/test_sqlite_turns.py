"""On SQLite a thread that keeps to one transaction at a time never meets a lock of ours."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from eventbus import bus as bus_module
from eventbus.delivery.dispatcher import Dispatcher
from eventbus.delivery.outboxes.deletion import Deletion
from eventbus.delivery.tempo import Tempo
from eventbus.outbox import turns as turns_module
from eventbus.outbox.turns import Occupied, Turns, turns_of
from eventbus.publishers.base import Outcome
from eventbus.publishers.memory import MemoryPublisher
from tests.support.committing import eventually

QUICK = Tempo(delete=0.02, grace=0.6, parked=0.2, sweep=0.1)


class Base(DeclarativeBase): ...


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(default=0)


@pytest.fixture(params=["delete", "wal"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """With the recipe of docs/capture.md: SQLAlchemy sends BEGIN."""
    engine = create_engine(f"sqlite:///{tmp_path / 'app.sqlite3'}", connect_args={"timeout": 0.1})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA journal_mode = {request.param}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def broker() -> MemoryPublisher:
    return MemoryPublisher()


@pytest.fixture
def sessions(
    engine: Engine, broker: MemoryPublisher, monkeypatch: pytest.MonkeyPatch
) -> Iterator[sessionmaker[Session]]:
    monkeypatch.setattr(bus_module, "Dispatcher", partial(Dispatcher, tempo=QUICK))
    maker = sessionmaker(engine)
    with eventbus.install(maker, service="crm", publisher=broker):
        yield maker


def rows(engine: Engine, table: str = "eventbus_outbox") -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


def test_a_transaction_that_has_read_can_write_though_rows_are_due_to_be_deleted(
    engine: Engine, sessions: sessionmaker[Session], broker: MemoryPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupied = threading.Event()
    put_off = Deletion.put_off

    def noted(self: Deletion, at: float) -> None:
        occupied.set()
        put_off(self, at)

    monkeypatch.setattr(Deletion, "put_off", noted)
    with sessions.begin() as session:
        session.add(Item(id=1))
    with sessions.begin() as session:
        item = session.get_one(Item, 1)
        broker.wait_for(1)
        assert occupied.wait(5), "the row is delivered, and the deletion waits for this transaction"
        item.n += 1
    broker.wait_for(2)
    eventually(lambda: rows(engine) == 0)


def test_rows_that_are_parked_and_tried_again_are_in_nobodys_way(
    engine: Engine, sessions: sessionmaker[Session], broker: MemoryPublisher
) -> None:
    broker.answer = lambda _: Outcome.UNROUTABLE
    with sessions.begin() as session:
        session.add(Item(id=1))
    end = time.monotonic() + 3.0
    while time.monotonic() < end:  # with looks for rows of the dead, signs of life and tries of parked rows meanwhile
        with sessions.begin() as session:
            item = session.get_one(Item, 1)
            time.sleep(0.02)
            item.n += 1
    broker.answer = lambda _: Outcome.CONFIRMED
    eventually(lambda: (rows(engine), rows(engine, "eventbus_outbox_parked")) == (0, 0))


def test_a_flush_within_a_transaction_of_the_same_thread_returns(
    engine: Engine, sessions: sessionmaker[Session], broker: MemoryPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """Confirmed is confirmed; the outbox follows once it is let."""
    with sessions.begin() as session:
        session.add(Item(id=1))
    with sessions.begin() as session:
        item = session.get_one(Item, 1)
        start = time.monotonic()
        eventbus.bus.installed(sessions).flush(20)
        assert time.monotonic() - start < 10
        item.n += 1
    eventually(lambda: rows(engine) == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_transaction_that_is_never_ended_does_not_hold_us_up_for_ever(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = turns_of(engine)
    monkeypatch.setattr(turns_module, "PATIENCE", 0.0)
    with engine.connect() as connection:
        connection.scalar(text("SELECT count(*) FROM item"))
        turns.begin(connection)
        with pytest.raises(Occupied), turns.ours():
            pass
        monkeypatch.setattr(turns_module, "_LONGEST", -1.0)
        with turns.ours():
            pass


def test_who_only_reads_without_begin_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pysqlite's own way: a transaction begins with the first change."""
    monkeypatch.setattr(turns_module, "PATIENCE", 0.0)
    engine, turns = create_engine(f"sqlite:///{tmp_path / 'app.sqlite3'}"), Turns()
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        connection.scalar(text("SELECT count(*) FROM item"))
        turns.begin(connection)
        with turns.ours():
            pass
        connection.execute(text("INSERT INTO item VALUES (1, 1)"))
        with pytest.raises(Occupied), turns.ours():
            pass
    with turns.ours():
        pass
    engine.dispose()


def test_engines_of_one_file_share_their_turns(tmp_path: Path) -> None:
    one, two, other = (create_engine(f"sqlite:///{tmp_path}/{name}") for name in ("a.db", "./a.db", "b.db"))
    assert turns_of(one) is turns_of(two)
    assert turns_of(one) is not turns_of(other)
