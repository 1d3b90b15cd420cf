"""The work of one process on what was committed: send, sort out, look after."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, final

from eventbus.delivery.outboxes.account import Account
from eventbus.delivery.outboxes.accounts import Accounts
from eventbus.delivery.parcel import Parcel
from eventbus.delivery.remarks import Remarks
from eventbus.delivery.stats import Counters
from eventbus.delivery.tempo import Tempo
from eventbus.delivery.working.intake import Intake, Job
from eventbus.delivery.working.outlet import Outlet
from eventbus.delivery.working.refusals import Refusals
from eventbus.publishers.base import Publisher

_SAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class Options:
    """What a dispatcher is made with; see there."""

    make_publisher: Callable[[], Publisher]
    max_bytes: int
    max_rows: int
    unroutable: Literal["keep", "drop"]
    tries: int
    tempo: Tempo
    expects_rows: bool
    backoff_limit: float


@final
class Desk:
    """The parts that answer for what one process has committed, and how they work together.

    `lock` guards `accounts`, `intake` and `counters`. What the thread does, it does in steps: see `Courier`.
    `latencies`: seconds from commit to confirm, of the oldest event in each batch, for those who watch.
    """

    def __init__(self, options: Options) -> None:
        self.lock = threading.RLock()
        self.counters, self.remarks = Counters(), Remarks()
        self.accounts = Accounts(self.lock, options.tempo, expects_rows=options.expects_rows)
        self.intake = Intake(
            self.lock,
            self.accounts,
            self.remarks,
            self.counters,
            max_bytes=options.max_bytes,
            max_rows=options.max_rows,
        )
        self.latencies: deque[float] = deque(maxlen=_SAMPLES)
        self.outlet = Outlet(options.make_publisher, backoff_limit=options.backoff_limit)
        self._refusals = Refusals(
            self.intake,
            self.remarks,
            self.counters,
            tries=options.tries,
            unroutable=options.unroutable,
            suspicion=options.tempo.parked,
        )

    def send(self, jobs: list[Job]) -> None:
        """Try once; what was not taken is tried again, or put out of the way."""
        self.outlet.send(jobs)
        self._sort_out(jobs)

    def keep(self, jobs: list[Job], error: BaseException) -> None:
        """Something went wrong while these were sent: those that are not settled are sent again."""
        self.intake.put_back([job for job in jobs if job.number in self.intake.open])
        self.outlet.stand_back(error)

    def look_after(self, *, flushing: bool) -> None:
        """What is due in the outboxes; all that was put off, where somebody waits for it."""
        at = time.monotonic()
        self.outlet.tick(at)
        with self.lock:
            self.intake.sort_in()
        for account in self.accounts.retire(at):
            account.leave()
        for account in self.accounts:
            hurry = flushing and not self.intake.waiting
            account.work(at, room=lambda: self.intake.room, take=self._taker(account), hurry=hurry)
            if self.outlet.connected or at >= self.outlet.retry_at:
                self._retry_parked(account, at)

    def _taker(self, account: Account) -> Callable[[Parcel], None]:
        return lambda parcel: self.intake.admit(Job.of_parcel(parcel), account)

    def _retry_parked(self, account: Account, at: float) -> None:
        claimed = account.claim_parked(at)
        if not claimed:
            return
        before = sum(len(parcel) for _, parcel in claimed)
        self.outlet.insist([parcel for _, parcel in claimed])
        if any(not len(parcel) for _, parcel in claimed):
            self._refusals.forgive()
        with self.lock:
            self.counters.published += before - sum(len(parcel) for _, parcel in claimed)
        account.settle_parked(claimed)

    def _sort_out(self, jobs: list[Job]) -> None:
        done: dict[Account, list[int]] = {}
        with self.lock:
            self._note_latency(jobs)
            again = []
            for job in jobs:
                self.counters.published += self.intake.recount(job)
                if not len(job):
                    self.intake.finish(job)
                    if job.account is not None:
                        done.setdefault(job.account, []).append(job.version)
                elif job.outcome is not None:
                    self.outlet.last_error = job.reason
                    self._refusals.take(job)
                else:
                    again.append(job)
            self.intake.put_back(again)
            for account, row_ids in done.items():
                account.delivered(row_ids)
        self.remarks.speak()

    def _note_latency(self, jobs: list[Job]) -> None:
        oldest = min((self.intake.open.get(job.number, math.inf) for job in jobs if not len(job)), default=math.inf)
        if oldest < math.inf:
            self.latencies.append(time.monotonic() - oldest)

    def due(self, at: float) -> float:
        """When there is something to do, by the monotonic clock. Under the lock."""
        room = self.intake.room > 0
        times = [account.due(at, room=room) for account in self.accounts]
        # Parked rows are tried when others would be.
        reachable = 0.0 if self.outlet.connected else self.outlet.retry_at
        times += [max(account.parked_due, reachable) for account in self.accounts]
        times.append(self.outlet.due(at))
        if self.intake.waiting:
            times.append(self.outlet.retry_at)
        if self.intake.due is not None:
            times.append(self.intake.due)
        return min(times)

    def forget(self) -> object:
        """In a child: without a word let go of the parent's connections. The caller keeps the result."""
        return self, self.outlet.abandon(), [account.forget() for account in self.accounts]
