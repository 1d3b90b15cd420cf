"""Async drivers: the same outbox, written in the application's event loop, read in a loop of the dispatcher's own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from eventbus.delivery.dispatcher import Dispatcher
from eventbus.delivery.tempo import Tempo
from eventbus.outbox import Entry, Outbox
from eventbus.publishers.memory import MemoryPublisher
from tests.support.committing import batch, eventually

QUICK = Tempo(delete=0.02, grace=0.6, parked=0.2, sweep=0.1)


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg", "asyncmy"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "aiosqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'app.sqlite3'}"
    if request.param == "asyncmy":
        return make_url(request.getfixturevalue("mariadb_db")).set(drivername="mysql+asyncmy")
    return make_url(request.getfixturevalue("postgres_db")).set(drivername=f"postgresql+{request.param}")


async def commit(engine: AsyncEngine, outbox: Outbox, events: int = 1) -> list[Entry]:
    async with engine.begin() as connection:
        return await connection.run_sync(lambda sync: outbox.write(sync, batch(events)))


async def rows(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM eventbus_outbox")) or 0)


def test_events_are_written_delivered_and_deleted(url: Any) -> None:
    broker = MemoryPublisher()
    dispatcher = Dispatcher(lambda: broker, tempo=QUICK)

    async def work() -> None:
        engine = create_async_engine(url)
        outbox = Outbox()
        versions = []
        for _ in range(10):
            entries = await commit(engine, outbox)
            versions.append(entries[0].batch.version)
            dispatcher.submit(entries)
        await asyncio.to_thread(dispatcher.flush, 10)
        assert versions == sorted(set(versions))
        assert [event.version for event in broker.events] == versions
        assert await rows(engine) == 0
        await asyncio.to_thread(dispatcher.close)
        await engine.dispose()

    asyncio.run(work())


def test_a_rolled_back_transaction_leaves_no_row(url: Any) -> None:
    async def work() -> None:
        engine = create_async_engine(url)
        outbox = Outbox()
        await commit(engine, outbox)
        async with engine.connect() as connection:
            await connection.run_sync(lambda sync: outbox.write(sync, batch()))
            await connection.rollback()
        assert await rows(engine) == 1
        await engine.dispose()

    asyncio.run(work())


def test_a_silent_broker_does_not_hold_up_the_loop(url: Any) -> None:
    """A ticker beside the commits is not held up. (How late it is on a quiet machine: `benchmarks.outage`.)"""
    broker = MemoryPublisher()
    broker.available = False
    dispatcher = Dispatcher(lambda: broker, tempo=QUICK, backoff_limit=0.1)

    async def work() -> float:
        engine = create_async_engine(url)
        outbox = Outbox()
        await commit(engine, outbox)
        late: list[float] = []
        done = asyncio.Event()

        async def tick() -> None:
            clock = asyncio.get_running_loop().time
            while not done.is_set():
                before = clock()
                await asyncio.sleep(0.005)
                late.append(clock() - before - 0.005)

        ticker = asyncio.create_task(tick())
        for _ in range(50):
            dispatcher.submit(await commit(engine, outbox))
        done.set()
        await ticker
        broker.available = True
        await asyncio.to_thread(dispatcher.flush, 10)
        # The first one, which nobody handed over, is found in the outbox.
        await asyncio.to_thread(eventually, lambda: len(broker.messages) == 51)
        await asyncio.to_thread(dispatcher.close)
        await engine.dispose()
        return sorted(late)[int(len(late) * 0.98)]

    assert asyncio.run(work()) < 0.25
