"""Strict ordering: the parked rows, and whose later events have to wait behind them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, final

from eventbus.delivery.parcel import Parcel, insist
from eventbus.delivery.tempo import Tempo
from eventbus.errors import BrokerUnavailable
from eventbus.outbox import ParkedRow, Store, versions
from eventbus.outbox.reading.parked_rows import IN_ORDER
from eventbus.publishers.base import Outcome, Publisher
from eventbus.relay.rounds import rounds

_PAGE: Final = 100


@final
class Parked:
    """Parked rows in the order of their commits. Tried again in passes, a page at a time, others' events between.

    `held`: records of which something is parked; what follows of these is to be parked behind it. `rows`: how many of
    its own are parked, as last counted. `active`: whether this relay is still the one to publish. `everything`: what
    services have parked is its own too.
    """

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        tempo: Tempo,
        *,
        active: Callable[[], bool],
        drop: bool,
        everything: bool,
    ) -> None:
        self.held: set[str] | None = None
        self.rows = 0
        self.delivered = 0
        self._store = store
        self._publisher = publisher
        self._every = tempo.parked
        self._active = active
        self._drop = drop
        self._everything = everything
        self._due = 0.0
        self._cursor = 0
        self._left: set[str] | None = None
        self._nowhere: set[str] = set()

    @property
    def passing(self) -> bool:
        """Whether some of it is to be tried now."""
        return self._left is not None or time.monotonic() >= self._due

    def load(self) -> set[str] | None:
        """`held`, read when it is not known yet; None while the database has no outbox."""
        if self.held is None and self._store.exists():
            held: set[str] = set()
            after = 0
            while rows := self._page(after):
                held.update(subject for row in rows for subject in _subjects(row))
                after = rows[-1].id
            self.held = held
        return self.held

    def add(self, parcels: list[Parcel]) -> None:
        """Park these, and hold back what follows of their records."""
        if not parcels:
            return
        self._store.parked.add([_parked_row(parcel) for parcel in parcels])
        for parcel in parcels:
            for held in (self.held, self._left):
                if held is not None:
                    held.update(parcel.subjects)
        self.rows += len(parcels)

    def work(self) -> None:
        """Try the next page again, if it is time for a pass or one is under way."""
        if not self.passing:
            return
        if self._left is None:
            self._cursor, self._left, self._nowhere = 0, set(), set()
        page = self._page(self._cursor)
        if not page:
            # Only now: until here each record waited for the last of its events.
            self.held, self._left = self._left, None
            self._due = time.monotonic() + self._every
            self.rows = self._store.parked.count(in_order=not self._everything)
            return
        by_id = {row.id: row for row in page}
        for some in rounds(_readable(page)):
            if not self._active():
                return
            self._send(some, by_id, self._left)
        self._cursor = page[-1].id

    def _page(self, after: int) -> list[ParkedRow]:
        return self._store.parked.page(after=after, in_order=not self._everything, rows=_PAGE)

    def _send(self, parcels: list[Parcel], rows: dict[int, ParkedRow], left: set[str]) -> None:
        held = {parcel.version: self._hold_back(parcel, left) for parcel in parcels}
        waiting = [parcel for parcel in parcels if len(parcel)]
        before = sum(len(parcel) for parcel in waiting)
        lost = None
        try:
            insist(self._publisher, waiting)
        except BrokerUnavailable as error:
            lost = error
        self.delivered += before - sum(len(parcel) for parcel in waiting)
        self._settle(parcels, held, rows, left)
        if lost is not None:
            raise lost

    def _hold_back(self, parcel: Parcel, left: set[str]) -> Parcel | None:
        """What has to wait: for an earlier event of its record, or for a queue where none took the like just now."""
        named = zip(parcel.subjects, parcel.keys, strict=True)
        return parcel.hold_back({subject for subject, key in named if subject in left or key in self._nowhere})

    def _settle(
        self, parcels: list[Parcel], held: dict[int, Parcel | None], rows: dict[int, ParkedRow], left: set[str]
    ) -> None:
        gone, again, unknown, cursor = [], [], False, self._cursor
        for parcel in parcels:
            row, part = rows[parcel.version], held[parcel.version]
            if len(parcel) and parcel.outcome is None:
                unknown = True  # tried again with the next page, which begins here
            if not unknown:
                cursor = row.id
            if parcel.outcome is Outcome.UNROUTABLE:
                self._nowhere.update(parcel.keys)
                if self._drop:
                    parcel.delivered()
            rest = parcel if part is None else parcel.joined(part)
            if not len(rest):
                gone.append(row.id)
                continue
            if parcel.outcome is not None or not len(parcel):
                left.update(rest.subjects)
            if parcel.outcome is not None or len(rest) < _count(row):
                again.append(self._again(row, rest, parcel))
        self._store.parked.delete(gone)
        self._store.parked.note(again)
        self._cursor = cursor  # not before the database has taken it: else later events of these records would go first

    def _again(self, row: ParkedRow, rest: Parcel, tried: Parcel) -> ParkedRow:
        if tried.outcome is None:
            return row._replace(payload=rest.payload)
        return row._replace(
            retry_at=IN_ORDER,
            attempts=row.attempts + 1,
            reason=tried.reason[:200],
            payload=rest.payload,
        )


def _readable(rows: Iterable[ParkedRow]) -> Iterable[Parcel]:
    for row in rows:
        try:
            yield Parcel.of_payload(row.id, row.payload)
        except ValueError:
            continue  # it was parked for that, and waits for a person


def _subjects(row: ParkedRow) -> list[str]:
    return [subject for parcel in _readable([row]) for subject in parcel.subjects]


def _count(row: ParkedRow) -> int:
    return row.payload.count(b"\n") + 1


def _parked_row(parcel: Parcel) -> ParkedRow:
    at = versions.now()
    return ParkedRow(parcel.version, at, at, IN_ORDER, max(parcel.tries, 1), parcel.reason[:200], parcel.payload)
