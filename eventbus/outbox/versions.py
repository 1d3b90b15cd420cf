"""Versions of events: they begin near the host's clock, so that they never fall, whatever becomes of the tables.

An event's version is the id of its outbox row, which each database draws: see `writing.table_writer`, and beside it
`postgres`, `maria`, `sqlite`. An event without a row has one of the clock's.
"""

from __future__ import annotations

import threading
import time

from eventbus.process import forks


def now() -> int:
    """The host's clock in microseconds since 1970."""
    return time.time_ns() // 1000


class VersionClock:
    """Rising integers near the clock in microseconds: the versions of events that have no outbox row."""

    _lock = threading.Lock()

    def __init__(self) -> None:
        self._last = 0

    @classmethod
    def forked(cls) -> None:
        """In a child: another thread may have held the lock at that moment."""
        cls._lock = threading.Lock()

    def next(self) -> int:
        """Greater than every one before, in this process."""
        with self._lock:
            self._last = version = max(self._last + 1, now())
            return version


forks.in_child(VersionClock.forked)
