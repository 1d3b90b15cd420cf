"""A service's figures in its own Prometheus registry."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from eventbus import Bus, install, metrics
from eventbus.delivery.stats import Stats
from eventbus.publishers.memory import MemoryPublisher

ROOT = Path(__file__).parents[2]


class Base(DeclarativeBase): ...


class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'app.sqlite3'}")
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


@pytest.fixture
def bus(sessions: sessionmaker[Session]) -> Iterator[Bus]:
    with install(sessions, service="crm", publisher=MemoryPublisher()) as installed:
        yield installed


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_what_was_published_is_counted(bus: Bus, sessions: sessionmaker[Session]) -> None:
    registry = CollectorRegistry()
    metrics.register(bus, registry)
    value = registry.get_sample_value
    for key in range(3):
        with sessions.begin() as session:
            session.add(Thing(id=key))
    until(lambda: value("eventbus_published_events_total") == 3)
    assert value("eventbus_commit_to_confirm_seconds_count") in (1, 2, 3)
    until(lambda: value("eventbus_pending_events") == 0)
    assert value("eventbus_connected") == 1
    assert value("eventbus_dropped_events_total") == 0


def test_events_that_wait_are_shown_while_the_broker_is_away(sessions: sessionmaker[Session]) -> None:
    registry, publisher = CollectorRegistry(), MemoryPublisher()
    with install(sessions, service="crm", publisher=publisher) as installed:
        metrics.register(installed, registry)
        publisher.available = False
        with sessions.begin() as session:
            session.add(Thing(id=1))
        value = registry.get_sample_value
        until(lambda: value("eventbus_pending_events") == 1 and value("eventbus_connected") == 0)
        publisher.available = True
        until(lambda: value("eventbus_published_events_total") == 1)


def test_a_watcher_that_fails_stops_nothing(bus: Bus, sessions: sessionmaker[Session]) -> None:
    told: list[int] = []

    def watcher(stats: Stats, _: object) -> None:
        told.append(stats.published)
        raise ValueError("mine")

    bus.watch(watcher)
    with sessions.begin() as session:
        session.add(Thing(id=1))
    until(lambda: told[-1] == 1)
    bus.flush()


_WORKERS = """
import os, sys
from prometheus_client import CollectorRegistry, multiprocess
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
import eventbus
from eventbus import metrics
from eventbus.publishers.memory import MemoryPublisher
from tests.unit.test_metrics import Base, Thing

engine = create_engine("sqlite:///app.sqlite3")
Base.metadata.create_all(engine)
Session = sessionmaker(engine)
bus = eventbus.install(Session, service="crm", outbox=False, publisher=MemoryPublisher)
metrics.register(bus)

def work(first):
    for key in range(first, first + 5):
        with Session.begin() as session:
            session.add(Thing(id=key))
    bus.flush()
    bus.close()

children = []
for first in (0, 100):
    if (pid := os.fork()) == 0:
        engine.dispose(close=False)
        work(first)
        os._exit(0)
    children.append(pid)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(int(registry.get_sample_value("eventbus_published_events_total")))
"""


def test_workers_that_were_forked_count_together(tmp_path: Path) -> None:
    """gunicorn --preload with PROMETHEUS_MULTIPROC_DIR."""
    figures = tmp_path / "figures"
    figures.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _WORKERS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(figures)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "10\n"
