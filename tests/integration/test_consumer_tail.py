"""`eventbus tail` on real brokers: it sees what goes by, takes nothing away, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from consumers.base import ConsumerSettings
from consumers.base.broker.line import Line
from consumers.base.errors import Lost
from tests.support.consuming import Collector, Running, event_body, fresh, publish, ready, remove, wait_for
from tests.support.histories import Event, keep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(broker_url: str, unique: str) -> Iterator[ConsumerSettings]:
    with fresh(broker_url, unique) as made:
        yield made


@dataclass
class Tailing:
    process: subprocess.Popen[bytes]
    shown: Path

    def lines(self) -> list[str]:
        return self.shown.read_text().splitlines()


@pytest.fixture
def tailing(settings: ConsumerSettings, tmp_path: Path) -> Iterator[Tailing]:
    """The command, once it is bound."""
    environment = {**os.environ, "EVENTBUS_URL": settings.url, "EVENTBUS_EXCHANGE": settings.exchange}
    shown = tmp_path / "shown"
    with shown.open("wb") as out, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", "-m", "eventbus", "tail", "--json", "crm.*.updated"],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=log,
        )
        made = Tailing(process, shown)
        try:
            bound(settings, made)
            yield made
        finally:
            process.kill()
            process.wait()


def bound(settings: ConsumerSettings, tailing: Tailing) -> None:
    """Wait until what is published is seen."""

    def seen() -> bool:
        try_publishing(settings, "first")
        return bool(tailing.lines())

    wait_for(seen)


def try_publishing(settings: ConsumerSettings, pk: str) -> None:
    """Publish an event, which the broker refuses while no queue is there."""
    with suppress(Lost):
        publish(settings, [event_body(pk, 1)])


def subjects(tailing: Tailing) -> list[str]:
    return [json.loads(line)["subject"] for line in tailing.lines()]


def own_queues(settings: ConsumerSettings) -> int:
    """How many queues the exchange has bound to it: it refuses to go while there is one."""
    line = Line(settings)
    try:
        with line.channel() as channel:
            try:
                channel.exchange_delete(exchange=settings.exchange, if_unused=True)
            except Exception:  # noqa: BLE001  each broker has its own name for it
                return 1
            return 0
    finally:
        line.drop()


def test_it_shows_what_matches_and_takes_nothing_away(settings: ConsumerSettings, tailing: Tailing) -> None:
    collector = Collector()
    with Running(settings, collector):
        publish(settings, [event_body("ab12", 5), event_body("cd34", 6)])
        publish(settings, [event_body("ef56", 7, op="d")], key="crm.contact.deleted")
        wait_for(lambda: {5, 6, 7} <= set(collector.versions))
        wait_for(lambda: "contact/cd34" in subjects(tailing))
    assert "contact/ef56" not in subjects(tailing)
    assert ready(settings, settings.queue) == 0


def test_a_signal_ends_it_with_nothing_left_behind(settings: ConsumerSettings, tailing: Tailing) -> None:
    tailing.process.send_signal(signal.SIGTERM)
    assert tailing.process.wait(30) == 0
    wait_for(lambda: own_queues(settings) == 0)


def test_killed_it_leaves_no_queue(settings: ConsumerSettings, tailing: Tailing) -> None:
    tailing.process.kill()
    tailing.process.wait()
    other = replace(settings, exchange=f"{settings.exchange}-other")
    with Running(other, Collector()):
        # On the embedded broker it is the other consumers that see a process gone.
        wait_for(lambda: own_queues(settings) == 0)
    remove(other)


def test_it_ends_after_as_many_as_were_asked_for(settings: ConsumerSettings) -> None:
    command = [sys.executable, "-W", "error", "-m", "eventbus", "tail", "--json", "-n", "1", "--url", settings.url]
    environment = {**os.environ, "EVENTBUS_EXCHANGE": settings.exchange}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        try:

            def ended() -> bool:
                try_publishing(settings, "ab12")
                return process.poll() is not None

            wait_for(ended)
            assert process.stdout is not None
            assert json.loads(process.stdout.read())["subject"] == "contact/ab12"
            assert process.returncode == 0
        finally:
            process.kill()


def test_it_begins_with_what_the_history_has_and_goes_on_with_what_comes(
    settings: ConsumerSettings, tmp_path: Path
) -> None:
    history = tmp_path / ".eventbus" / "history.sqlite3"
    history.parent.mkdir()
    keep(history, [Event("t1", "ab12", 10, "c", {"n": 1}), Event("t2", "ab12", 20, "u", {"n": 2}, ("n",), second=40)])
    options = ["--json", "-n", "2", "--since", "2025-11-23T12:00:30Z", "--data-dir", str(tmp_path), "crm.#"]
    command = [sys.executable, "-W", "error", "-m", "eventbus", "tail", *options]
    environment = {**os.environ, "EVENTBUS_URL": settings.url, "EVENTBUS_EXCHANGE": settings.exchange}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        try:

            def ended() -> bool:
                with suppress(Lost):
                    publish(settings, [event_body("ab12", 20), event_body("ab12", 30)])
                return process.poll() is not None

            wait_for(ended)
            assert process.stdout is not None
            told, live = map(json.loads, process.stdout)
            assert (told["time"], told["data"]["before"]) == ("2025-11-23T12:00:40.000000Z", {"n": 1})
            assert int(live["sequence"]) == 30, "version 20 is told by the history and not shown again"
        finally:
            process.kill()
