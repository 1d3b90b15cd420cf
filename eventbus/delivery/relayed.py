"""Strict ordering, from the writer's side: nothing is published here."""

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
from eventbus.delivery.stats import KEPT, Stats
from eventbus.errors import EventBusError, FlushTimeout, counted
from eventbus.outbox import Entry, Store
from eventbus.process import forks

_POLL: Final = 0.02
_MOST: Final = 100_000
"""Rows that are remembered until a flush has seen what became of them."""


@final
class Relayed:
    """`ordering="strict"`: events are left in the outbox for `eventbus-relay`, the only one to publish them."""

    def __init__(self) -> None:
        self._written: dict[Store, deque[int]] = {}
        self._lock = threading.RLock()
        lifetime.live(self)

    def forked(self) -> object:
        """In a child: another thread of the parent may have held the lock at that moment."""
        self._lock = threading.RLock()
        return None

    def submit(self, entries: Sequence[Entry]) -> None:
        forks.notice()
        with self._lock:
            for batch, store in entries:
                if store is not None:
                    self._written.setdefault(store, deque(maxlen=_MOST)).append(batch.version)

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
                        f"still in the outbox after {timeout:g} s: {rows}; is eventbus-relay running?",
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
        """Nothing is open."""

    def stats(self) -> Stats:
        waiting = sum(len(store.ids(store.owner)) for _, store in self._readers())
        return Stats(pending_rows=waiting, waiting_in_outbox=waiting > 0)

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
            "With strict ordering bus.stats() and bus.flush() ask the database: in a coroutine call "
            "`await asyncio.to_thread(bus.stats)`."
        )
