"""On SQLite: delivered rows that the next commit deletes, so that we need no transaction of our own for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, final

_MOST: Final = 500
"""Rows that ride with one commit: SQLite's older releases take 999 parameters."""
_TRIPS: Final = 64


@final
class Riders:
    """Offered by the dispatcher, taken along by a writer, and gone when that one has committed. Thread-safe.

    `commits` counts the writers that have asked.
    """

    def __init__(self) -> None:
        self.commits = 0
        self._lock = threading.Lock()
        self._offered: tuple[int, ...] = ()
        self._trips: dict[int, tuple[int, ...]] = {}

    def offer(self, row_ids: Sequence[int]) -> None:
        """These are to go with the next commit."""
        with self._lock:
            self._offered = tuple(row_ids[:_MOST])

    def take(self) -> tuple[int, ...]:
        """What a transaction deletes along with its own row; nobody else is offered it meanwhile."""
        self.commits += 1
        if not self._offered:
            return ()
        with self._lock:
            taken, self._offered = self._offered, ()
            return taken

    def ride(self, with_row: int, row_ids: tuple[int, ...]) -> None:
        """They were deleted in the transaction that wrote that row."""
        with self._lock:
            self._trips[with_row] = row_ids
            while len(self._trips) > _TRIPS:  # of transactions that were rolled back
                del self._trips[next(iter(self._trips))]

    def aboard(self) -> set[int]:
        """Rows that transactions have deleted of which it is not known yet whether they committed."""
        with self._lock:
            return {row_id for row_ids in self._trips.values() for row_id in row_ids}

    def arrived(self, with_row: int) -> tuple[int, ...]:
        """That transaction has committed: the rows that are gone with it."""
        if not self._trips:
            return ()
        with self._lock:
            return self._trips.pop(with_row, ())
