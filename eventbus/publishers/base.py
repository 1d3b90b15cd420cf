"""What every publisher promises, and what can become of a message."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum

from eventbus.events.envelope import Message


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
