"""Deliveries that are being handled, until each has its outcome: who is tried again, who is given up. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from consumers.base.reading.delivery import Delivery
from consumers.base.working.outcome import DeadLetter, Done, Outcome, Retry
from eventbus.errors import counted

Handler = Callable[[Sequence[Delivery]], Sequence[Outcome]]
"""Takes a batch in the order of the queue, returns one outcome for each delivery.

An `OSError` or `MemoryError` it raises means Retry for the whole batch. Any other exception is taken for the fault of
one delivery: they are then handled one by one, and one that keeps failing while others succeed is dead-lettered.
"""

SUSPECT_AFTER: Final = 2
"""Failures of a whole batch before its deliveries are handled one by one: the first may have been bad luck."""
GUILTY_AFTER: Final = 5
"""Failures of one delivery, handled alone, before it is given up, if another succeeded meanwhile."""
GIVEN_UP_AFTER: Final = 20
"""The same if none succeeded. Then it may well be the handler that is at fault, so patience is larger."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn achieved. `waiting` tells why deliveries are left, None where none are."""

    done: list[Delivery]
    dead: list[tuple[Delivery, str]]
    waiting: str | None


@dataclass(slots=True)
class _Record:
    failures: int = 0
    error: str = ""
    others_succeeded: bool = False


@final
@dataclass(slots=True)
class Worklist:
    """The deliveries of one batch that have no outcome yet, in their order."""

    handler: Handler
    pending: list[Delivery]
    batch_failures: int = 0
    _records: dict[Any, _Record] = field(default_factory=dict)

    @property
    def isolating(self) -> bool:
        """Whether deliveries are handled one by one, to find the one at fault. More may be added, as witnesses."""
        return self.batch_failures >= SUSPECT_AFTER

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Put more at the end."""
        self.pending.extend(deliveries)

    def turn(self) -> Turn:
        """Give all that is pending to the handler, once."""
        batches = [[delivery] for delivery in self.pending] if self.isolating else [self.pending]
        done: list[Delivery] = []
        dead: list[tuple[Delivery, str]] = []
        left: list[Delivery] = []
        reason: str | None = None
        for batch in batches:
            for delivery, outcome in zip(batch, self._handle(batch), strict=True):
                if isinstance(outcome, Done):
                    done.append(delivery)
                elif isinstance(outcome, DeadLetter):
                    dead.append((delivery, outcome.reason))
                else:
                    left.append(delivery)
                    reason = reason or outcome.reason
        if done:
            self._testify()
        guilty = [delivery for delivery in left if self._is_guilty(delivery)]
        dead.extend((delivery, self._records[delivery.tag].error) for delivery in guilty)
        self.pending = [delivery for delivery in left if delivery not in guilty] if guilty else left
        return Turn(done, dead, reason if self.pending else None)

    def _handle(self, batch: Sequence[Delivery]) -> Sequence[Outcome]:
        try:
            outcomes = self.handler(batch)
            _check(self.handler, outcomes, len(batch))
        except (OSError, MemoryError) as error:
            logger.warning(
                "the handler found no resources for %s: %s",
                counted(len(batch), "delivery"),
                type(error).__name__,
                exc_info=True,
                extra={"deliveries": len(batch)},
            )
            return [Retry(type(error).__name__)] * len(batch)
        except Exception as error:
            logger.exception(
                "the handler failed on %s, the first with SHA-256 %s",
                counted(len(batch), "delivery"),
                batch[0].digest[:12],
                extra={"deliveries": len(batch), "sha256": batch[0].digest},
            )
            self._blame(batch, f"handler failed: {type(error).__name__}")
            return [Retry(f"handler failed: {type(error).__name__}")] * len(batch)
        return outcomes

    def _blame(self, batch: Sequence[Delivery], error: str) -> None:
        if not self.isolating:
            self.batch_failures += 1
        if len(batch) == 1:
            record = self._records.setdefault(batch[0].tag, _Record())
            record.failures += 1
            record.error = error

    def _testify(self) -> None:
        for record in self._records.values():
            record.others_succeeded = True

    def _is_guilty(self, delivery: Delivery) -> bool:
        record = self._records.get(delivery.tag)
        if record is None:
            return False
        return record.failures >= (GUILTY_AFTER if record.others_succeeded else GIVEN_UP_AFTER)


def _check(handler: Handler, outcomes: object, expected: int) -> None:
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    if not isinstance(outcomes, Collection):
        raise TypeError(f"the handler {name} returned {_named(outcomes)}: return one outcome for each delivery")
    if len(outcomes) != expected:
        given = counted(len(outcomes), "outcome")
        raise TypeError(f"the handler {name} returned {given} to a batch of {expected}: return one for each delivery")
    for outcome in outcomes:
        if not isinstance(outcome, Done | Retry | DeadLetter):
            raise TypeError(
                f"the handler {name} returned {_named(outcome)} as an outcome: use Done, Retry or DeadLetter"
            )


def _named(answer: object) -> str:
    """Never the answer itself: it may hold what must not be logged."""
    return "None" if answer is None else f"a {type(answer).__qualname__}"
