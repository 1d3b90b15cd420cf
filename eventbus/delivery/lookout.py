"""Looks whether the relay delivers what this process has written, and says so in the log where it does not."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, final

from eventbus.delivery.outboxes.account import DATABASE_ERRORS
from eventbus.delivery.stats import Stats, Watcher
from eventbus.delivery.tempo import Tempo
from eventbus.outbox import Store
from eventbus.outbox.queries import brief

_NONE: Final = (
    "no relay takes what this service writes, the oldest row has waited for %.0f s in %r. Nothing is lost. What to do: "
    "run `eventbus relay` for this database; `eventbus status` says what waits"
)
_STUCK: Final = (
    "the relay does not deliver what this service writes, the oldest row has waited for %.0f s in %r. Nothing is lost. "
    "What to do: look at the relay's log, or ask `eventbus status` what is in its way"
)

logger = logging.getLogger("eventbus.outbox")


@final
class Lookout:
    """A thread that looks every `tempo.sweep` seconds, if something was committed since or waits still.

    Rows older than twice that are told of once, until they are gone. `watchers` get the figures of each look.
    """

    def __init__(self, lock: AbstractContextManager[object], tempo: Tempo, watchers: Sequence[Watcher]) -> None:
        self.started = False
        self._lock = lock
        self._every = tempo.sweep
        self._watchers = watchers
        self._fresh: set[Store] = set()
        self._watched: dict[Store, Store] = {}
        self._told = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventbus-lookout", daemon=True)

    def committed(self, store: Store) -> None:
        """Rows were committed there. Under the lock."""
        self._fresh.add(store)

    def start(self) -> None:
        """Begin to look."""
        self.started = True
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
            self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._every)

    def forget(self) -> object:
        """In a child: what it looks through is the parent's. The caller keeps the result."""
        return self, [store.forget() for store in self._watched.values()]

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._look()
            except DATABASE_ERRORS as error:
                logger.debug("the outbox could not be looked at: %s", brief(error))
            except Exception:
                logger.exception("the outbox could not be looked at")
        self._let_go()

    def _look(self) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, set()
        for store in fresh:
            self._watched.setdefault(store, store.copy())
        if not self._watched:
            return
        found = {store: store.backlog(store.owner) for store in self._watched.values()}
        self._tell(found)
        stats = figures(found.values())
        for watcher in self._watchers:
            try:
                watcher(stats, ())
            except Exception:
                logger.exception("one who watches the figures failed")
        if not stats.pending_rows:
            self._let_go()

    def _tell(self, found: dict[Store, tuple[int, int]]) -> None:
        late = {store: _age(oldest) for store, (_, oldest) in found.items() if _age(oldest) > 2 * self._every}
        for store, age in late.items():
            if not self._told:
                logger.warning(_STUCK if store.leases.has_relay() else _NONE, age, store, extra={"outbox": repr(store)})
        if self._told and not late:
            logger.info("the relay delivers again")
        self._told = bool(late)

    def _let_go(self) -> None:
        """Nothing waits: no connection stays open for it."""
        for store in self._watched.values():
            with contextlib.suppress(*DATABASE_ERRORS):
                store.close()
        self._watched.clear()


def figures(backlogs: Iterable[tuple[int, int]]) -> Stats:
    """What a service can know of rows that the relay publishes, from counts and times of the oldest."""
    found = list(backlogs)
    rows = sum(count for count, _ in found)
    oldest = max((_age(since) for _, since in found), default=0.0)
    return Stats(pending_rows=rows, waiting_in_outbox=rows > 0, oldest_seconds=oldest)


def _age(since: int) -> float:
    """Seconds, by this machine's clock, which made the row."""
    return max(0.0, time.time() - since / 1e6) if since else 0.0
