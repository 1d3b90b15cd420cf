"""`delivery="relay"`, and strict ordering, from the writer's side: nothing is published here."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final, final

from eventbus.delivery import lifetime
from eventbus.delivery.lookout import Lookout, figures
from eventbus.delivery.stats import KEPT, Stats, Watcher
from eventbus.delivery.tempo import Tempo
from eventbus.errors import EventBusError, FlushTimeout, counted
from eventbus.outbox import Entry, Store
from eventbus.process import forks

_POLL: Final = 0.02
_MOST: Final = 100_000
"""Rows that are remembered until a flush has seen what became of them."""


@final
class Relayed:
    """Events are left in the outbox for `eventbus relay`, the only one to publish them.

    A thread looks now and then whether it does (see `Lookout`). No connection to the broker is opened.
    """

    def __init__(self, tempo: Tempo = Tempo()) -> None:
        self._tempo = tempo
        self._watchers: list[Watcher] = []
        self._begin()
        lifetime.live(self)

    def _begin(self) -> None:
        self._written: dict[Store, deque[int]] = {}
        self._lock = threading.RLock()
        self._lookout = Lookout(self._lock, self._tempo, self._watchers)
        self._closed = False

    def forked(self) -> object:
        """In a child: what the parent wrote is the parent's, and another thread may have held its lock."""
        inherited = self._lookout.forget()
        self._begin()
        return inherited

    def submit(self, entries: Sequence[Entry]) -> None:
        """Remember what was committed, for those who flush. Never blocks on anything slow, never raises."""
        forks.notice()
        with self._lock:
            for batch, store in entries:
                if store is not None:
                    written = self._written.get(store)
                    if written is None:
                        written = self._written[store] = deque(maxlen=_MOST)
                    written.append(batch.version)
                    self._lookout.committed(store)
        if not self._lookout.started and not self._closed:
            self._lookout.start()

    def nudge(self, store: Store) -> None:
        """The relay looks by itself."""

    def flush(self, timeout: float) -> None:
        """Return when the relay has delivered all that was committed so far; raise where some of it is parked."""
        deadline = time.monotonic() + timeout
        for written, store in self._readers():
            last = max(written)
            while waiting := [row for row in store.ids(store.owner) if row <= last]:
                if time.monotonic() > deadline:
                    rows = counted(len(waiting), "row")
                    raise FlushTimeout(
                        f"still in the outbox after {timeout:g} s: {rows}; is `eventbus relay` running?",
                        pending=len(waiting),
                    )
                time.sleep(_POLL)
            self._check(store, written)

    def _check(self, store: Store, written: list[int]) -> None:
        parked, seen = set(store.parked.among(written)), set(written)
        with self._lock:
            for kept, rows in self._written.items():
                if kept.owner == store.owner:
                    left = [row for row in rows if row in parked or row not in seen]
                    rows.clear()
                    rows.extend(left)
        if parked:
            raise FlushTimeout(f"not taken by the broker: {counted(len(parked), 'row')}; {KEPT}", pending=len(parked))

    def close(self, timeout: float) -> None:
        """Look no more. What the relay has not delivered by now it delivers later: nothing is waited for."""
        self._closed = True
        self._lookout.close()
        lifetime.die(self)

    def stats(self) -> Stats:
        """What of this process waits for the relay. Asks the database."""
        return figures(store.backlog(store.owner) for _, store in self._readers())

    def watch(self, watcher: Watcher) -> None:
        """Tell this one of the figures whenever the lookout has them, and that there are none yet."""
        self._watchers.append(watcher)
        watcher(Stats(), ())

    def _readers(self) -> Iterator[tuple[list[int], Store]]:
        """For one call only: its thread may be any, and a fork must find no connection."""
        forks.notice()
        with self._lock:
            written = [(store, list(rows)) for store, rows in self._written.items() if rows]
        for store, rows in written:
            if store.is_async:
                _demand_no_loop()
            with closing(store.copy()) as reader:
                yield rows, reader


def _demand_no_loop() -> None:
    """An async driver cannot be used here from within a running event loop, which must not wait anyway."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise EventBusError(
            "Where the relay publishes, bus.stats() and bus.flush() ask the database: in a coroutine call "
            "`await asyncio.to_thread(bus.stats)`."
        )
