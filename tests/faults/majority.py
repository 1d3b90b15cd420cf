"""A broker of three nodes that loses two, and gets them back: `python -m tests.faults.majority`, some minutes.

A quorum queue without its majority answers nothing, while its node goes on with heartbeats. Whatever talks to it has to
end in stated time, and go on by itself afterwards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from consumers.base import ConsumerSettings
from tests.support.consuming import event_body, publish, ready, wait_for
from tests.support.nodes.rabbitmq_cluster import RabbitCluster

QUEUE = "majority"
STARTS = 30.0
"""Seconds for a process to start and to end, on a busy machine."""


def main() -> int:
    """Exit code 0: all of it held."""
    with tempfile.TemporaryDirectory() as directory, RabbitCluster() as cluster:
        place = _Place(cluster.url, Path(directory))
        settings = replace(ConsumerSettings(), url=cluster.url, queue=QUEUE)
        place.end("consumers.json_mirror", "--drain", code=0, within=60)
        publish(settings, [event_body(version=1), b"no event"])
        place.end("consumers.json_mirror", "--drain", code=0, within=60)
        publish(settings, [event_body(version=2)])
        with place.mirror() as mirror:
            cluster.lose_majority()
            place.end("consumers.json_mirror", "--drain", code=1, within=45, data="other")
            place.end("consumers.dead_letters", "list", code=1, within=10)
            place.end("consumers.dead_letters", "retry", "--all", code=1, within=10)
            with place.mirror("third") as third:
                time.sleep(3)
                place.stop(third, within=15)
            cluster.regain_majority()
            publish(settings, [event_body(version=3)])
            wait_for(lambda: ready(settings, QUEUE) == 0, 120)
            place.stop(mirror, within=15)
        place.end("consumers.dead_letters", "list", code=0, within=10)
    print("all of it held")
    return 0


class _Place:
    """Commands in a directory, and how long they may take."""

    def __init__(self, url: str, directory: Path) -> None:
        self._directory = directory
        self._environment = {**os.environ, "EVENTBUS_URL": url, "EVENTBUS_QUEUE": QUEUE}

    def end(self, module: str, *arguments: str, code: int, within: float, data: str = "data") -> None:
        """Run a command, which must end so and in time."""
        start = time.monotonic()
        process = self._start(module, *arguments, data=data)
        found = process.wait(within + STARTS)
        print(f"{module} {' '.join(arguments)}: exit {found} after {time.monotonic() - start:.1f} s", flush=True)
        assert found == code, f"exit code {found} in place of {code}"

    @contextlib.contextmanager
    def mirror(self, data: str = "data") -> Iterator[subprocess.Popen[bytes]]:
        process = self._start("consumers.json_mirror", data=data)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def stop(self, process: subprocess.Popen[bytes], *, within: float) -> None:
        """SIGTERM, which must be obeyed in time."""
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(within + STARTS) == 0
        print(f"SIGTERM: obeyed after {time.monotonic() - start:.1f} s", flush=True)

    def _start(self, module: str, *arguments: str, data: str = "data") -> subprocess.Popen[bytes]:
        environment = {**self._environment, "DATA_DIR": str(self._directory / data)}
        return subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment)


if __name__ == "__main__":
    raise SystemExit(main())
