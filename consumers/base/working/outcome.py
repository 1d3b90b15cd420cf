"""What became of a delivery: a closed union, decided by the handler, carried out by the consumer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Done:
    """The delivery has taken effect and no crash can undo that: it is acknowledged."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now, for a reason outside the delivery (disk full, database away): given again after a pause, for ever."""

    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Never: the delivery goes to the dead-letter queue, confirmed, and only then is acknowledged.

    `reason` is a short text without payload, the same for the same kind of fault.
    """

    reason: str


Outcome = Done | Retry | DeadLetter

DONE: Final = Done()
"""The one instance that is needed: `return [DONE] * len(batch)`."""
