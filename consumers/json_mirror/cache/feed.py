"""Keeps a cache up to date beside the mirror's work, without ever holding it up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, final

from consumers.json_mirror.cache.base import Cache
from consumers.json_mirror.cache.errors import CacheUnavailable
from consumers.json_mirror.cache.waiting import Key, Waiting
from consumers.json_mirror.errors import StateDamaged, StateUnavailable
from consumers.json_mirror.state import Record, State, Written
from eventbus.errors import counted

_CHUNK: Final = 500
_SLICE: Final = 1 << 20
"""Bytes of documents that are stored at a time."""
_LOOK: Final = 5.0
"""Seconds between two looks whether the cache has lost something."""
_MIN_FILL_PAUSE: Final = 60.0
"""Seconds between two fillings because of eviction: a cache that is too small would be filled without end."""
_PAUSES: Final = 9
"""Parts of the time after a filling, whether it came to its end or failed, in which there is no other."""

_AWAY: Final = (CacheUnavailable, StateUnavailable, StateDamaged)

log = logging.getLogger(__name__)


@final
class Feed:
    """Stores in `cache`, from a thread of its own, what is offered, and all of the state where the cache lacks it.

    `open_state` gives a state to read from: the thread has its own. `trouble` says why the cache lacks something; empty
    while it lacks nothing.
    """

    def __init__(self, cache: Cache, open_state: Callable[[], State], *, look: float = _LOOK) -> None:
        self._cache = cache
        self._open_state = open_state
        self._look = look
        self._waiting = Waiting()
        self._over = threading.Event()
        self._lacking = threading.Event()
        self._mark = ""
        self._evicted = 0
        self._next_fill = 0.0
        self._not_before = 0.0
        self._crowded = ""
        self.trouble = ""
        self._thread = threading.Thread(target=self._run, name="eventbus-cache", daemon=True)
        self._thread.start()

    def offer(self, written: Sequence[Written]) -> None:
        """Take note of what the state has taken in. Never blocks, never raises."""
        if not self._waiting.add((record.directory, record.filename) for record in written):
            self._lacking.set()

    def close(self, timeout: float = 5.0) -> None:
        """End the thread; what waits is stored if the cache answers in time."""
        self._over.set()
        self._waiting.end()
        self._thread.join(timeout)
        self._cache.close()

    def _run(self) -> None:
        while True:
            try:
                with self._open_state() as state:
                    self._serve(state)
                return
            except (StateUnavailable, StateDamaged) as error:
                self._lacking.set()
                self._lost(error)
                if self._over.wait(self._look):
                    return

    def _serve(self, state: State) -> None:
        self._mark = f"{state.identity} open"
        self._begin(state)
        next_look = 0.0
        while not (self._over.is_set() and not self._waiting):
            try:
                if not self._over.is_set() and time.monotonic() >= next_look:
                    next_look = time.monotonic() + self._look
                    self._fill_if_lacking(state)
                self._store_next(state)
            except _AWAY as error:
                self._lost(error)
                if self._over.wait(self._look):
                    return
        self._end(state)

    def _begin(self, state: State) -> None:
        """A cache that was left complete, by a mirror that has done nothing since, is complete."""
        try:
            if self._cache.holds(_closed(state)):
                self._cache.mark(self._mark)
            else:
                self._lacking.set()
            self._evicted = self._cache.evictions()
        except _AWAY as error:
            self._lacking.set()
            self._lost(error)

    def _end(self, state: State) -> None:
        try:
            if not self._lacking.is_set() and self._cache.holds(self._mark):
                self._cache.mark(_closed(state))
        except _AWAY as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        log.warning("what the cache lacks is stored once it can be: %s", error, extra={"reason": str(error)})
        self.trouble = f"no cache: {error}"

    def _store_next(self, state: State) -> None:
        keys = self._waiting.take(self._look, _CHUNK)
        if not keys:
            return
        try:
            self._store(state, keys)
        except _AWAY:
            if not self._waiting.add(keys):
                self._lacking.set()
            raise
        if not self._lacking.is_set():
            self.trouble = self._crowded

    def _store(self, state: State, keys: Sequence[Key]) -> None:
        """As they are in the state by now, however often they changed while they waited."""
        records: list[Record] = []
        size = 0
        for record in state.several(keys):
            records.append(record)
            size += len(record.document or b"")
            if size > _SLICE:
                self._cache.store(records)
                records, size = [], 0
        if records:
            self._cache.store(records)

    def _fill_if_lacking(self, state: State) -> None:
        if not self._cache.holds(self._mark) or self._has_evicted():
            self._lacking.set()
        if self._lacking.is_set() and time.monotonic() >= self._not_before:
            self._fill(state)
        if not self._lacking.is_set():
            self.trouble = self._crowded

    def _has_evicted(self) -> bool:
        return time.monotonic() >= self._next_fill and self._cache.evictions() > self._evicted

    def _fill(self, state: State) -> None:
        count, started = 0, time.monotonic()
        self._evicted = self._cache.evictions()
        self._lacking.clear()
        try:
            for records in state.records(_CHUNK):
                if self._over.is_set():
                    self._lacking.set()
                    return
                self._cache.store(records)
                count += len(records)
            self._cache.mark(self._mark)
        except _AWAY:
            self._lacking.set()
            raise
        finally:
            now = time.monotonic()
            self._not_before = now + _PAUSES * (now - started)
        self._next_fill = now + max(_MIN_FILL_PAUSE, _PAUSES * (now - started))
        crowded = self._cache.evictions() > self._evicted
        self._crowded = "the cache is too small: it throws records out" if crowded else ""
        log.info("cache filled from the state with %s", counted(count, "record"), extra={"records": count})


def _closed(state: State) -> str:
    return f"{state.identity} closed after {state.last_batch}"
