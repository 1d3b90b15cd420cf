"""What `status` says of a mirror at the moments that count: held after a long idleness, and killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.base import ConsumerSettings
from tests.support.chain import PATIENCE, Place
from tests.support.committing import eventually
from tests.support.consuming import event_body, publish

HOLD = 10.0
STATUS = [sys.executable, "-W", "error", "-m", "eventbus", "mirror", "--status", "--json"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        yield place


def lag(place: Place) -> float:
    return float(json.loads(place.command(STATUS))["lag"])


@pytest.mark.slow
def test_after_a_week_of_idleness_lag_is_how_long_it_was_held(place: Place) -> None:
    """The event before is of another week, so that a lag reckoned from it is of days."""
    settings = ConsumerSettings(url=place.url)
    mirror = place.mirror()
    publish(settings, [event_body("ab12", 1)])
    eventually((place.data_dir / "crm/contact/ab12.json").exists, PATIENCE)
    assert lag(place) == 0
    eventually((place.data_dir / ".eventbus/caught-up").exists, PATIENCE)  # it has noticed that nothing waits
    mirror.process.send_signal(signal.SIGSTOP)
    try:
        before = time.monotonic()
        publish(settings, [event_body("ab12", 2)])
        sent = time.monotonic()
        eventually(lambda: time.monotonic() - sent >= HOLD, PATIENCE)
        asked = time.monotonic()
        told = lag(place)
        # What waits cannot be older than the hold, nor younger than what was sent; two seconds for clocks and turns.
        assert asked - sent - 2 <= told <= time.monotonic() - before + 2
    finally:
        mirror.process.send_signal(signal.SIGCONT)
    eventually(lambda: lag(place) == 0, PATIENCE)


@pytest.mark.slow
def test_a_killed_mirror_is_told_of_at_once(place: Place) -> None:
    mirror = place.mirror()
    both = (STATUS, [sys.executable, "-W", "error", "-m", "eventbus", "status"])
    for command in both:
        place.command(command)
    mirror.kill()
    assert "is dead" in json.loads(_printed(place, STATUS))["trouble"]
    assert "is dead: it was killed, or crashed" in _printed(place, both[1])
    place.mirror()
    for command in both:
        place.command(command)


def _printed(place: Place, command: list[str]) -> str:
    """What a command prints that ends with 1."""
    done = subprocess.run(
        command, cwd=place.directory, env=place.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout
