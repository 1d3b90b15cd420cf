"""What was committed and is not yet with the broker, as far as memory has room for it."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, final

from eventbus.delivery.outboxes.account import Account
from eventbus.delivery.outboxes.accounts import Accounts
from eventbus.delivery.parcel import Parcel
from eventbus.delivery.remarks import Remarks
from eventbus.delivery.stats import Counters
from eventbus.events.envelope import Batch
from eventbus.outbox import Entry, Store

ROUND_EVENTS: Final = 1000
ROUND_BYTES: Final = 4 << 20
_INBOX: Final = 16
"""Rows that may wait for the dispatcher's thread to look at them; with one more the writer sees to them itself."""
_LOSS_LOG: Final = 10.0
_OVERHEAD: Final = 1000
"""Bytes that Python needs for a row beside its events; measured."""
_SOON: Final = 0.5

logger = logging.getLogger(__name__)


class Job(Parcel):
    """A parcel in the dispatcher's hands; `charge`: bytes of memory it is accounted for, 0 when it is settled."""

    __slots__ = ("account", "charge", "count", "number")

    account: Account | None
    charge: int
    count: int
    number: int


@final
class Intake:
    """Inbox, queue, and what waits to be tried again. All of it is touched under the lock alone.

    `max_bytes` bounds the events, `max_rows` the outbox rows they belong to. What does not fit stays in the outbox;
    without an outbox the oldest events give way. `open`: numbers of the rows that are not settled, with the time when
    they came. `events`, `bytes`: what these hold. `last`: the number given out last. `commits`: how often something was
    handed over. `closed`: nothing more is taken.
    """

    def __init__(
        self,
        lock: threading.RLock,
        accounts: Accounts,
        remarks: Remarks,
        counters: Counters,
        *,
        max_bytes: int,
        max_rows: int,
    ) -> None:
        self.open: dict[int, float] = {}
        self.events = self.bytes = self.last = self.commits = 0
        self.closed = False
        self._lock = lock
        self._accounts = accounts
        self._remarks = remarks
        self._counters = counters
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._inbox: list[Entry] = []
        self._queue: deque[Job] = deque()
        self._delayed: list[tuple[float, int, Job]] = []
        self._loss_logged = 0.0

    # in

    def put(self, entries: Sequence[Entry]) -> None:
        """Take over what a transaction committed; the thread sorts it in, unless it is too much."""
        self.commits += 1
        inbox = self._inbox
        inbox += entries
        if len(inbox) > _INBOX or len(entries) > 1 or self.closed:
            self.sort_in()

    def sort_in(self) -> None:
        """See to what writers have handed over."""
        if not self._inbox:
            return
        entries, self._inbox = deque(self._inbox), []
        try:
            while entries:
                try:
                    self._enter(*entries[0])
                except Exception as error:  # noqa: BLE001 - logged, as soon as the lock is free
                    text = "committed events could not be taken over; the outbox has them, if there is one"
                    self._remarks.note(logger.error, text, exc_info=error)
                entries.popleft()
        finally:
            if entries:  # a signal's exception came between
                self._inbox = [*entries, *self._inbox]

    def admit(self, job: Job, account: Account | None) -> None:
        """Into the queue first: what only was counted as open would be waited for in vain."""
        job.account, job.charge, job.count = account, job.size + _OVERHEAD, len(job)
        job.number = self.last = self.last + 1
        self._queue.append(job)
        self.open[job.number] = time.monotonic()
        self.bytes += job.charge
        self.events += job.count

    def _enter(self, batch: Batch, store: Store | None) -> None:
        job = Job.of_batch(batch)
        if store is None:
            if self._has_room_without_outbox(job):
                self.admit(job, None)
            return
        account = self._accounts.of(store)
        account.committed(batch.version)
        if not batch.version:
            # The row was to go with a commit that has not come: whoever commits it, the outbox will show it.
            account.look_soon(time.monotonic() + _SOON)
        elif batch.version not in account.known and self._has_room(job, account):
            self.admit(job, account)
            # Last, as a signal's exception may come between: a row that only was known would never be delivered.
            account.known[batch.version] = time.monotonic()

    def _has_room(self, job: Job, account: Account) -> bool:
        """If not, the row is left in the outbox."""
        full = not self._fits(job) or len(self.open) >= self._max_rows
        if not (account.behind or self.closed or full or account.clogged):
            return True
        if not account.behind:
            because = "memory is full" if full else "delivered rows cannot be deleted"
            because = "the dispatcher is closed" if self.closed else because
            extra = {"outbox": repr(account.store)}
            self._remarks.note(logger.warning, "%s, events wait in the outbox", because, extra=extra)
        account.leave_in_outbox(job.version)
        return False

    def _has_room_without_outbox(self, job: Job) -> bool:
        """The oldest events give way to newer ones."""
        if self.closed:
            self.lose(len(job), "the dispatcher is closed")
            return False
        while not self._fits(job):
            victim = next((each for each in self._queue if each.account is None), None)
            if victim is None:
                self.lose(len(job), "memory is full")
                return False
            self._queue.remove(victim)
            self.lose(len(victim), "memory is full")
            self.finish(victim)
        return True

    def _fits(self, job: Job) -> bool:
        return not self.bytes or self.bytes + job.size + _OVERHEAD <= self._max_bytes

    @property
    def room(self) -> int:
        """Bytes that may be read back: none before half of the memory is free, so that it is done in long stretches."""
        half_empty = self.bytes <= self._max_bytes // 2 and len(self.open) <= self._max_rows // 2
        return self._max_bytes - self.bytes if half_empty else 0

    # out

    @property
    def waiting(self) -> bool:
        """Whether something is to be sent now."""
        return bool(self._queue)

    @property
    def due(self) -> float | None:
        """When something is to be tried again, by the monotonic clock."""
        return self._delayed[0][0] if self._delayed else None

    @property
    def is_durable(self) -> bool:
        """Whether all that waits is in an outbox too."""
        waiting = [*self._queue, *(job for _, _, job in self._delayed)]
        return all(job.account is not None for job in waiting)

    def wake_delayed(self, at: float) -> None:
        """What is to be tried again goes first."""
        while self._delayed and self._delayed[0][0] <= at:
            self._queue.appendleft(heapq.heappop(self._delayed)[2])

    def take(self) -> list[Job]:
        """The next ones to send together."""
        jobs: list[Job] = []
        events, size, queue = 0, 0, self._queue
        while queue and (not jobs or (events + len(queue[0]) <= ROUND_EVENTS and size + queue[0].size <= ROUND_BYTES)):
            job = queue.popleft()
            jobs.append(job)
            events += len(job)
            size += job.size
        return jobs

    def put_back(self, jobs: list[Job]) -> None:
        """These are to be sent again, first."""
        with self._lock:
            self._counters.retried += sum(len(job) for job in jobs)
            self._queue.extendleft(reversed(jobs))

    def delay(self, job: Job, until: float) -> None:
        """This one is to be sent again, later."""
        self._counters.retried += len(job)
        heapq.heappush(self._delayed, (until, job.number, job))

    def recount(self, job: Job) -> int:
        """Some of its events were delivered; how many."""
        delivered = job.count - len(job)
        self.events -= delivered
        job.count = len(job)
        return delivered

    def finish(self, job: Job) -> None:
        """Nobody waits for this one any more."""
        self.open.pop(job.number, None)
        self.bytes -= job.charge
        self.events -= job.count
        job.charge = job.count = 0

    def lose(self, events: int, reason: str) -> None:
        """Without an outbox they are gone. Told in the log, not for each of them."""
        self._counters.dropped += events
        self._counters.untold += events
        at = time.monotonic()
        if at - self._loss_logged > _LOSS_LOG or not self._loss_logged:
            self._loss_logged = at
            extra = {"dropped_so_far": self._counters.dropped}
            self._remarks.note(logger.error, "events are lost: %s", reason, extra=extra)
