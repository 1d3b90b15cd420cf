"""The outbox as the relay reads it: page by page from the start, when something may have come."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final, final

from sqlalchemy.exc import OperationalError

from eventbus.outbox import Row, Store
from eventbus.outbox.turns import Occupied
from eventbus.relay.readers import reader_of

_MANY: Final = 1000
_LONGEST: Final = 0.5
_QUIET: Final = 0.2
_AGAIN: Final = 0.1
_PATIENCE: Final = 5.0


@final
class Pages:
    """Rows that are this relay's to publish: those that services leave to it, or with `everything` all there are.

    Each page is read from the start: what was dealt with is gone from there, and a transaction that commits late has a
    lower id than those seen before it.

    On SQLite a deletion keeps the application from writing, so there rows are deleted together: many at a time, or when
    nobody has written for a moment, or after half a second; and in a moment when nobody uses the file, if there is one
    within five seconds. Until then they are known here, and passed over.
    """

    def __init__(self, store: Store, *, everything: bool) -> None:
        self._store = store
        self._reader = reader_of(store, everything=everything)
        self._lazy = store.is_sqlite
        self._done: set[int] = set()
        self._passed = 0
        self._done_since = self._busy_at = self._delete_at = 0.0
        self._empty = False

    @property
    def pause(self) -> float:
        """Seconds until it is worth to look for a page again."""
        return self._reader.pause

    def next(self) -> list[Row]:
        """The next rows to publish; none if nothing may have come since there were none."""
        rows = self._read()
        at = time.monotonic()
        if rows:
            self._busy_at = at
        if self._done:
            self._delete_in_time(at)
        return rows

    def delete(self, ids: Iterable[int]) -> None:
        """These are dealt with."""
        if not self._lazy:
            self._store.delete(list(ids))
            return
        if not self._done:
            self._done_since = time.monotonic()
        self._done.update(ids)

    def close(self) -> None:
        """Delete what is dealt with, and let go of the database."""
        try:
            self._delete()
        finally:
            self._reader.close()

    def _read(self) -> list[Row]:
        found = self._reader.read(self._passed, sure=not self._empty)
        rows = [row for row in found if row.id not in self._done]
        # On SQLite transactions commit in the order of their ids, so nothing comes before what was passed.
        first = rows[0].id if rows else None
        self._passed = max((row.id for row in found if first is None or row.id < first), default=self._passed)
        self._empty = not rows
        return rows

    def _delete_in_time(self, at: float) -> None:
        due = len(self._done) >= _MANY or at - self._busy_at > _QUIET or at - self._done_since > _LONGEST
        if not due or at < self._delete_at:
            return
        patient = at - self._done_since <= _PATIENCE
        try:
            self._delete(alone=patient)
        except (Occupied, OperationalError) as error:
            locked = isinstance(error, Occupied) or "locked" in str(error.orig)
            if not locked or not patient:
                raise
            self._delete_at = at + _AGAIN

    def _delete(self, *, alone: bool = False) -> None:
        if self._done:
            self._store.delete(list(self._done), alone=alone)
            self._done.clear()
            self._passed = 0
