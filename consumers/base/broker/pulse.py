"""Heartbeats while the consumer's own thread is busy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from consumers.base.errors import BROKER_ERRORS


@final
class Pulse:
    """`with pulse:` around work during which nobody reads from or writes to the connection.

    Work that takes longer than `interval` seconds (a disk that stalls) has `beat` called from a second thread, so that
    the broker does not take the consumer for dead and hand its deliveries to another. The two threads never use the
    connection at once.
    """

    def __init__(self, interval: float, beat: Callable[[], None]) -> None:
        self._interval = interval
        self._beat = beat
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name="eventbus-pulse", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        with self._lock:
            self._since = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._since = None

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            with self._lock:
                if self._since is not None and time.monotonic() - self._since >= self._interval:
                    # A connection that broke meanwhile is found out by the consumer's thread.
                    with contextlib.suppress(*BROKER_ERRORS):
                        self._beat()
