"""A sign of life in the file system, which a probe reads without a broker, a network or a start-up of the mirror."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

DEFAULT_MAX_AGE: Final = 60.0
"""Seconds without a beat after which a probe calls the mirror dead. The loop beats every second; one batch on a slow
disk may take some."""


@final
class Heartbeat:
    """The modification time of the file at `path`. Setting it takes no space, so a full disk is no death."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def beat(self) -> None:
        """I am alive. Never raises: a mirror does not end because it could not say so."""
        try:
            os.utime(self._path)
        except FileNotFoundError:
            self._make()
        except OSError:
            return

    def _make(self) -> None:
        try:
            self._path.touch(mode=0o640)
        except OSError:
            return

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat from a thread while long work is done, on which no loop turns."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat_until, args=(over,), name="eventbus-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _beat_until(self, over: threading.Event) -> None:
        while True:
            self.beat()
            if over.wait(1.0):
                return

    def age(self) -> float | None:
        """Seconds since the last beat; None where there was none."""
        try:
            return max(0.0, time.time() - self._path.stat().st_mtime)
        except OSError:
            return None
