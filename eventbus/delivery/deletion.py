"""Delivered rows leave the outbox, many at a time."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager
from typing import Final, final

from eventbus import failpoints
from eventbus.delivery.parking import Parking
from eventbus.delivery.sources import LONG_AGO
from eventbus.delivery.tempo import Tempo
from eventbus.outbox.store import Store

_DELETE_ROWS: Final = 1000
_MISSED: Final = 3

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
        self._first = 0.0
        self._due = 0.0
        self._missed = 0

    def __bool__(self) -> bool:
        return bool(self._ids or self._parking.waiting)

    def add(self, row_ids: list[int]) -> None:
        """All events of these rows are with the broker."""
        at = time.monotonic()
        if not self._ids:
            self._first = at
        self._ids.extend(row_ids)
        # On SQLite this is the idle application's case; see `after_commit`.
        self._due = (at if self._store.is_sqlite else self._first) + self._after

    def due(self, at: float) -> list[float]:
        """When there is something to do, by the monotonic clock."""
        return [*([self._due] if self._ids else []), *([at] if self._parking.waiting else [])]

    def is_ready(self, at: float) -> bool:
        """Whether to work now."""
        many = len(self._ids) >= _DELETE_ROWS
        return many or bool(self._parking.waiting) or bool(self._ids and at >= self._due)

    def is_ready_after_commit(self, at: float) -> bool:
        """On SQLite, just after a commit: whether something is due.

        A transaction there that has read, and comes to write after others did, fails at once, however long it would
        wait. An application with one thread that has just committed is in none.
        """
        return self._store.is_sqlite and bool(self._ids) and at >= self._first + self._after

    def put_off(self, at: float) -> None:
        """It failed: not with each commit."""
        self._first = at

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

    def _compare(self, ids: list[int], found: int) -> None:
        """Say it where rows are missing that nobody but this process may have deleted: that takes the grace time."""
        if found >= len(ids) or not self.expects_rows:
            return
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
