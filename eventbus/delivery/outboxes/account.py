"""What one dispatcher knows of one outbox: its rows in memory, those to be read back, and whose rows it looks after.

All of it happens in the dispatcher's thread, but for `known` and `behind`, which the writers' threads touch under the
dispatcher's lock, and for `sign`, which has a thread and a connection of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, final

from sqlalchemy.exc import SQLAlchemyError

from eventbus.backoff import Backoff
from eventbus.delivery.news import News
from eventbus.delivery.outboxes.deletion import Deletion
from eventbus.delivery.outboxes.parking import Claimed, Parking
from eventbus.delivery.outboxes.sign_of_life import SignOfLife
from eventbus.delivery.outboxes.sources import Sources
from eventbus.delivery.outboxes.sweep import Sweep
from eventbus.delivery.parcel import Parcel
from eventbus.delivery.tempo import Tempo
from eventbus.outbox.queries import brief
from eventbus.outbox.reading.store import Store
from eventbus.outbox.turns import Occupied

DATABASE_ERRORS: Final = (SQLAlchemyError, OSError)
_MOST_KNOWN: Final = 100_000
_TROUBLE: Final = 3
_OCCUPIED: Final = 0.25
"""Seconds until we try again where the application is in a transaction on SQLite."""

logger = logging.getLogger("eventbus.outbox")


@final
class Account:
    """The rows of one outbox that this process answers for.

    `known`: ids of rows in memory: waiting, under way, or delivered and not yet deleted; with the time when a writer
    handed the row over, by the monotonic clock, or LONG_AGO where it was read from the outbox. `kept`: looked after
    though the application has no connection there.
    """

    def __init__(
        self, store: Store, lock: AbstractContextManager[object], tempo: Tempo, *, expects_rows: bool = True
    ) -> None:
        self.store = store
        self.known: dict[int, float] = {}
        self.failing = False
        self.kept = False
        self._lock = lock
        self._parking = Parking(store, tempo)
        self._sources = Sources(store, lock, self.known, self._parking)
        self._deletion = Deletion(store, lock, self.known, self._parking, tempo)
        self._deletion.expects_rows = expects_rows
        self._sweep = Sweep(store, lock, self.known, self._sources, tempo)
        self.sign = SignOfLife(store, lock, self.known, self._sources)
        self._paused_until = 0.0
        self._news = News()
        self._backoff = Backoff(first=0.1, limit=5.0)

    # for the writers' threads, under the lock

    @property
    def behind(self) -> bool:
        """Whether rows of ours wait in the outbox because memory was full; those after them must wait there too."""
        return self._sources.own is not None

    @property
    def clogged(self) -> bool:
        """Whether rows are delivered all right, and their deletion has failed so often that memory would fill up."""
        return len(self.known) >= _MOST_KNOWN

    @property
    def is_over(self) -> bool:
        """Whether the application has left this database, and nothing of ours is there any more."""
        if self.kept or not self._sweep.done or self._deletion:
            return False
        return not (self.known or self._sources or self._sweep.has_strays) and self.store.is_deserted

    def leave_in_outbox(self, row_id: int) -> None:
        """This row is read back later, or by another process."""
        self._sources.leave(row_id)

    # for the dispatcher's thread

    @property
    def parked(self) -> int:
        """Rows that are parked, as last counted."""
        return self._parking.rows

    def delivered(self, row_ids: list[int]) -> None:
        """All events of these rows are with the broker."""
        self._deletion.add(row_ids)

    def committed(self, row_id: int) -> None:
        """A transaction that wrote this row has committed. Under the lock."""
        if self.store.is_sqlite:
            self._deletion.rode(row_id)

    def park(self, parcel: Parcel) -> None:
        """The broker does not take this row: out of the way with it."""
        self._parking.add(parcel)

    def settled_since(self, since: float) -> bool:
        """Whether the outbox shows all that was done, and was asked since then for what is still parked."""
        return self._deletion.settled and self._parking.is_checked(since)

    @property
    def held_back(self) -> int:
        """Events that this process has parked, and that are not known to have got through since."""
        return self._parking.held_back

    def due(self, at: float, *, room: bool) -> float:
        """When `work` has something to do, by the monotonic clock."""
        times = [self._sweep.due, *self._deletion.due(at)]
        if room and not self.clogged:
            times.extend(self._sources.due())
        return max(min(times), self._paused_until)

    @property
    def parked_due(self) -> float:
        """When parked rows are to be tried, by the monotonic clock."""
        return max(self._parking.due, self._paused_until)

    def work(self, at: float, *, room: Callable[[], int], take: Callable[[Parcel], None], hurry: bool) -> None:
        """Do what is due. What is read back, at most about `room()` bytes, is handed to `take` under the lock."""
        if at < self._paused_until and not hurry:
            return

        def free() -> int:
            return 0 if self.clogged else room()

        try:
            if hurry or self._deletion.is_ready(at):
                self._delete(at)
            if hurry:
                self._parking.check(at)
            self._sources.read_back(at, free, take)
            if self._sweep.work(at):
                # At once: a process that ends after its only commit looks no second time.
                self._sources.read_back(at, free, take)
        except Occupied:
            self._paused_until = at + _OCCUPIED
            return
        except Exception as error:
            if not isinstance(error, DATABASE_ERRORS):
                logger.exception("the outbox could not be looked after, it is tried again")
            self._failed(at, error)
            return
        if self._news.over():
            logger.info("the outbox can be reached again", extra={"outbox": repr(self.store)})
        self.failing = False
        self._backoff.reset()

    @property
    def quiet(self) -> bool:
        """Whether all was looked through, and nothing is left that this process could deliver, now or soon."""
        waiting = self.known or self._sources or self._sweep.undecided
        return self._sweep.done and self._parking.quiet and not waiting

    def look_soon(self, at: float) -> None:
        """Rows of ours may have been committed without our knowing."""
        self._sweep.soon(at)

    def claim_parked(self, at: float) -> Claimed:
        """Parked rows whose time has come, if it is time to look; no other process gets them meanwhile."""
        if at < self._paused_until:
            return []
        try:
            return self._parking.claim(at)
        except Occupied:
            self._paused_until = at + _OCCUPIED
            return []
        except DATABASE_ERRORS as error:
            self._paused_until = at + self._backoff.next()
            self._tell(error)
            return []

    def settle_parked(self, claimed: Claimed) -> None:
        """What became of claimed rows."""
        try:
            self._parking.settle(claimed)
        except DATABASE_ERRORS as error:
            self._tell(error)

    def leave(self) -> None:
        """This process goes: what is left may be taken by whoever comes first."""
        try:
            self._delete(time.monotonic())
            with self._lock:
                rest = bool(self.known) or self.behind
            if rest:
                self.store.leases.abandon(self.store.owner)
            elif self.sign.given:
                self.store.leases.release(self.store.owner)
            for owner in self._sources.adopted:
                self.store.leases.abandon(owner)
        except Occupied:
            logger.debug("the application is in a transaction: what is delivered stays in the outbox")
        except DATABASE_ERRORS as error:
            self._tell(error)
        for store in (self.sign.store, self.store):
            _close(store)

    def forget(self) -> tuple[object, ...]:
        """After a fork; see `Store.forget`."""
        return self.store.forget(), self.sign.store.forget()

    def _delete(self, at: float) -> None:
        try:
            self._deletion.work(sure=not self._backoff.failures)
        except Occupied:
            self._deletion.put_off(at)

    def _failed(self, at: float, error: Exception) -> None:
        self._paused_until = at + self._backoff.next()
        # Once or twice is nothing to speak of: a busy SQLite file is locked that long.
        self.failing = self._backoff.failures >= _TROUBLE
        if self.failing:
            _close(self.store)  # a server that became a replica stays one; a new connection may find the primary
        if self.failing:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if self._news.is_new(reason := brief(error)):
            logger.warning("the outbox cannot be reached: %s", reason, extra={"outbox": repr(self.store)})


def _close(store: Store) -> None:
    try:
        store.close()
    except DATABASE_ERRORS:
        logger.debug("closing the outbox's connection failed", exc_info=True)
