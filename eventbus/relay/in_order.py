"""Strict ordering: the relay as the only publisher."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Final, final

from eventbus.backoff import Backoff
from eventbus.dispatcher import ROUND_BYTES, ROUND_EVENTS
from eventbus.errors import BrokerUnavailable
from eventbus.outbox import ParkedRow, Row, Store
from eventbus.outbox.account import DATABASE_ERRORS, Tempo
from eventbus.outbox.delivery import Parcel, deliver
from eventbus.outbox.store import brief, now
from eventbus.publishers.base import Publisher
from eventbus.settings import redact

_TRIES: Final = 4
_POLL: Final = 0.05
_MOMENT: Final = 0.5

logger = logging.getLogger(__name__)


@final
class InOrder:
    """Strict ordering: rows by id; a record's event never leaves before the one ahead of it is confirmed.

    Events confirmed together are all of different records. What the broker does not take after some tries is parked
    together with all later events of its records, so that one record never stops the others for long.
    """

    def __init__(self, store: Store, publisher: Publisher, tempo: Tempo) -> None:
        self._store = store
        self._publisher = publisher
        self._tempo = tempo
        self._backoff = Backoff(first=0.1, limit=5.0)
        self._cursor = 0
        self._held: set[str] | None = None
        self._parked_check = 0.0
        self._tick_at = 0.0
        self._failing = False
        self.delivered = self.parked = 0
        self.trouble: str | None = None

    def work(self) -> bool:
        try:
            if self._failing:
                self._store.close()  # a server that became a replica stays one
            done = self._step()
        except DATABASE_ERRORS as error:
            if not self._failing:
                logger.warning("the outbox cannot be reached: %s", brief(error))
            self._failing = True
            time.sleep(_MOMENT)
            return False
        except BrokerUnavailable as error:
            if not self._backoff.failures:
                logger.warning("the broker %s, events wait: %s", error.trouble, redact(str(error)))
            self.trouble = redact(str(error))
            time.sleep(self._backoff.next())
            return False
        self._failing = False
        self.trouble = None
        self._backoff.reset()
        return done

    def close(self) -> None:
        self._publisher.close()
        try:
            self._store.close()
        except DATABASE_ERRORS:
            logger.debug("closing the outbox's connection failed", exc_info=True)

    def _step(self) -> bool:
        if self._held is None or time.monotonic() >= self._parked_check:
            self._try_parked()
        if self._held is None:
            self._rest()
            return True  # the database has no outbox yet
        rows = self._store.read(after=self._cursor)
        for some in self._rounds(self._readable(rows)):
            self._send(some)
        if rows:
            self._cursor = rows[-1].id
            return False
        # A transaction that commits late has a lower id than those already seen, so each pass begins at the start.
        at_start, self._cursor = self._cursor == 0, 0
        if at_start:
            self._rest()
        return at_start

    def _rest(self) -> None:
        time.sleep(_POLL)
        if time.monotonic() >= self._tick_at:
            self._publisher.tick()
            self._tick_at = time.monotonic() + 1.0

    def _send(self, parcels: list[Parcel]) -> None:
        assert self._held is not None
        held = [part for parcel in parcels if (part := parcel.hold_back(self._held)) is not None]
        for part in held:
            part.reason = "waits for an earlier event of its record"
        waiting = [parcel for parcel in parcels if len(parcel)]
        for attempt in range(_TRIES):
            if not waiting:
                break
            if attempt:
                time.sleep(0.1 * 2**attempt)
            before = sum(len(parcel) for parcel in waiting)
            try:
                deliver(self._publisher, waiting)
            finally:
                self.delivered += before - sum(len(parcel) for parcel in waiting)
            waiting = [parcel for parcel in waiting if len(parcel)]
        self._put_away(parcels, waiting, held)

    def _put_away(self, parcels: list[Parcel], refused: list[Parcel], held: list[Parcel]) -> None:
        assert self._held is not None
        park = {parcel.version: parcel for parcel in held}
        for parcel in refused:
            logger.warning("events are parked in the outbox: %s", parcel.reason, extra={"row": parcel.version})
            self._held.update(parcel.subjects)
            earlier = park.get(parcel.version)
            park[parcel.version] = parcel if earlier is None else parcel.joined(earlier)
        self._store.delete([parcel.version for parcel in parcels if parcel.version not in park])
        self._store.park([_parked_row(parcel, self._tempo) for parcel in park.values()])
        self.parked += len(park)

    def _try_parked(self) -> None:
        """Parked events in the order of their commits; one that fails again keeps those behind it back."""
        self._parked_check = time.monotonic() + self._tempo.parked
        if not self._store.exists():
            return
        if self._held is None:
            self._held = {subject for row in self._parked() for subject in _subjects(row)}
        held: set[str] = set()
        for row in self._parked():
            self._try_again(row, held)
        self._held = held
        self.parked = self._store.count_parked()

    def _parked(self) -> Iterator[ParkedRow]:
        after = 0
        while rows := self._store.list_parked(after=after, rows=100):
            yield from rows
            after = rows[-1].id

    def _try_again(self, row: ParkedRow, held: set[str]) -> None:
        """Send what no earlier event holds back; `held` grows by the records of what is left."""
        try:
            parcel = Parcel.of_payload(row.id, row.payload)
        except ValueError:
            return
        left = parcel.hold_back(held)
        if len(parcel):
            deliver(self._publisher, [parcel])
        if len(parcel):
            left = parcel if left is None else parcel.joined(left)
        self.delivered += row.payload.count(b"\n") + 1 - (len(left) if left is not None else 0)
        if left is None:
            self._store.delete_parked([row.id])
            return
        held.update(left.subjects)
        again = _parked_row(left, self._tempo)
        reason = again.reason or row.reason
        self._store.park(
            [row._replace(retry_at=again.retry_at, attempts=row.attempts + 1, reason=reason, payload=again.payload)]
        )

    def _readable(self, rows: Iterable[Row]) -> list[Parcel]:
        parcels = []
        for row in rows:
            try:
                parcels.append(Parcel.of_payload(row.id, row.payload))
            except ValueError as error:
                logger.exception("a row of the outbox is not readable", extra={"id": row.id})
                at = now()
                reason = f"unreadable: {error}"[:200]
                self._store.park([ParkedRow(row.id, row.created_at, at, at, 1, reason, row.payload)])
        return parcels

    def _rounds(self, parcels: list[Parcel]) -> Iterable[list[Parcel]]:
        """The parcels in order, in lists in which no record occurs twice."""
        some: list[Parcel] = []
        seen: set[str] = set()
        events = size = 0
        for parcel in parcels:
            full = events + len(parcel) > ROUND_EVENTS or size + parcel.size > ROUND_BYTES
            if some and (full or not seen.isdisjoint(parcel.subjects)):
                yield some
                some, seen, events, size = [], set(), 0, 0
            some.append(parcel)
            seen.update(parcel.subjects)
            events += len(parcel)
            size += parcel.size
        if some:
            yield some


def _parked_row(parcel: Parcel, tempo: Tempo) -> ParkedRow:
    at = now()
    return ParkedRow(
        parcel.version, at, at, at + int(tempo.parked * 1e6), max(parcel.tries, 1), parcel.reason[:200], parcel.payload
    )


def _subjects(row: ParkedRow) -> list[str]:
    try:
        return Parcel.of_payload(row.id, row.payload).subjects
    except ValueError:
        return []
