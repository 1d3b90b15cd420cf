"""`EVENTBUS_ORDERING=strict`: services only write the outbox, and the one relay publishes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

import eventbus
from eventbus.delivery.tempo import Tempo
from eventbus.errors import EventBusError, FlushTimeout
from eventbus.publishers import MemoryPublisher, Outcome
from eventbus.relay import Relay
from eventbus.settings import Settings
from tests.support.committing import eventually
from tests.support.counting import Base, Contact, count

STRICT = Settings(url="memory://", service="crm", ordering="strict")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


@contextmanager
def relaying(engine: Engine, broker: MemoryPublisher) -> Iterator[None]:
    stop = threading.Event()
    relay = Relay(engine, lambda: broker, ordering="strict", tempo=Tempo(parked=60, sweep=0.1))
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_nothing_leaves_without_a_relay_and_all_of_it_in_order_with_one(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    broker = MemoryPublisher()
    with eventbus.install(sessions, settings=STRICT) as bus:
        for _ in range(5):
            count(sessions)
        assert (bus.stats().pending_rows, bus.stats().waiting_in_outbox) == (5, True)
        with pytest.raises(FlushTimeout, match=r"5 rows; is `eventbus relay` running\?") as caught:
            bus.flush(0.1)
        assert caught.value.pending == 5
        with relaying(engine, broker):
            bus.flush(20)
        assert bus.stats().pending_rows == 0
    assert [event.after["value"] for event in broker.events if event.after] == [0, 1, 2, 3, 4]


def test_flush_tells_of_rows_that_the_relay_had_to_park(engine: Engine, sessions: sessionmaker[Session]) -> None:
    broker = MemoryPublisher()
    broker.answer = lambda message: Outcome.UNROUTABLE if b'"pk":2' in message.body else Outcome.CONFIRMED
    with eventbus.install(sessions, settings=STRICT) as bus, relaying(engine, broker):
        count(sessions, 1)
        bus.flush(20)
        count(sessions, 2)
        count(sessions, 3)
        with pytest.raises(FlushTimeout, match=r"not taken by the broker: 1 row; .*--parked list") as caught:
            bus.flush(20)
        assert caught.value.pending == 1
        count(sessions, 3)
        with pytest.raises(FlushTimeout, match="1 row"):
            bus.flush(20)  # it is parked still, whenever that was


def test_any_thread_may_flush_and_ask(engine: Engine, sessions: sessionmaker[Session]) -> None:
    broker = MemoryPublisher()
    with eventbus.install(sessions, settings=STRICT) as bus, relaying(engine, broker):

        def work(key: int) -> int:
            for _ in range(3):
                count(sessions, key)
                bus.flush(30)
            return bus.stats().pending_rows

        count(sessions, 0)  # makes the tables
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(1, 9)))
        bus.flush(30)
    assert len(broker.messages) == 25


def test_what_asks_the_database_says_so_in_a_coroutine(tmp_path: Path) -> None:
    """Of an async engine: its driver would not work there, and the loop must not wait."""

    async def work() -> int:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.sqlite3'}")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        make = async_sessionmaker(engine)
        with eventbus.install(make, settings=STRICT) as bus:
            async with make() as session:
                session.add(Contact(id=1))
                await session.commit()
            for ask in (bus.stats, bus.flush):
                with pytest.raises(EventBusError, match=r"await asyncio\.to_thread"):
                    ask()
            stats = await asyncio.to_thread(bus.stats)
        await engine.dispose()
        return stats.pending_rows

    assert asyncio.run(work()) == 1


def test_no_connection_stays_open_that_a_fork_would_share(postgres_db: str) -> None:
    engine = create_engine(postgres_db)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with eventbus.install(sessions, settings=STRICT) as bus:
        count(sessions)
        with pytest.raises(FlushTimeout):
            bus.flush(0.1)
        bus.stats()
        look = engine.execution_options(isolation_level="AUTOCOMMIT")  # within a transaction it shows the same
        with look.connect() as connection:
            others = text("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")
            eventually(lambda: connection.scalar(others) == 0)
    engine.dispose()
