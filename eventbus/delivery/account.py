"""What one dispatcher knows of one outbox: its rows in memory, those to be read back, and whose rows it looks after.

All of it happens in the dispatcher's thread, but for `known` and `behind`, which the writers' threads touch under the
dispatcher's lock, and for `pulse`, which has a thread and a connection of its own.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, final

from sqlalchemy.exc import SQLAlchemyError

from eventbus import failpoints
from eventbus.backoff import Backoff
from eventbus.delivery.parcel import Parcel
from eventbus.outbox.owner import is_alive, is_dead
from eventbus.outbox.store import ABANDONED, PAGE_BYTES, Lease, ParkedRow, Row, Store, brief, now

DATABASE_ERRORS: Final = (SQLAlchemyError, OSError)
_DELETE_ROWS: Final = 1000
_PAGES_A_SWEEP: Final = 10
_MOST_KNOWN: Final = 100_000
_REASON: Final = 200
_TROUBLE: Final = 3
LONG_AGO: Final = float("-inf")

logger = logging.getLogger("eventbus.outbox")


@dataclass(frozen=True, slots=True)
class Tempo:
    """How often things are looked after, in seconds.

    `delete`: delivered rows are deleted together, this long after the first (default: 0.25; on SQLite, where whoever
    deletes is in the writers' way, 1, and then just after a commit). `grace`: an owner that does not move for this
    long is dead. `parked`: between two tries of a parked row. `sweep`: between two looks for rows of the dead.
    """

    delete: float | None = None
    grace: float = 60.0
    parked: float = 60.0
    sweep: float = 15.0

    @property
    def beat(self) -> float:
        """Between two signs of life."""
        return self.grace / 6


@dataclass(slots=True)
class _Source:
    """Rows of one owner to be read from the outbox, from `cursor` on; `due` is when to look again.

    `ended`: all of them are in memory; the source stays until they are gone.
    """

    owner: str
    cursor: int
    due: float = 0.0
    turn: int = 0
    ended: bool = False


@final
class Watch:
    """Tells the dead from the living, without comparing any two clocks.

    Who lives shows in a lease that is beaten, or in rows that go: the lowest id of a working process's rows rises.
    `undecided` holds names of which neither is known yet.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._seen: dict[str, tuple[Lease | None, int, float]] = {}
        self.undecided: set[str] = set()

    def is_dead(self, name: str, lease: Lease | None, at: float, *, lowest: int = 0) -> bool:
        """Whether nobody holds that name: gave it up, is certainly gone, or has not moved for the grace time."""
        self.undecided.discard(name)
        holder = lease.holder if lease is not None else name
        if (lease is not None and lease.beat == ABANDONED) or is_dead(holder):
            return True
        if name not in self._seen:
            self._seen[name] = (lease, lowest, at)
            if not is_alive(holder):
                self.undecided.add(name)
            return False
        *seen, since = self._seen[name]
        if seen != [lease, lowest]:
            self._seen[name] = (lease, lowest, at)
            return False
        if at - since < self._grace:
            if not is_alive(holder):
                self.undecided.add(name)
            return False
        return True

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        self.undecided.intersection_update(names)


@final
@dataclass(slots=True)
class _Timer:
    every: float
    due: float = field(default=0.0)

    def ready(self, at: float) -> bool:
        if at < self.due:
            return False
        # Many processes started together should not come back together.
        self.due = at + self.every * random.uniform(0.8, 1.2)  # noqa: S311
        return True


@final
class Account:
    """The rows of one outbox that this process answers for.

    `known`: ids of rows in memory: waiting, under way, or delivered and not yet deleted; with the time when a writer
    handed the row over, by the monotonic clock, or LONG_AGO where it was read from the outbox. `kept`: looked after
    though the application has no connection there. `expects_rows`: whether it is a fault if rows are gone too soon.
    """

    def __init__(self, store: Store, lock: AbstractContextManager[object], tempo: Tempo) -> None:
        self.store = store
        self.known: dict[int, float] = {}
        self.parked = 0
        self.failing = False
        self.kept = False
        self.expects_rows = True
        self._missed = 0
        self._lock = lock
        self._tempo = tempo
        self._own: _Source | None = None
        self._adopted: dict[str, _Source] = {}
        self._finished: list[str] = []
        self._delete_after = tempo.delete if tempo.delete is not None else 1.0 if store.is_sqlite else 0.25
        self._delete_at = 0.0
        self._delivered: list[int] = []
        self._delivered_first = 0.0
        self._to_park: dict[int, ParkedRow] = {}
        self._strays: set[int] = set()
        self._beaten = False
        self._pulse_store = store.copy()
        self._lowest: int | None = None
        self._watch = Watch(tempo.grace)
        self._names: set[str] = set()
        self._page = 0
        self._swept = False
        self._sweep = _Timer(tempo.sweep)
        self._parked_check = _Timer(tempo.parked)
        self._more_parked: bool | None = None
        self._paused_until = 0.0
        self._backoff = Backoff(first=0.1, limit=5.0)

    # for the writers' threads, under the lock

    @property
    def behind(self) -> bool:
        """Whether rows of ours wait in the outbox because memory was full; those after them must wait there too."""
        return self._own is not None

    @property
    def clogged(self) -> bool:
        """Whether rows are delivered all right, and their deletion has failed so often that memory would fill up."""
        return len(self.known) >= _MOST_KNOWN

    @property
    def is_over(self) -> bool:
        """Whether the application has left this database, and nothing of ours is there any more."""
        if self.kept or not self._swept or not self.settled:
            return False
        return not (self.known or self._own or self._adopted or self._strays) and self.store.is_deserted

    def leave_in_outbox(self, row_id: int) -> None:
        """This row is read back later, or by another process."""
        if self._own is None:
            self._own = _Source(self.store.owner, row_id - 1)
        self._own.cursor = min(self._own.cursor, row_id - 1)
        self._own.turn += 1

    # for the dispatcher's thread

    def delivered(self, row_ids: list[int]) -> None:
        """All events of these rows are with the broker."""
        at = time.monotonic()
        if not self._delivered:
            self._delivered_first = at
        self._delivered.extend(row_ids)
        # On SQLite this is the idle application's case; see `tidy`.
        self._delete_at = (at if self.store.is_sqlite else self._delivered_first) + self._delete_after

    def park(self, parcel: Parcel, created_at: int = 0) -> None:
        """The broker does not take this row: out of the way with it."""
        self._to_park[parcel.version] = self._parked_row(parcel, created_at)

    def tidy(self, at: float) -> None:
        """On SQLite, just after a commit: delete what is due.

        A transaction there that has read, and comes to write after others did, fails at once, however long it would
        wait. An application with one thread that has just committed is in none.
        """
        due = self.store.is_sqlite and self._delivered and at >= self._delivered_first + self._delete_after
        if due and at >= self._paused_until:
            try:
                self._purge()
            except DATABASE_ERRORS:
                self._delivered_first = at  # not with each commit; `work` tries too, and tells of it

    @property
    def settled(self) -> bool:
        """Whether the outbox shows all that was done."""
        return not (self._delivered or self._to_park)

    def due(self, at: float, *, room: bool) -> float:
        """When `work` has something to do, by the monotonic clock."""
        times = [self._sweep.due]
        if self._delivered:
            times.append(self._delete_at)
        if self._to_park:
            times.append(at)
        if room and not self.clogged:
            times.extend(source.due for source in self._sources())
        return max(min(times), self._paused_until)

    @property
    def parked_due(self) -> float:
        """When parked rows are to be tried, by the monotonic clock."""
        return max(self._parked_check.due, self._paused_until)

    def work(self, at: float, *, room: Callable[[], int], take: Callable[[Parcel], None], hurry: bool) -> None:
        """Do what is due. What is read back, at most about `room()` bytes, is handed to `take` under the lock."""
        if at < self._paused_until and not hurry:
            return
        try:
            self._work(at, room, take, hurry)
        except Exception as error:
            if not isinstance(error, DATABASE_ERRORS):
                logger.exception("the outbox could not be looked after, it is tried again")
            self._paused_until = at + self._backoff.next()
            # Once or twice is nothing to speak of: a busy SQLite file is locked that long.
            self.failing = self._backoff.failures >= _TROUBLE
            if self.failing:
                self.close()  # a server that became a replica stays one; a new connection may find the primary
            if self._backoff.failures == _TROUBLE:
                logger.warning("the outbox cannot be reached: %s", brief(error), extra={"outbox": repr(self.store)})
            return
        if self.failing:
            logger.info("the outbox can be reached again", extra={"outbox": repr(self.store)})
        self.failing = False
        self._backoff.reset()

    @property
    def quiet(self) -> bool:
        """Whether all was looked through, and nothing is left that this process could deliver, now or soon."""
        waiting = self.known or self._own or self._adopted or self._watch.undecided
        return self._swept and self._more_parked is False and not waiting

    def look_soon(self, at: float) -> None:
        """Rows of ours may have been committed without our knowing."""
        self._swept = False
        self._sweep.due = min(self._sweep.due, at)

    def claim_parked(self, at: float) -> list[tuple[ParkedRow, Parcel]]:
        """Parked rows whose time has come, if it is time to look; no other process gets them meanwhile."""
        if at < self._paused_until or not self._parked_check.ready(at):
            return []
        try:
            if not self.store.exists():
                return []
            if not self._more_parked:
                self.parked = self.store.count_parked()
            rows = self.store.claim_parked(now(), self._retry_at()) if self.parked else []
            claimed = self._readable(rows)
            if not claimed:
                self._look_on(more=bool(rows))
            return claimed
        except DATABASE_ERRORS as error:
            self._paused_until = at + self._backoff.next()
            logger.warning("the outbox cannot be reached: %s", brief(error), extra={"outbox": repr(self.store)})
            return []

    def settle_parked(self, claimed: list[tuple[ParkedRow, Parcel]]) -> None:
        """What became of claimed rows. Where one got through, the others may too, so they are tried at once.

        A row of whose events the broker said nothing is due as before.
        """
        delivered = [row.id for row, parcel in claimed if not len(parcel)]
        left = [(row, parcel) for row, parcel in claimed if len(parcel)]
        refused = [(row, parcel) for row, parcel in left if parcel.outcome is not None]
        unknown = [row._replace(payload=parcel.payload) for row, parcel in left if parcel.outcome is None]
        try:
            self.store.delete_parked(delivered)
            self.store.park_again([*unknown, *(self._parked_again(row, parcel) for row, parcel in refused)])
            if delivered and not left:
                self.store.wake_parked()
        except DATABASE_ERRORS as error:
            logger.warning("the outbox cannot be reached: %s", brief(error), extra={"outbox": repr(self.store)})
        self.parked -= len(delivered)
        self._look_on(more=bool(delivered or unknown))

    def _look_on(self, *, more: bool) -> None:
        self._more_parked = more
        if more:
            self._parked_check.due = 0.0

    def _readable(self, rows: list[ParkedRow]) -> list[tuple[ParkedRow, Parcel]]:
        claimed = []
        for row in rows:
            try:
                claimed.append((row, Parcel.of_payload(row.id, row.payload)))
            except ValueError as error:
                logger.warning("a parked row is not readable", extra={"id": row.id})
                self.store.park_again([_unreadable(row.id, row.created_at, row.payload, error)])
        return claimed

    def leave(self) -> None:
        """This process goes: what is left may be taken by whoever comes first."""
        try:
            self._purge()
            with self._lock:
                rest = bool(self.known) or self._own is not None
            if rest:
                self.store.abandon(self.store.owner)
            elif self._beaten:
                self.store.release(self.store.owner)
            for owner in self._adopted:
                self.store.abandon(owner)
        except DATABASE_ERRORS as error:
            logger.warning("the outbox cannot be reached: %s", brief(error), extra={"outbox": repr(self.store)})
        self._close(self._pulse_store)
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._close(self.store)

    def forget(self) -> tuple[object, ...]:
        """After a fork; see `Store.forget`."""
        return self.store.forget(), self._pulse_store.forget()

    def _close(self, store: Store) -> None:
        try:
            store.close()
        except DATABASE_ERRORS:
            logger.debug("closing the outbox's connection failed", exc_info=True)

    def _work(self, at: float, room: Callable[[], int], take: Callable[[Parcel], None], hurry: bool) -> None:
        many = len(self._delivered) >= _DELETE_ROWS
        if hurry or many or self._to_park or (self._delivered and at >= self._delete_at):
            self._purge()
        if self._sweep.ready(at) and self.store.exists():
            self._look_at_own(at)
            self._adopt(at)
        self._read_back(at, room, take)

    # deleting and parking

    def _purge(self) -> None:
        ids, parking = list(dict.fromkeys(self._delivered)), list(self._to_park.values())
        if not ids and not parking:
            return
        failpoints.hit("before_delete")
        found = self.store.delete(ids)
        self._compare(ids, found)
        self.store.park(parking)
        self.parked += len(parking)
        with self._lock:
            for row_id in (*ids, *self._to_park):
                self.known.pop(row_id, None)
            self._delivered, self._to_park = [], {}

    def _compare(self, ids: list[int], found: int) -> None:
        """Say it where rows are missing that nobody but this process may have deleted.

        That takes the grace time at least. And where a deletion failed, its answer alone may have been lost.
        """
        if found >= len(ids) or self._backoff.failures or not self.expects_rows:
            return
        since = time.monotonic() - self._tempo.grace / 2
        with self._lock:
            old = sum(self.known.get(row_id, LONG_AGO) < since for row_id in ids)
        before = self._missed
        self._missed += max(0, len(ids) - found - old)
        if before < _TROUBLE <= self._missed:
            logger.error(
                "rows just written are not in the outbox that is looked at, nobody would find those of a dead process. "
                "Is search_path set for each transaction? Set it for the connections of an engine for each schema",
                extra={"outbox": repr(self.store)},
            )

    def _parked_row(self, parcel: Parcel, created_at: int) -> ParkedRow:
        at = now()
        return ParkedRow(
            parcel.version,
            created_at or at,
            at,
            self._retry_at(),
            parcel.tries,
            parcel.reason[:_REASON],
            parcel.payload,
        )

    def _parked_again(self, row: ParkedRow, parcel: Parcel) -> ParkedRow:
        return self._parked_row(parcel, row.created_at)._replace(
            parked_at=row.parked_at, attempts=row.attempts + 1, reason=(parcel.reason or row.reason)[:_REASON]
        )

    def _retry_at(self) -> int:
        return now() + int(self._tempo.parked * 1_000_000 * random.uniform(0.8, 1.0))  # noqa: S311

    # reading back

    def _sources(self) -> list[_Source]:
        sources = list(self._adopted.values())
        return [self._own, *sources] if self._own is not None else sources

    def _read_back(self, at: float, room: Callable[[], int], take: Callable[[Parcel], None]) -> None:
        for source in self._sources():
            left = 0 if self.clogged else room()
            if at >= source.due and left > 0 and self._has_more(source, at):
                self._read(source, at, left, take)
        self._release_finished()

    def _has_more(self, source: _Source, at: float) -> bool:
        """Of a source that was read to its end the ids are looked at, not the payloads again."""
        if not source.ended:
            return True
        ids = self.store.ids(source.owner)
        with self._lock:
            unknown = [row_id for row_id in ids if row_id not in self.known]
        if unknown:
            source.cursor, source.ended = unknown[0] - 1, False
        elif ids:
            source.due = at + 1.0
        else:
            self._finished.append(source.owner)
        return bool(unknown)

    def _read(self, source: _Source, at: float, room: int, take: Callable[[Parcel], None]) -> None:
        turn, cursor = source.turn, source.cursor
        rows = self.store.read(after=cursor, owner=source.owner, size=min(room, PAGE_BYTES))
        parcels = [self._parcel(row) for row in rows]
        with self._lock:
            for row, parcel in zip(rows, parcels, strict=True):
                if row.id in self.known:
                    continue
                if parcel is not None:
                    take(parcel)
                # Last: a row that only was known would never be delivered.
                self.known[row.id] = LONG_AGO
            if source.turn == turn:
                self._advance(source, rows[-1].id if rows else None, at)

    def _parcel(self, row: Row) -> Parcel | None:
        try:
            return Parcel.of_payload(row.id, row.payload)
        except ValueError as error:
            logger.exception("a row of the outbox is not readable", extra={"id": row.id})
            self._to_park[row.id] = _unreadable(row.id, row.created_at, row.payload, error)
            return None

    def _advance(self, source: _Source, last: int | None, at: float) -> None:
        """Where to go on, under the lock. Nothing left of our own: new rows come through memory again."""
        if last is not None:
            source.cursor = last
        elif source is self._own:
            self._own = None
        else:
            source.ended, source.due = True, at + (1.0 if source.cursor > 0 else 0.0)

    def _release_finished(self) -> None:
        while self._finished:
            owner = self._finished[-1]
            self.store.release(owner)
            self._adopted.pop(owner, None)
            self._finished.pop()
            logger.info("events of an ended process are delivered", extra={"owner": owner})

    # whose rows

    def _look_at_own(self, at: float) -> None:
        """Find rows of ours that nobody handed over: the session was part of a transaction that others committed.

        A row is one of these if it is unknown at two looks; one seen once may be on its way from its writer.
        """
        ids = self.store.ids(self.store.owner)
        with self._lock:
            strays = {row_id for row_id in ids if row_id not in self.known} if self._own is None else set()
            again = strays & self._strays
            if again:
                self._own = _Source(self.store.owner, min(again) - 1)
        self._strays = strays - again
        if self._strays:
            self.look_soon(at + 1.0)

    def _adopt(self, at: float) -> None:
        for _ in range(_PAGES_A_SWEEP):
            owners, onward = self.store.owners(after=self._page)
            ours = {self.store.owner, *self._adopted, *self._names}  # of a name seen before, this is not the lowest id
            strangers = {owner: lowest for owner, lowest in owners.items() if owner not in ours}
            self._names.update(strangers)
            if strangers:
                self._adopt_dead(strangers, at)
            self._page = onward or 0
            if onward is None:
                self._watch.keep(self._names)
                self._names.clear()
                self._swept = True
                return

    def _adopt_dead(self, owners: Mapping[str, int], at: float) -> None:
        leases = self.store.leases(owners)
        for owner, lowest in owners.items():
            lease = leases.get(owner)
            # Ours already, where the database's answer to our taking it was lost.
            mine = lease is not None and lease.holder == self.store.owner and lease.beat != ABANDONED
            dead = mine or self._watch.is_dead(owner, lease, at, lowest=lowest)
            if mine or (dead and self.store.take(owner, lease)):
                self._adopted[owner] = _Source(owner, 0)
                logger.info("taking over events of an ended process", extra={"owner": owner})

    # in the pulse's thread

    def pulse(self) -> None:
        """Show life where rows stay here for longer than a moment: others see the same lowest id again and again."""
        with self._lock:
            lowest, before = min(self.known, default=None), self._lowest
            self._lowest = lowest
            adopted = list(self._adopted)
            stays = adopted or self._own is not None or (lowest is not None and lowest == before)
        if stays:
            self._show_life(adopted)
        else:
            self._pulse_store.close()

    def _show_life(self, adopted: list[str]) -> None:
        store, own = self._pulse_store, self.store.owner
        self._beaten = True
        if not store.beat(own):
            # The first time; or we stood still for so long that we were taken for dead.
            store.take(own, store.leases([own]).get(own))
        lost = [owner for owner in adopted if not store.beat(owner)]
        with self._lock:
            for owner in lost:
                self._adopted.pop(owner, None)


def _unreadable(row_id: int, created_at: int, payload: bytes, error: Exception) -> ParkedRow:
    at = now()
    never = at + 10 * 365 * 86_400 * 1_000_000
    return ParkedRow(row_id, created_at, at, never, 1, f"unreadable: {error}"[:_REASON], payload)
