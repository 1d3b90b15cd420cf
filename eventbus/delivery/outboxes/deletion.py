"""Delivered rows leave the outbox, many at a time."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager
from typing import Final, final

from eventbus.delivery.outboxes.parking import Parking
from eventbus.delivery.outboxes.sources import LONG_AGO
from eventbus.delivery.tempo import Tempo
from eventbus.outbox.reading.store import Store
from eventbus.process import failpoints

_DELETE_ROWS: Final = 1000
_MISSED: Final = 3
_RIDE: Final = 0.5
"""Seconds that rows wait for a commit to delete them."""

logger = logging.getLogger("eventbus.outbox")


@final
class Deletion:
    """Rows whose events are all with the broker, until they are gone; parked ones go with them.

    `expects_rows`: whether it is a fault if rows are gone too soon.
    """

    def __init__(
        self,
        store: Store,
        lock: AbstractContextManager[object],
        known: dict[int, float],
        parking: Parking,
        tempo: Tempo,
    ) -> None:
        self.expects_rows = True
        self._store = store
        self._lock = lock
        self._known = known
        self._parking = parking
        self._grace = tempo.grace
        self._after = tempo.delete if tempo.delete is not None else 1.0 if store.is_sqlite else 0.25
        self._ids: list[int] = []
        self._due = 0.0
        self._ride = min(_RIDE, self._after)
        self._commits = 0
        self._offered = self._occupied = False
        self._missed = 0

    def __bool__(self) -> bool:
        return bool(self._ids or self._parking.waiting)

    def add(self, row_ids: list[int]) -> None:
        """All events of these rows are with the broker."""
        if not self._ids:
            self._due = time.monotonic() + self._after
        self._ids.extend(row_ids)

    def due(self, at: float) -> list[float]:
        """When there is something to do, by the monotonic clock."""
        return [*([self._due] if self._ids else []), *([at] if self._parking.waiting else [])]

    def is_ready(self, at: float) -> bool:
        """Whether to work now. On SQLite the next commit is given the chance to delete the rows on its way."""
        many = len(self._ids) >= _DELETE_ROWS
        ready = many or bool(self._parking.waiting) or bool(self._ids and at >= self._due)
        if not ready or self._offered or self._parking.waiting or not self._is_busy():
            return ready
        self._offered = True
        self._store.riders.offer(self._ids)
        self._due = at + self._ride
        return False

    def _is_busy(self) -> bool:
        """On SQLite: whether the application has committed since the last look, and may do so again."""
        before, self._commits = self._commits, self._store.riders.commits
        return self._commits != before

    def put_off(self, at: float) -> None:
        """The application is in a transaction: it may delete the rows on its way, or we do later."""
        self._occupied = True
        self._offered = False
        self._due = at + self._ride

    def rode(self, with_row: int) -> None:
        """A transaction has committed that may have deleted rows on its way. Under the lock."""
        gone = set(self._store.riders.arrived(with_row))
        if gone:
            for row_id in gone:
                self._known.pop(row_id, None)
            self._ids = [row_id for row_id in self._ids if row_id not in gone]
            self._offered = self._occupied = False
            self._due = time.monotonic() + (self._after if len(self._ids) < _DELETE_ROWS else 0.0)

    @property
    def settled(self) -> bool:
        """Whether the outbox shows all that was done, or the application itself keeps us from it."""
        return not self or self._occupied

    def work(self, *, sure: bool = True) -> None:
        """Delete and park. `sure`: no deletion has failed lately, whose answer alone may have been lost."""
        ids = list(dict.fromkeys(self._ids))
        if not self:
            return
        failpoints.hit("before_delete")
        found = self._store.delete(ids)
        if sure:
            self._compare(ids, found)
        self._parking.move()
        with self._lock:
            for row_id in (*ids, *self._parking.waiting):
                self._known.pop(row_id, None)
            self._ids = []
            self._parking.waiting.clear()
        self._offered = self._occupied = False

    def _compare(self, ids: list[int], found: int) -> None:
        """Say it where rows are missing that nobody but this process may have deleted: that takes the grace time."""
        if found >= len(ids) or not self.expects_rows:
            return
        aboard = self._store.riders.aboard()
        ids = [row_id for row_id in ids if row_id not in aboard]
        since = time.monotonic() - self._grace / 2
        with self._lock:
            old = sum(self._known.get(row_id, LONG_AGO) < since for row_id in ids)
        before = self._missed
        self._missed += max(0, len(ids) - found - old)
        if before < _MISSED <= self._missed:
            logger.error(
                "rows just written are not in the outbox that is looked at, nobody would find those of a dead process. "
                "Is search_path set for each transaction? Set it for the connections of an engine for each schema",
                extra={"outbox": repr(self._store)},
            )
