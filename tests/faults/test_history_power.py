"""The power goes while mirror, historian and git follower write: the history has everything that was acknowledged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import orjson
import pytest

from consumers.base import ConsumerSettings
from consumers.history.reading.history import History
from tests.faults.history_kills import Keepers
from tests.support.consuming import remove, wait_for
from tests.support.mirror_process import Load, environment, mirror_settings
from tests.support.power import disk_at

CUTS = int(os.environ.get("EVENTBUS_TEST_CUTS", "3"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")]


class Noting(Load):
    """A load that knows what it has sent: record and version of every event."""

    def __init__(self, settings: ConsumerSettings) -> None:
        super().__init__(settings, rate=300)
        self.said: set[tuple[str, int]] = set()

    def _send(self, bodies: list[bytes]) -> None:
        super()._send(bodies)
        self.said |= {_said(body) for body in bodies}


def _said(body: bytes) -> tuple[str, int]:
    event = orjson.loads(body)
    return f"crm/contact/{event['data']['pk']}.json", int(event["sequence"])


def asked(variables: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "consumers.history", *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def test_a_power_loss_takes_nothing_from_the_history(tmp_path: Path, unique: str) -> None:
    settings = mirror_settings(f"sqlite:///{tmp_path / 'broker.sqlite3'}", unique)
    chance = random.Random(5)
    with disk_at(tmp_path / "disk") as disk:
        private = disk.place / "data" / ".eventbus"
        more = {"EVENTBUS_HISTORY": "git", "EVENTBUS_HISTORY_SETTLE": "0.2", "EVENTBUS_SERVICE": "crm"}
        variables = environment(settings, disk.place / "data", more)
        try:
            Keepers(variables, tmp_path / "log", "--drain").wait()
            with Noting(settings) as load:
                for _ in range(CUTS):
                    keepers = Keepers(variables, tmp_path / "log")
                    keepers.wait_for_all()
                    time.sleep(chance.random() * 3)  # anywhere
                    disk.cut_power(partial(keepers.signal, signal.SIGSTOP), keepers.end)
            Keepers(variables, tmp_path / "log", "--drain").wait()
            wait_for(lambda: orjson.loads(asked(variables, "status", "--json"))["waiting"] == 0, 120)
            asked(variables, "git")
            with History(private / "history.sqlite3") as history:
                kept = history.query("SELECT path, change.version FROM change JOIN record ON record.id = change.record")
            assert len(kept) == len(set(kept))
            assert set(kept) == load.said
            assert asked(variables, "verify", "--git") == "the history is whole\n"
            tip = (private / "history.git/refs/heads/main").read_text()
            asked(variables, "git", "--fresh")
            assert (private / "history.git/refs/heads/main").read_text() == tip
            assert "Traceback" not in (tmp_path / "log").read_text()
        finally:
            remove(settings)
