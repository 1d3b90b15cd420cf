"""A publisher without a broker, for unit tests: of this library, and of the services that use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from eventbus.errors import BrokerUnavailable
from eventbus.events import batch
from eventbus.events.envelope import Event, Message, decode
from eventbus.events.reading import DEFAULT_LIMITS
from eventbus.publishers.base import Outcome, Publisher


@dataclass(frozen=True, slots=True)
class _Loss:
    confirmed: int
    arrived: int


@final
class MemoryPublisher(Publisher):
    """Keeps what it is given in `messages`, in order, and fails when told to.

    Unlike a real publisher it may be looked at and told things from other threads than the one that publishes.

        publisher = MemoryPublisher()
        publisher.answer = lambda message: Outcome.UNROUTABLE     # from now on
        publisher.available = False                               # the broker is down
        publisher.lose(confirmed=1, arrived=2)                    # the next call loses its connection half-way
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        """What reached the broker and a queue, in order; also what was never confirmed (`lose`)."""
        self.answer: Callable[[Message], Outcome] = lambda _: Outcome.CONFIRMED
        """The fate of each message. Only what is CONFIRMED is kept."""
        self.available = True
        """While False, `publish` raises BrokerUnavailable and takes nothing."""
        self.closed = False
        self._losses: list[_Loss] = []
        self._changed = threading.Condition()

    @property
    def events(self) -> list[Event]:
        """The messages, decoded; of a batch each event."""
        return [
            decode(body) for message in list(self.messages) for body in batch.bodies_of(message.body, DEFAULT_LIMITS)
        ]

    def lose(self, *, confirmed: int = 0, arrived: int = 0) -> None:
        """The next call loses its connection: the first `confirmed` messages are confirmed, the fate of the rest is
        not known, and `arrived` of those did arrive. Said several times, it holds for as many calls.
        """
        self._losses.append(_Loss(confirmed, arrived))

    def clear(self) -> None:
        """Forget the messages."""
        with self._changed:
            self.messages.clear()

    def wait_for(self, count: int, timeout: float = 10) -> list[Message]:
        """The messages, once there are at least `count`. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.messages) >= count, timeout):
                raise TimeoutError(f"{len(self.messages)} of {count} messages came within {timeout:g} s")
            return list(self.messages)

    def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        unknown: list[Outcome | None] = [None] * len(messages)
        if not self.available:
            raise BrokerUnavailable("the memory publisher is set to be unavailable", outcomes=unknown)
        self.closed = False
        if not self._losses:
            return [self._take(message) for message in messages]
        loss = self._losses.pop(0)
        known = [self._take(message) for message in messages[: loss.confirmed]]
        for message in messages[loss.confirmed : loss.confirmed + loss.arrived]:
            self._take(message)
        raise BrokerUnavailable(
            "the memory publisher was told to lose its connection", outcomes=[*known, *unknown[len(known) :]]
        )

    def close(self) -> None:
        self.closed = True

    def _take(self, message: Message) -> Outcome:
        outcome = self.answer(message)
        if outcome is Outcome.CONFIRMED:
            with self._changed:
                self.messages.append(message)
                self._changed.notify_all()
        return outcome
