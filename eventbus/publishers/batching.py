"""Several events of a transaction in one message, for brokers whose price is a message: `EVENTBUS_WIRE=batch`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, repeat
from operator import attrgetter
from typing import Final, TypeVar, final

from eventbus.errors import BrokerUnavailable
from eventbus.events import batch
from eventbus.events.envelope import Message
from eventbus.publishers.base import Outcome, Publisher

_Fate = TypeVar("_Fate", Outcome, Outcome | None)
_SAME: Final = attrgetter("routing_key", "correlation_id")


@final
class BatchingPublisher(Publisher):
    """Joins neighbours of the same transaction and routing key, and lets another publisher send them.

    So bindings, permissions and the order of the events stay what they are. A batch has 256 events and `most_bytes` at
    most; an event that has no such neighbour, or is larger, goes as it is. What becomes of a batch becomes of each of
    its events.
    """

    def __init__(self, publisher: Publisher, *, most_bytes: int) -> None:
        self._publisher = publisher
        self._most_bytes = min(most_bytes, batch.MOST_BYTES)

    def __repr__(self) -> str:
        return f"<BatchingPublisher of {self._publisher!r}>"

    def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        joined, counts = [], []
        for _, neighbours in groupby(messages, _SAME):
            for some in _parts(list(neighbours), self._most_bytes):
                joined.append(some[0] if len(some) == 1 else _joined(some))
                counts.append(len(some))
        try:
            return _spread(self._publisher.publish(joined), counts)
        except BrokerUnavailable as error:
            error.outcomes = _spread(error.outcomes, counts)
            raise

    def tick(self) -> None:
        self._publisher.tick()

    def close(self) -> None:
        self._publisher.close()

    def abandon(self) -> None:
        self._publisher.abandon()


def _parts(messages: list[Message], most_bytes: int) -> Iterator[list[Message]]:
    """What may go together, in order."""
    start, size = 0, batch.AROUND
    for index, message in enumerate(messages):
        more = len(message.body) + batch.BETWEEN
        if index > start and (index - start >= batch.MOST_EVENTS or size + more > most_bytes):
            yield messages[start:index]
            start, size = index, batch.AROUND
        size += more
    yield messages[start:]


def _joined(messages: Sequence[Message]) -> Message:
    first = messages[0]
    return first._replace(body=batch.joined([message.body for message in messages]))


def _spread(outcomes: Sequence[_Fate], counts: Sequence[int]) -> list[_Fate]:
    """An outcome for each event; none where the publisher gave none."""
    return [each for outcome, count in zip(outcomes, counts, strict=False) for each in repeat(outcome, count)]
