"""Events that the broker returned or refused: tried again later, while others go on; in the end parked.

A broker that cannot be reached has refused nothing: see `outlet`. Where a relay keeps the order it is `relay.refused`.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Final, Literal, final

from eventbus.delivery.remarks import Remarks
from eventbus.delivery.stats import Counters
from eventbus.delivery.working.intake import Intake, Job
from eventbus.publishers.base import Outcome

_MOST_SUSPECTS: Final = 1000

logger = logging.getLogger(__name__)

_CHANCE: Final = random.SystemRandom()
"""The global generator is the application's: a seed of its own must give what it gives without us."""


@final
class Refusals:
    """Decides over jobs that were refused, under the lock.

    `tries`: how often the broker may refuse an event before it is parked. `suspicion`: for how many seconds events like
    those that were given up are tried once each, and not again and again.
    """

    def __init__(
        self,
        intake: Intake,
        remarks: Remarks,
        counters: Counters,
        *,
        tries: int,
        unroutable: Literal["keep", "drop"],
        suspicion: float,
    ) -> None:
        self._intake = intake
        self._remarks = remarks
        self._counters = counters
        self._tries = tries
        self._drop = unroutable == "drop"
        self._suspicion = suspicion
        self._suspects: dict[str, float] = {}

    def take(self, job: Job) -> None:
        """Delay, park, drop or lose it."""
        at, left = time.monotonic(), len(job)
        dropped = job.outcome is Outcome.UNROUTABLE and self._drop
        if dropped:
            self._counters.dropped += left
        elif job.tries < self._tries and not self._is_suspect(job, at):
            delay = min(0.1 * 2.0**job.tries, 5.0) * _CHANCE.uniform(0.5, 1.0)
            self._intake.delay(job, at + delay)
            return
        elif job.account is None:
            self._intake.lose(left, job.reason)
        else:
            self._park(job, at)
        self._intake.finish(job)
        if dropped and job.account is not None:
            job.account.delivered([job.version])

    def forgive(self) -> None:
        """Some got through: the like of what was given up may, too."""
        self._suspects.clear()

    def _is_suspect(self, job: Job, at: float) -> bool:
        return at - self._suspects.get(job.reason, -1e9) < self._suspicion

    def _park(self, job: Job, at: float) -> None:
        assert job.account is not None
        if not self._is_suspect(job, at):
            text, extra = "events are parked in the outbox: %s", {"row": job.version}
            self._remarks.note(logger.warning, text, job.reason, extra=extra)
        if len(self._suspects) > _MOST_SUSPECTS:
            self._suspects.clear()
        self._suspects[job.reason] = at
        job.account.park(job)
