"""Rows that are read back from one outbox: our own that memory had no room for, and those of ended processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, final

from eventbus.delivery.outboxes.parking import Parking
from eventbus.delivery.parcel import Parcel
from eventbus.outbox.queries import PAGE_BYTES
from eventbus.outbox.reading.store import Row, Store

LONG_AGO: Final = float("-inf")

logger = logging.getLogger("eventbus.outbox")


@dataclass(slots=True)
class Source:
    """Rows of one owner to be read from the outbox, from `cursor` on; `due` is when to look again.

    `ended`: all of them are in memory; the source stays until they are gone.
    """

    owner: str
    cursor: int
    due: float = 0.0
    turn: int = 0
    ended: bool = False


@final
class Sources:
    """Reads back, page by page, as far as there is room.

    `known`: the ids of rows in memory, shared with the account. `own` and `adopted` are touched by writers' threads and
    the pulse's too, under the lock.
    """

    def __init__(
        self, store: Store, lock: AbstractContextManager[object], known: dict[int, float], parking: Parking
    ) -> None:
        self.own: Source | None = None
        self.adopted: dict[str, Source] = {}
        self._store = store
        self._lock = lock
        self._known = known
        self._parking = parking
        self._finished: list[str] = []

    def __bool__(self) -> bool:
        return self.own is not None or bool(self.adopted)

    def leave(self, row_id: int) -> None:
        """This row of ours is read back later, or by another process. Under the lock."""
        if self.own is None:
            self.own = Source(self._store.owner, row_id - 1)
        self.own.cursor = min(self.own.cursor, row_id - 1)
        self.own.turn += 1

    def adopt(self, owner: str) -> None:
        """Rows of an ended process are ours now."""
        self.adopted[owner] = Source(owner, 0)

    def due(self) -> list[float]:
        """When each of them is to be read, by the monotonic clock."""
        return [source.due for source in self._all()]

    def read_back(self, at: float, room: Callable[[], int], take: Callable[[Parcel], None]) -> None:
        """Hand at most about `room()` bytes to `take`, under the lock."""
        for source in self._all():
            left = room()
            if at >= source.due and left > 0 and self._has_more(source, at):
                self._read(source, at, left, take)
        self._release_finished()

    def _all(self) -> list[Source]:
        sources = list(self.adopted.values())
        return [self.own, *sources] if self.own is not None else sources

    def _has_more(self, source: Source, at: float) -> bool:
        """Of a source that was read to its end the ids are looked at, not the payloads again."""
        if not source.ended:
            return True
        ids = self._store.ids(source.owner)
        with self._lock:
            unknown = [row_id for row_id in ids if row_id not in self._known]
        if unknown:
            source.cursor, source.ended = unknown[0] - 1, False
        elif ids:
            source.due = at + 1.0
        else:
            self._finished.append(source.owner)
        return bool(unknown)

    def _read(self, source: Source, at: float, room: int, take: Callable[[Parcel], None]) -> None:
        turn, cursor = source.turn, source.cursor
        rows = self._store.read(after=cursor, owner=source.owner, size=min(room, PAGE_BYTES))
        parcels = [self._parcel(row) for row in rows]
        with self._lock:
            for row, parcel in zip(rows, parcels, strict=True):
                if row.id in self._known:
                    continue
                if parcel is not None:
                    take(parcel)
                # Last: a row that only was known would never be delivered.
                self._known[row.id] = LONG_AGO
            if source.turn == turn:
                self._advance(source, rows[-1].id if rows else None, at)

    def _parcel(self, row: Row) -> Parcel | None:
        try:
            return Parcel.of_payload(row.id, row.payload)
        except ValueError as error:
            logger.exception("a row of the outbox is not readable", extra={"id": row.id})
            self._parking.add_unreadable(row, error)
            return None

    def _advance(self, source: Source, last: int | None, at: float) -> None:
        """Where to go on, under the lock. Nothing left of our own: new rows come through memory again."""
        if last is not None:
            source.cursor = last
        elif source is self.own:
            self.own = None
        else:
            source.ended, source.due = True, at + (1.0 if source.cursor > 0 else 0.0)

    def _release_finished(self) -> None:
        while self._finished:
            owner = self._finished[-1]
            self._store.leases.release(owner)
            self.adopted.pop(owner, None)
            self._finished.pop()
            logger.info("events of an ended process are delivered", extra={"owner": owner})
