"""Mirrors in processes of their own, somebody who never stops reading their files, and somebody who feeds them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from consumers.base import ConsumerSettings
from consumers.json_mirror.disk.directories import PRIVATE
from tests.support.consuming import publish
from tests.support.mirroring import MODEL, body

COMMAND = (sys.executable, "-W", "error", "-m", "consumers.json_mirror")


def mirror_settings(url: str, name: str) -> ConsumerSettings:
    """Exchange and queue of the test's own."""
    return replace(ConsumerSettings(), url=url, exchange=name, queue=name)


def environment(settings: ConsumerSettings, data_dir: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a mirror with these settings is started with."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")}
    return {
        **known,
        "EVENTBUS_URL": settings.url,
        "EVENTBUS_EXCHANGE": settings.exchange,
        "EVENTBUS_QUEUE": settings.queue,
        "EVENTBUS_PREFETCH": str(settings.prefetch),
        "DATA_DIR": str(data_dir),
        **(more or {}),
    }


class MirrorProcess:
    """`with MirrorProcess(settings, data_dir) as process`: started, and killed at the end if it still runs."""

    def __init__(self, settings: ConsumerSettings, data_dir: Path, *arguments: str, **more: str) -> None:
        self.lock = data_dir / PRIVATE / "lock"
        self.log = data_dir.with_suffix(".log")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, *arguments], env=environment(settings, data_dir, more), stdout=log, stderr=log
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until_it_holds_the_directory(self) -> None:
        """From here on it recovers, connects, consumes."""
        end = time.monotonic() + 30
        while not self._holds():
            assert self.running, self.log.read_text()
            assert time.monotonic() < end, "the mirror did not start"
            time.sleep(0.005)

    def _holds(self) -> bool:
        try:
            return bool(orjson.loads(self.lock.read_bytes())["pid"] == self._process.pid)
        except (OSError, ValueError):
            return False

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout)

    def wait(self, timeout: float = 60) -> int:
        """Until it ends by itself; the exit code."""
        return self._process.wait(timeout)


def drain(settings: ConsumerSettings, data_dir: Path, timeout: float = 120) -> None:
    """A mirror from start to end of the queue; it must succeed."""
    with MirrorProcess(settings, data_dir, "--drain") as process:
        assert process.wait(timeout) == 0, process.log.read_text()


class Reader:
    """`with Reader(data_dir) as reader`: a thread that reads every file again and again; `faults` must stay empty."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.read = 0
        self.faults: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.001):
            for path in self._data_dir.glob("[!.]*/*/*"):
                self._read(path)

    def _read(self, path: Path) -> None:
        if path.suffix != ".json":
            self.faults.append(f"temporary name: {path}")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        try:
            document = orjson.loads(content)
            assert content.endswith(b"}\n")
            assert path.name == f"{document['pk']}.json"
        except (AssertionError, ValueError, KeyError) as error:
            self.faults.append(f"{path}: {error!r} in {content!r}")
        self.read += 1


class Load:
    """`with Load(settings) as load`: a thread that changes, deletes and makes records again, `rate` a second.

    Every event is confirmed by the broker. Versions rise, but a tenth arrives late, and a tenth twice. `expected` holds
    the fields of the records that must be there in the end.
    """

    def __init__(self, settings: ConsumerSettings, *, records: int = 100, rate: float = 600, seed: int = 7) -> None:
        self._settings = settings
        self._records = records
        self._pause = 20 / rate
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._newest: dict[str, dict[str, Any] | None] = {}
        self._late: list[bytes] = []
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._send(self._late)

    @property
    def expected(self) -> dict[str, Any]:
        """Fields by path."""
        directory = MODEL.replace(".", "/")
        return {f"{directory}/{pk}.json": fields for pk, fields in self._newest.items() if fields is not None}

    def _run(self) -> None:
        version = 1_000
        while not self._over.wait(self._pause):
            bodies = []
            for _ in range(20):
                version += 1
                bodies += self._change(version)
            self._send(bodies)

    def _change(self, version: int) -> list[bytes]:
        pk = f"r{self._random.randrange(self._records)}"
        deleted = self._random.random() < 0.2
        fields = None if deleted else {"n": version, "text": "é" * self._random.randrange(300)}
        self._newest[pk] = fields
        made = body(pk, version, fields)
        chance = self._random.random()
        if chance < 0.1:
            self._late.append(made)
            return []
        again = [made] if chance > 0.9 else []
        late = [self._late.pop(0)] if len(self._late) > 10 else []
        return [made, *again, *late]

    def _send(self, bodies: list[bytes]) -> None:
        publish(self._settings, bodies)
        self.sent += len(bodies)
