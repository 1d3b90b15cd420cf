"""Rows on their way to the broker, and one try to send them: shared by dispatcher and relay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import orjson

from eventbus import failpoints
from eventbus.envelope import Batch, Message, seal
from eventbus.errors import BrokerUnavailable
from eventbus.publishers.base import Outcome, Publisher


class Parcel:
    """The events of one outbox row (or of one hand-over in direct mode) that are not yet with the broker.

    `outcome` is what the broker said of the first event it did not take; `tries` counts the times it did so.
    """

    __slots__ = ("_batch", "_bodies", "_heads", "outcome", "reason", "size", "tries", "version")

    def __init__(self, version: int, bodies: list[bytes], heads: list[tuple[str, str, str]] | None, batch: Batch | None):
        self.version = version
        self.size = sum(map(len, bodies))
        self.tries = 0
        self.outcome: Outcome | None = None
        self.reason = ""
        self._bodies = bodies
        self._heads = heads
        self._batch = batch

    @classmethod
    def of_batch(cls, batch: Batch) -> Self:
        """What the writer handed over."""
        return cls(batch.version, batch.bodies, None, batch)

    @classmethod
    def of_payload(cls, version: int, payload: bytes) -> Self:
        """What stands in the outbox. Raises ValueError for a payload that eventbus did not write."""
        bodies = payload.split(b"\n")
        return cls(version, bodies, [_head(body) for body in bodies], None)

    @classmethod
    def of_parcel(cls, parcel: Parcel) -> Self:
        """The same events in a parcel of this class."""
        return cls(parcel.version, parcel._bodies, parcel._heads, parcel._batch)

    def __len__(self) -> int:
        return len(self._bodies)

    @property
    def payload(self) -> bytes:
        """The events that are left, as they stand in the outbox."""
        return b"\n".join(self._bodies)

    @property
    def keys(self) -> list[str]:
        """Routing keys of the events that are left."""
        if self._heads is None:
            assert self._batch is not None
            return self._batch.keys
        return [head[0] for head in self._heads]

    def messages(self) -> list[Message]:
        """The events that are left, sealed; made anew each time, so that a waiting parcel holds them once."""
        if self._heads is None:
            assert self._batch is not None
            return self._batch.messages()
        return [
            Message(key, event_id, seal(body, self.version), correlation_id)
            for (key, event_id, correlation_id), body in zip(self._heads, self._bodies, strict=True)
        ]

    def delivered(self) -> None:
        """All events are with the broker."""
        self._bodies, self._heads, self._batch = [], [], None

    def settle(self, messages: Sequence[Message], outcomes: Sequence[Outcome | None]) -> bool:
        """Keep only the events that were not confirmed; whether none is left."""
        left = [position for position, outcome in enumerate(outcomes) if outcome is not Outcome.CONFIRMED]
        self.outcome = next((outcome for outcome in outcomes if outcome not in (None, Outcome.CONFIRMED)), None)
        if len(left) < len(outcomes):
            self._bodies = [self._bodies[position] for position in left]
            kept = [messages[position] for position in left]
            self._heads = [(message.routing_key, message.id, message.correlation_id) for message in kept]
            self._batch = None
            self.size = sum(map(len, self._bodies))
        if self.outcome is not None:
            self.tries += 1
            key = self.keys[0]
            self.reason = f"{self.outcome.value}: {key}"
        return not left


def deliver(publisher: Publisher, parcels: Sequence[Parcel]) -> None:
    """Try once to send all events of these parcels, in their order. A parcel without events left is delivered.

    Raises BrokerUnavailable once what is known of each event has been noted in its parcel.
    """
    made = [parcel.messages() for parcel in parcels]
    messages = [message for some in made for message in some] if len(made) != 1 else made[0]
    try:
        outcomes: Sequence[Outcome | None] = publisher.publish(messages)
    except BrokerUnavailable as error:
        _settle(parcels, made, error.outcomes)
        raise
    failpoints.hit("after_confirm")
    if outcomes.count(Outcome.CONFIRMED) == len(messages):
        for parcel in parcels:
            parcel.delivered()
        return
    _settle(parcels, made, outcomes)


def _settle(parcels: Sequence[Parcel], made: Sequence[list[Message]], outcomes: Sequence[Outcome | None]) -> None:
    position = 0
    for parcel, messages in zip(parcels, made, strict=True):
        some = list(outcomes[position : position + len(messages)])
        some += [None] * (len(messages) - len(some))
        parcel.settle(messages, some)
        position += len(messages)


def _head(body: bytes) -> tuple[str, str, str]:
    event = orjson.loads(body)
    try:
        return event["type"], event["id"], event["correlationid"]
    except (KeyError, TypeError) as error:
        raise ValueError("not an event") from error
