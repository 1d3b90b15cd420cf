"""Keeps a cache up to date beside the mirror's work, without ever holding it up."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, final

from consumers.json_mirror.cache.base import Cache
from consumers.json_mirror.cache.errors import CacheUnavailable
from consumers.json_mirror.state import Record, State, Written

MAX_WAITING: Final = 200
"""Batches that may wait for a slow cache. What does not fit is left out, and the cache filled anew from the state."""

_CHUNK: Final = 500
_LOOK: Final = 5.0
"""Seconds between two looks whether the cache has lost something."""
_MIN_FILL_PAUSE: Final = 60.0
"""Seconds between two fillings because of eviction: a cache that is too small would be filled without end."""

log = logging.getLogger(__name__)


@final
class Feed:
    """Stores in `cache`, from a thread of its own, what is offered, and all of the state where the cache lacks it.

    `open_state` gives a state to read from: the thread has its own.
    """

    def __init__(self, cache: Cache, open_state: Callable[[], State], *, look: float = _LOOK) -> None:
        self._cache = cache
        self._open_state = open_state
        self._look = look
        self._waiting: queue.Queue[Sequence[Written] | None] = queue.Queue(MAX_WAITING)
        self._over = threading.Event()
        self._lacking = threading.Event()
        self._filled_at = 0.0
        self._thread = threading.Thread(target=self._run, name="eventbus-cache", daemon=True)
        self._thread.start()

    def offer(self, written: Sequence[Written]) -> None:
        """Take note of what the state has taken in. Never blocks, never raises."""
        if not written:
            return
        try:
            self._waiting.put_nowait(written)
        except queue.Full:
            self._lacking.set()

    def close(self, timeout: float = 5.0) -> None:
        """End the thread; what waits is stored if the cache answers in time."""
        self._over.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout)
        self._cache.close()

    def _run(self) -> None:
        with self._open_state() as state:
            identity = state.identity
            next_look = 0.0
            while not (self._over.is_set() and self._waiting.empty()):
                try:
                    if not self._over.is_set() and time.monotonic() >= next_look:
                        next_look = time.monotonic() + self._look
                        self._fill_if_lacking(state, identity)
                    self._store_next()
                except CacheUnavailable as error:
                    log.warning("cache does not answer; it will be filled again", extra={"reason": str(error)})
                    self._lacking.set()
                    if self._over.wait(self._look):
                        return

    def _store_next(self) -> None:
        try:
            written = self._waiting.get(timeout=self._look)
        except queue.Empty:
            return
        if written:
            self._cache.store([Record(*record[:4]) for record in written])

    def _fill_if_lacking(self, state: State, identity: str) -> None:
        if self._cache.holds(identity) and not self._lacking.is_set():
            return
        now = time.monotonic()
        if self._filled_at and now - self._filled_at < _MIN_FILL_PAUSE and not self._lacking.is_set():
            return
        self._lacking.clear()
        count = 0
        for records in state.records(_CHUNK):
            if self._over.is_set():
                self._lacking.set()
                return
            self._cache.store(records)
            count += len(records)
        self._cache.mark(identity)
        self._filled_at = now
        log.info("cache filled from the state", extra={"records": count})
