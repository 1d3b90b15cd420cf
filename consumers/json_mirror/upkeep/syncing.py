"""Telling the state, a moment later, which files have reached the disk.

An acknowledgement rests on the state alone, so no batch waits for its files' flush: a thread flushes the whole file
system at most once in `interval` seconds, and batches written before it began are then safe. It uses one call for
thousands of files, where a flush for each would cost some milliseconds a file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, final

INTERVAL: Final = 1.0

log = logging.getLogger(__name__)


@final
class Syncer:
    """Calls `sync` in a thread of its own; `synced` is the last batch that is known to be on the disk.

    A failed `sync` may have thrown data away for good (the kernel marks such pages clean), so that a later success
    proves nothing: `failures` counts up, and only what is reported with the new count, so written anew, can be synced.
    """

    def __init__(self, sync: Callable[[], None], interval: float = INTERVAL) -> None:
        self._sync = sync
        self._interval = interval
        self._report = (0, 0)
        self._wake = threading.Event()
        self._over = threading.Event()
        self.synced = 0
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name="eventbus-sync", daemon=True)
        self._thread.start()

    def written(self, batch: int, failures: int) -> None:
        """The files of all batches up to this one are written, if perhaps in memory only, after so many failures."""
        self._report = (batch, failures)
        self._wake.set()

    def close(self) -> None:
        """End the thread, after a flush of what was reported last; safe to call twice."""
        self._over.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.wait()
            self._over.wait(self._interval)
            self._wake.clear()
            self._flush(*self._report)

    def _flush(self, batch: int, failures: int) -> None:
        if batch <= self.synced or failures != self.failures:
            return
        try:
            self._sync()
        except OSError as error:
            log.error(  # noqa: TRY400
                "disk flush failed, the files are written again: %s", error, extra={"reason": str(error)}
            )
            self.failures += 1
        else:
            self.synced = batch
