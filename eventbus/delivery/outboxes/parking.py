"""What the broker did not take of one outbox: out of the way, and tried again seldom."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Final, final

from eventbus.delivery.parcel import Parcel
from eventbus.delivery.tempo import Tempo, Timer
from eventbus.outbox import versions
from eventbus.outbox.reading.parked_rows import NEVER, ParkedRow
from eventbus.outbox.reading.store import Row, Store
from eventbus.outbox.turns import Occupied
from eventbus.publishers.base import Outcome

_TURNS: Final = 10
_MOST_MINE: Final = 100_000
_SCOUT: Final = 3.0
"""Seconds between two tries of the one row that finds out whether a queue takes events by now."""

logger = logging.getLogger("eventbus.outbox")

Claimed = list[tuple[ParkedRow, Parcel]]

_CHANCE: Final = random.SystemRandom()
"""The global generator is the application's: a seed of its own must give what it gives without us."""


@final
class Parking:
    """Rows on their way out of the outbox, and those that stand there parked.

    `rows`: how many are parked, as last counted. `waiting`: rows that are to be parked, by id.
    """

    def __init__(self, store: Store, tempo: Tempo) -> None:
        self.rows = 0
        self.waiting: dict[int, ParkedRow] = {}
        self._store = store
        self._every = tempo.parked
        # A look now and then, and rows that are put off for less: together never longer than `tempo.parked`.
        self._check = Timer(tempo.parked / 4)
        self._scout: int | None = None
        self._more: bool | None = None
        self._mine: dict[int, int] = {}
        self._checked_at = 0.0

    @property
    def due(self) -> float:
        """When parked rows are to be tried, by the monotonic clock."""
        return self._check.due

    @property
    def quiet(self) -> bool:
        """Whether it was looked at, and nothing of it is due."""
        return self._more is False

    @property
    def held_back(self) -> int:
        """Events that this process has parked, and that are not known to have got through since."""
        return sum(self._mine.values())

    def is_checked(self, since: float) -> bool:
        """Whether `held_back` has been compared with the database since then, where there is something to compare."""
        return not self._mine or self._checked_at >= since

    def check(self, at: float) -> None:
        """Forget what others have delivered, or a person has purged."""
        if self._mine and not self.waiting:
            there = set(self._store.parked.among(list(self._mine)))
            self._mine = {row_id: events for row_id, events in self._mine.items() if row_id in there}
            self._checked_at = at

    def add(self, parcel: Parcel) -> None:
        """The broker does not take this row."""
        if len(self._mine) < _MOST_MINE:
            self._mine[parcel.version] = len(parcel)
        row = self._row(parcel, 0)
        if self._scout is None and parcel.outcome is Outcome.UNROUTABLE:
            # A service may run before its first consumer: one row looks often, and the others follow it.
            self._scout = parcel.version
            row = self._soon(row)
            self._check.due = min(self._check.due, time.monotonic() + self._pause)
        self.waiting[parcel.version] = row

    def add_unreadable(self, row: Row, error: Exception) -> None:
        """Nobody can send this row; a person has to look at it."""
        self.waiting[row.id] = unreadable(row, error)

    def move(self) -> None:
        """Move what waits out of the outbox. The caller takes it off `waiting` then."""
        rows = list(self.waiting.values())
        self._store.parked.add(rows)
        self.rows += len(rows)

    def claim(self, at: float) -> Claimed:
        """Parked rows whose time has come, if it is time to look; no other process gets them meanwhile."""
        if not self._check.ready(at) or not self._store.exists():
            return []
        if self._scout is not None:
            self._check.due = min(self._check.due, at + self._pause)
        if not self._more:
            self.rows = self._store.parked.count()
        rows = self._store.parked.claim(versions.now(), self._retry_at()) if self.rows else []
        claimed = self._readable(rows)
        if not claimed:
            self._look_on(more=bool(rows))
        return claimed

    def settle(self, claimed: Claimed) -> None:
        """What became of claimed rows. Where one got through, the others may too, so they are tried at once.

        A row of whose events the broker said nothing is due as before.
        """
        delivered = [row.id for row, parcel in claimed if not len(parcel)]
        left = [(row, parcel) for row, parcel in claimed if len(parcel)]
        refused = [(row, parcel) for row, parcel in left if parcel.outcome is not None]
        unknown = [row._replace(payload=parcel.payload) for row, parcel in left if parcel.outcome is None]
        again = [*unknown, *(self._again(row, parcel) for row, parcel in refused)]
        try:
            self._insist(lambda: self._store.parked.delete(delivered))
            self._insist(lambda: self._store.parked.note(again))
            if delivered and not left:
                self._insist(self._store.parked.wake)
        finally:
            self.rows -= len(delivered)
            for row_id in delivered:
                self._mine.pop(row_id, None)
            if self._scout in delivered:
                self._scout = None
            self._look_on(more=bool(delivered or unknown))

    @staticmethod
    def _insist(step: Callable[[], object]) -> None:
        """What was delivered would go out once more: it is worth waiting for a turn on SQLite."""
        for _ in range(_TURNS):
            with contextlib.suppress(Occupied):
                step()
                return
        step()

    def _look_on(self, *, more: bool) -> None:
        self._more = more
        if more:
            self._check.due = 0.0

    def _readable(self, rows: list[ParkedRow]) -> Claimed:
        claimed = []
        for row in rows:
            try:
                claimed.append((row, Parcel.of_payload(row.id, row.payload)))
            except ValueError as error:
                logger.warning("a parked row is not readable", extra={"id": row.id})
                self._store.parked.note([unreadable(row, error)])
        return claimed

    def _row(self, parcel: Parcel, created_at: int) -> ParkedRow:
        at = versions.now()
        return ParkedRow(
            parcel.version, created_at or at, at, self._retry_at(), parcel.tries, parcel.reason, parcel.payload
        )

    def _again(self, row: ParkedRow, parcel: Parcel) -> ParkedRow:
        if row.id == self._scout and parcel.outcome is Outcome.UNROUTABLE:
            return self._soon(row)._replace(payload=parcel.payload)
        if row.id == self._scout:
            self._scout = None
        return self._row(parcel, row.created_at)._replace(
            parked_at=row.parked_at, attempts=row.attempts + 1, reason=parcel.reason or row.reason
        )

    @property
    def _pause(self) -> float:
        return min(_SCOUT, self._every)

    def _soon(self, row: ParkedRow) -> ParkedRow:
        return row._replace(retry_at=versions.now() + int(self._pause * 900_000))

    def _retry_at(self) -> int:
        return versions.now() + int(self._every * 1_000_000 * _CHANCE.uniform(0.5, 0.7))


def unreadable(row: Row | ParkedRow, error: Exception) -> ParkedRow:
    """The row as one that nobody can send: it waits for a person."""
    return ParkedRow(row.id, row.created_at, versions.now(), NEVER, 1, f"unreadable: {error}", row.payload)
