"""The processes under fire: writers, relays, a mirror."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eventbus.process.failpoints import NAMES, VARIABLE
from tests.faults.chaos.inbox import mirror_queue

ROOT = Path(__file__).parents[3]
_YOUTH = 4.0
"""Seconds a process needs to begin its work; one that had none is spared."""

Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Place:
    """Where they work: URLs, by way of the proxies, the name of exchange and queue, and a directory."""

    database: str
    broker: str
    name: str
    directory: Path
    ordering: str = "fast"
    delivery: str = "thread"
    data: Path = field(init=False)
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", self.directory / "data")
        object.__setattr__(self, "log", self.directory / "processes.log")


class Troop:
    """Starts them; kills them with -9 and starts others in their place."""

    def __init__(self, place: Place, seed: int, *, writers: int, relays: int) -> None:
        self._place, self._seed = place, seed
        self._source = random.Random(seed)
        self._number = 0
        self._born: dict[int, float] = {}
        self.kills = 0
        self.writers = [self._writer() for _ in range(writers)]
        self.relays = [self._relay() for _ in range(relays)]
        self.mirrors = [self._mirror()]

    def kill_one(self) -> None:
        """kill -9 of one process, which is replaced."""
        dice = self._source.random()
        if self.relays and dice < 0.2:
            self._replace(self.relays, self._relay)
        elif dice < 0.3:
            self._replace(self.mirrors, self._mirror)
        else:
            self._replace(self.writers, self._writer)

    def replace_dead(self) -> None:
        """Those that a failpoint ended, or the loss of a server."""
        for processes, start in ((self.writers, self._writer), (self.mirrors, self._mirror)):
            for position, process in enumerate(processes):
                if process.poll() is not None:
                    self.kills += 1
                    processes[position] = start()
        self.keep_relaying()

    def keep_relaying(self) -> None:
        """Start relays anew where there are none."""
        for position, process in enumerate(self.relays):
            if process.poll() is not None:
                self.relays[position] = self._relay()

    def kill_writers(self) -> None:
        """All of them; what they had not published stays."""
        for process in self.writers:
            _kill(process)

    def drain_mirror(self, timeout: float = 300) -> None:
        """Kill the mirror, and let another one empty its queue; it must succeed."""
        for process in self.mirrors:
            _kill(process)
        drain_mirror(self._place, timeout)

    def kill_all(self) -> None:
        """The end."""
        for process in (*self.writers, *self.relays, *self.mirrors):
            _kill(process)

    def _replace(self, processes: list[Process], start: object) -> None:
        grown = [at for at, each in enumerate(processes) if time.monotonic() - self._born[each.pid] > _YOUTH]
        if grown:
            position = self._source.choice(grown)
            _kill(processes[position])
            self.kills += 1
            processes[position] = start()  # type: ignore[operator]

    def _writer(self) -> Process:
        self._number += 1
        point = f"{self._source.choice(NAMES)}={self._source.randint(1, 150)}" if self._source.random() < 0.7 else ""
        place = self._place
        seed = f"{self._seed}-{self._number}"
        command = ["tests.faults.chaos.worker", place.database, place.broker, place.name, seed]
        return self._start(command, **{VARIABLE: point})

    def _relay(self) -> Process:
        place = self._place
        to = ["--database", place.database, "--url", place.broker, "--exchange", place.name]
        return self._start(["eventbus.relay", *to, "--grace", "5"])

    def _mirror(self) -> Process:
        return self._born_now(_mirror(self._place))

    def _start(self, command: list[str], **environment: str) -> Process:
        return self._born_now(_start(self._place, command, environment))

    def _born_now(self, process: Process) -> Process:
        self._born[process.pid] = time.monotonic()
        return process


def drain_mirror(place: Place, timeout: float = 300) -> None:
    """A mirror from the start to the end of its queue; it must succeed."""
    assert _mirror(place, "--drain").wait(timeout) == 0, f"the mirror does not drain its queue: see {place.log}"


def _mirror(place: Place, *arguments: str) -> Process:
    environment = {
        "EVENTBUS_URL": place.broker,
        "EVENTBUS_EXCHANGE": place.name,
        "EVENTBUS_QUEUE": mirror_queue(place.name),
        "EVENTBUS_DELIVERY_LIMIT": "10000",
    }
    return _start(place, ["consumers.json_mirror", "--data-dir", str(place.data), *arguments], environment)


def _start(place: Place, command: list[str], environment: Mapping[str, str]) -> Process:
    with place.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={
                **os.environ,
                "EVENTBUS_ORDERING": place.ordering,
                "EVENTBUS_DELIVERY": place.delivery,
                **environment,
            },
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()
