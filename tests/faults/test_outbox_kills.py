"""Processes that die, fork or end: nothing that was committed is lost, nothing else is published."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from eventbus.process.failpoints import NAMES, VARIABLE
from eventbus.relay import main as relay
from tests.faults.chaos.checker import Verdict, check
from tests.faults.chaos.inbox import Inbox, remove
from tests.faults.chaos.run import Plan, prepare, run
from tests.faults.chaos.worker import open_engine

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Scene:
    """An empty database, a broker with a queue, and what arrives there."""

    database: str
    broker: str
    name: str
    engine: Engine
    inbox: Inbox

    def run(
        self, module: str, *arguments: str, failpoint: str = "", delivery: str = "thread"
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, self.database, self.broker, self.name, *arguments],
            cwd=ROOT,
            env={**os.environ, VARIABLE: failpoint, "EVENTBUS_DELIVERY": delivery},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def relay(self) -> None:
        assert relay(["--database", self.database, "--url", self.broker, "--exchange", self.name, "--once"]) == 0

    def killed_relay(self, failpoint: str) -> None:
        """One that is ended with -9 at that point."""
        command = ["eventbus.relay", "--database", self.database, "--url", self.broker, "--exchange", self.name]
        died = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**os.environ, VARIABLE: failpoint},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr

    def verdict(self, *, in_order: bool = False) -> Verdict:
        self.inbox.until_quiet(1.0)
        verdict = Verdict()
        check(self.engine, self.inbox.events, verdict, in_order=in_order)
        return verdict


@pytest.fixture
def scene(postgres_db: str, rabbitmq_url: str, unique: str) -> Iterator[Scene]:
    engine = open_engine(postgres_db)
    prepare(rabbitmq_url, engine, unique)
    inbox = Inbox(rabbitmq_url, unique)
    yield Scene(postgres_db, rabbitmq_url, unique, engine, inbox)
    inbox.close()
    remove(rabbitmq_url, unique)
    engine.dispose()


@pytest.mark.parametrize("point", NAMES)
def test_kill_9_at_any_point_loses_and_invents_nothing(scene: Scene, point: str) -> None:
    # The last passes are few: publishing and deleting is done for many commits together.
    failpoint = f"{point}={2 if point in ('after_publish', 'after_confirm', 'before_delete') else 12}"
    died = scene.run("tests.faults.chaos.worker", "1", "300", failpoint=failpoint)
    assert died.returncode == -signal.SIGKILL, died.stderr
    scene.relay()
    verdict = scene.verdict()
    assert verdict.good, verdict


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_kill_9_of_a_service_that_leaves_publishing_to_the_relay_loses_nothing(scene: Scene, point: str) -> None:
    scene.inbox.until_quiet(1.0)
    before = len(scene.inbox.events)
    died = scene.run("tests.faults.chaos.worker", "1", "300", failpoint=f"{point}=12", delivery="relay")
    assert died.returncode == -signal.SIGKILL, died.stderr
    scene.inbox.until_quiet(1.0)
    assert len(scene.inbox.events) == before, "the service has published nothing"
    scene.relay()
    verdict = scene.verdict(in_order=True)
    assert verdict.good, verdict
    assert verdict.duplicates == 0


@pytest.mark.parametrize("point", ["after_publish", "after_confirm"])
def test_kill_9_of_the_relay_loses_nothing_and_keeps_the_order(scene: Scene, point: str) -> None:
    done = scene.run("tests.faults.chaos.worker", "1", "60", delivery="relay")
    assert done.returncode == 0, done.stderr
    scene.killed_relay(f"{point}=3")
    scene.relay()
    verdict = scene.verdict(in_order=True)
    assert verdict.good, verdict
    assert verdict.duplicates > 0, "it was killed before it could delete what it had sent"


def test_a_process_that_ends_right_after_its_last_commit_loses_nothing(scene: Scene) -> None:
    """And leaves nothing for others to do."""
    done = scene.run("tests.faults.chaos.worker", "1", "30")
    assert done.returncode == 0, done.stderr
    verdict = scene.verdict()
    assert verdict.good, verdict
    assert verdict.duplicates == 0


@pytest.mark.parametrize("way", ["fork", "multiprocessing", "threads", "sigterm"])
def test_forks_threads_and_signals_lose_nothing(scene: Scene, way: str) -> None:
    """And leave nothing for others to do: what the children commit they deliver themselves."""
    done = scene.run("tests.faults.family", way)
    assert done.returncode == (143 if way == "sigterm" else 0), done.stderr
    verdict = scene.verdict()
    assert verdict.good, verdict
    assert verdict.duplicates == 0
    assert verdict.committed >= int(done.stdout.split()[-1]), "each of them did its work"


def test_what_forked_children_leave_when_they_end_without_a_farewell_is_delivered(scene: Scene) -> None:
    done = scene.run("tests.faults.family", "fork without farewell")
    assert done.returncode == 0, done.stderr
    scene.relay()
    verdict = scene.verdict()
    assert verdict.good, verdict
    assert verdict.committed >= int(done.stdout.split()[-1]), "each of them did its work"


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["thread", "relay"])
def test_chaos_in_short(postgres_db: str, rabbitmq_url: str, tmp_path: Path, delivery: str) -> None:
    """`python -m tests.faults.chaos` is the long form."""
    plan = Plan(postgres_db, rabbitmq_url, tmp_path, seconds=8, seed=7, writers=3, delivery=delivery)
    verdict = run(plan)
    assert verdict.good, f"seed {plan.seed}: {verdict}: {verdict.faults}"
