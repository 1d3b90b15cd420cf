"""Mirrors as they run in production, processes of their own, and when they are done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from consumers.json_mirror.errors import StateUnavailable
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import State


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Look twenty times a second."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.05)


@dataclass(slots=True)
class Mirror:
    """One mirror's process and directory."""

    process: subprocess.Popen[bytes]
    data_dir: Path

    def durable(self) -> int:
        """Records in the state whose files are on the disk for certain; 0 while some are not."""
        try:
            with State(MirrorSettings(data_dir=self.data_dir).state_file, read_only=True) as state:
                return 0 if state.pending() else sum(figures.live for figures in state.figures())
        except (StateUnavailable, FileNotFoundError):
            return 0


def wait_for(mirrors: list[Mirror], records: int) -> None:
    """Until together they have so many, durably."""
    wait_until(lambda: sum(mirror.durable() for mirror in mirrors) >= records, f"{records:,} durable records", 300)


@contextmanager
def running(
    url: str, name: str, base: Path, *, shards: int = 1, cache: str = "", history: str = "off"
) -> Iterator[list[Mirror]]:
    """So many mirrors of one queue; ended afterwards. What waited in it is written. The queue is the caller's."""
    with ExitStack() as stack:
        mirrors = []
        for index in range(shards):
            data_dir = base / str(index)
            environment = {
                **os.environ,
                "EVENTBUS_URL": url,
                "EVENTBUS_EXCHANGE": name,
                "EVENTBUS_QUEUE": name,
                "EVENTBUS_CACHE_URL": cache,
                "EVENTBUS_HISTORY": history,
                **({"EVENTBUS_SHARD": f"{index}/{shards}"} if shards > 1 else {}),
            }
            command = [sys.executable, "-m", "consumers.json_mirror", "--data-dir", str(data_dir)]
            process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            stack.callback(_end, process)
            mirrors.append(Mirror(process, data_dir))
        for mirror in mirrors:
            caught_up = MirrorSettings(data_dir=mirror.data_dir).caught_up_file
            wait_until(caught_up.exists, "the mirror's first look at its queue")
        yield mirrors


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
