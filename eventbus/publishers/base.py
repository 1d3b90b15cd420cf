"""What every publisher promises, and the values that go with it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import final

from eventbus.envelope import Message


class Outcome(Enum):
    """What became of one message. Closed: there is no fourth fate but "not known", which is an exception."""

    CONFIRMED = "confirmed"
    """The broker has it safe, in at least one queue."""
    UNROUTABLE = "unroutable"
    """The broker works, but no queue takes this message. It is kept nowhere."""
    REFUSED = "refused"
    """The broker said no to this message: queue full, body too large, key not allowed; or AMQP cannot carry it."""


class Publisher(ABC):
    """Sends messages to one exchange of one broker.

    A publisher belongs to one thread and one process. It connects when first used and again after a failure, but never
    repeats a message by itself: what to send again, and when, is its owner's to decide. After `os.fork()` the child
    drops its copy with `abandon()` and makes its own.
    """

    @abstractmethod
    def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Send the messages in their order and return one outcome for each, aligned with them.

        Returns when the fate of each is known, and in bounded time. Raises BrokerUnavailable where it is not;
        `error.outcomes` then has an outcome for those known and None for the others.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the broker, in bounded time and without an error. Closing twice is closing once."""

    def tick(self) -> None:  # noqa: B027  # a publisher without a connection has nothing to do
        """Keep an idle connection alive. To be called about once a second between calls of `publish`; never raises.

        A connection found dead is thrown away, and the next `publish` makes a new one.
        """

    def abandon(self) -> None:  # noqa: B027  # as above
        """Forget the connection without a word to the broker: it is the parent process's. For a child after fork."""


@final
@dataclass(slots=True)
class Backoff:
    """How long to wait before the next try: doubling from `first` to `limit` seconds, each shortened by up to `jitter`.

    The jitter keeps many services from coming back at one instant. With a `seed` the delays are the same in every run.
    """

    first: float = 0.1
    limit: float = 30.0
    jitter: float = 0.5
    seed: int | None = None
    failures: int = field(default=0, init=False)
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.limit or not 0 <= self.jitter < 1:
            raise ValueError("Backoff needs 0 < first <= limit and 0 <= jitter < 1")
        self._random = random.Random(self.seed)  # noqa: S311  # spreads load, guards nothing

    def next(self) -> float:
        """Count one more failure; the seconds to wait after it, above 0 and at most `limit`."""
        delay = min(self.limit, self.first * 2.0 ** min(self.failures, 62))
        self.failures += 1
        return delay * (1 - self.jitter * self._random.random())

    def reset(self) -> None:
        """Something worked: begin again at `first`."""
        self.failures = 0
