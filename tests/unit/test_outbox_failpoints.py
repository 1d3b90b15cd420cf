"""Failpoints: off unless asked for, and exact when asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus
from eventbus import transports
from eventbus.errors import ConfigurationError
from eventbus.outbox import metadata, tables
from eventbus.process import failpoints

ROOT = Path(__file__).parents[2]


def survive(points: str, passes: int) -> int:
    """How many passes of `after_commit` a process survives; all of them: `passes`."""
    code = (
        "import sys\nfrom eventbus.process import failpoints\n"
        f"for number in range({passes}):\n"
        "    failpoints.hit('after_flush'); failpoints.hit('after_commit')\n"
        "    print(number, flush=True)\n"
    )
    environment = {**os.environ, failpoints.VARIABLE: points}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == (0 if len(done.stdout.split()) == passes else -9), done.stderr
    return len(done.stdout.split())


def test_without_the_variable_nothing_happens() -> None:
    assert survive("", 3) == 3


def test_the_pass_that_was_asked_for_kills() -> None:
    assert survive("after_commit=3", 5) == 2
    assert survive("after_commit", 5) == 0
    assert survive("before_delete=1; after_commit=2", 5) == 1


def test_a_seed_repeats_the_moment_of_death() -> None:
    first, second = (survive("after_commit=p0.05,seed7", 200) for _ in range(2))
    assert first == second < 200


@pytest.mark.parametrize("text", ["after_lunch=1", "after_commit=often", "after_commit=pmuch"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=failpoints.VARIABLE):
        failpoints.parse(text)


class Base(DeclarativeBase):
    pass


class Contact(Base):
    __tablename__ = "contact"

    id: Mapped[int] = mapped_column(primary_key=True)


def test_each_point_is_passed_where_its_name_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others see at each: committed contacts, outbox rows, messages in the queue."""
    engine = create_engine(f"sqlite:///{tmp_path / 'app.sqlite3'}")
    metadata.create_all(engine)
    Base.metadata.create_all(engine)
    broker = f"sqlite:///{tmp_path / 'broker.sqlite3'}"
    seen: list[tuple[str, int, int, int]] = []

    def messages() -> int:
        with transports.connection(broker) as connection:
            return int(connection.default_channel.queue_declare("json-mirror", passive=True).message_count)

    def look(name: str) -> None:
        with engine.connect() as connection:
            contacts, rows = (
                connection.scalar(select(func.count()).select_from(table)) or 0
                for table in (Contact.__table__, tables.outbox)
            )
        seen.append((name, contacts, rows, messages()))

    sessions = sessionmaker(engine)
    with eventbus.install(sessions, service="crm", url=broker) as bus:
        commit(sessions)  # makes the broker's file and its queue
        bus.flush()
        monkeypatch.setattr(failpoints, "hit", look)
        commit(sessions)
        bus.flush()
    assert seen == [
        ("after_flush", 1, 0, 1),
        ("before_commit", 1, 0, 1),
        ("after_commit", 2, 1, 1),
        ("after_publish", 2, 1, 2),
        ("after_confirm", 2, 1, 2),
        ("before_delete", 2, 1, 2),
    ]
    assert tuple(name for name, *_ in seen) == failpoints.NAMES


def commit(sessions: Callable[[], object]) -> None:
    with sessions() as session:  # type: ignore[attr-defined]
        session.add(Contact())
        session.commit()


def test_a_point_that_is_off_is_an_empty_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    failpoints.hit("before_commit")
    assert failpoints.hit is failpoints._nothing
