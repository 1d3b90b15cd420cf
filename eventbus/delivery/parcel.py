"""Rows on their way to the broker, and one try to send them: shared by dispatcher and relay."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any, Final, Self

import orjson

from eventbus.errors import BrokerUnavailable
from eventbus.events.envelope import Batch, Message, seal
from eventbus.process import failpoints
from eventbus.publishers.base import Outcome, Publisher

_Head = tuple[str, str, str, str]  # routing key, id, correlation id, subject
_SHORT: Final = 255
"""Bytes of a text that AMQP carries beside the body."""

logger = logging.getLogger(__name__)


class Parcel:
    """The events of one outbox row (or of one hand-over in direct mode) that are not yet with the broker.

    `outcome` is what the broker said of those it did not take: REFUSED if it refused any, UNROUTABLE if that holds for
    all that are left; `tries` counts the times it said so. Events of one row are of different records, so those it
    refused go to the end: where such a message costs the channel, the others get through before it.
    """

    __slots__ = ("_batch", "_bodies", "_heads", "outcome", "reason", "size", "tries", "version")

    def __init__(self, version: int, bodies: list[bytes], heads: list[_Head] | None, batch: Batch | None):
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

    @property
    def subjects(self) -> list[str]:
        """Which record each event is about, of a parcel from the outbox."""
        return [head[3] for head in self._heads or ()]

    def hold_back(self, subjects: Collection[str]) -> Self | None:
        """Take the events of these records out, into a parcel of their own; None if there are none."""
        assert self._heads is not None
        events = list(zip(self._heads, self._bodies, strict=True))
        held = [(head, body) for head, body in events if head[3] in subjects]
        if not held:
            return None
        rest = [(head, body) for head, body in events if head[3] not in subjects]
        self._heads, self._bodies = [head for head, _ in rest], [body for _, body in rest]
        return type(self)(self.version, [body for _, body in held], [head for head, _ in held], None)

    def joined(self, other: Self) -> Self:
        """The events of both, parts of one row."""
        heads = [*(self._heads or ()), *(other._heads or ())]
        both = type(self)(self.version, [*self._bodies, *other._bodies], heads, None)
        both.reason, both.tries = self.reason or other.reason, max(self.tries, other.tries)
        return both

    def messages(self) -> list[Message]:
        """The events that are left, sealed; made anew each time, so that a waiting parcel holds them once."""
        if self._heads is None:
            assert self._batch is not None
            return self._batch.messages()
        return [
            Message(key, event_id, seal(body, self.version), correlation_id)
            for (key, event_id, correlation_id, _), body in zip(self._heads, self._bodies, strict=True)
        ]

    def delivered(self) -> None:
        """All events are with the broker."""
        self._bodies, self._heads, self._batch = [], [], None

    def settle(self, messages: Sequence[Message], outcomes: Sequence[Outcome | None]) -> bool:
        """Keep only the events that were not confirmed; whether none is left."""
        left = [position for position, outcome in enumerate(outcomes) if outcome is not Outcome.CONFIRMED]
        left.sort(key=lambda position: outcomes[position] is Outcome.REFUSED)
        self.outcome = _worst([outcomes[position] for position in left])
        if left != list(range(len(outcomes))):
            self._bodies = [self._bodies[position] for position in left]
            heads = self._heads or [(each.routing_key, each.id, each.correlation_id, "") for each in messages]
            self._heads = [heads[position] for position in left]
            self._batch = None
            self.size = sum(map(len, self._bodies))
        if self.outcome is not None:
            self.tries += 1
            self.reason = f"{self.outcome.value}: {self.keys[-1]}"
        return not left

    def stumble(self, error: Exception) -> None:
        """Our own code, or the publisher's, cannot send these events: as if the broker had refused them."""
        self.outcome = Outcome.REFUSED
        self.tries += 1
        self.reason = f"error: {type(error).__name__}: {error}"


def deliver(publisher: Publisher, parcels: Sequence[Parcel]) -> None:
    """Try once to send all events of these parcels, in their order. A parcel without events left is delivered.

    Raises BrokerUnavailable once what is known of each event has been noted in its parcel. Any other error is of a
    program, and no broker is lost: the parcels are then tried one by one, and the one that it is about is refused.
    """
    made: list[list[Message]] = []
    try:
        made += [parcel.messages() for parcel in parcels]
        messages = [message for some in made for message in some] if len(made) != 1 else made[0]
        outcomes: Sequence[Outcome | None] = publisher.publish(messages)
    except BrokerUnavailable as error:
        _settle(parcels, made, error.outcomes)
        raise
    except Exception as error:  # noqa: BLE001 - told of, and in the end parked
        _take_apart(publisher, parcels, error)
        return
    failpoints.hit("after_confirm")
    if outcomes.count(Outcome.CONFIRMED) == len(messages):
        for parcel in parcels:
            parcel.delivered()
        return
    _settle(parcels, made, outcomes)


def _take_apart(publisher: Publisher, parcels: Sequence[Parcel], error: Exception) -> None:
    if len(parcels) > 1:
        for parcel in parcels:
            deliver(publisher, [parcel])
        return
    for parcel in parcels:
        if not parcel.tries:
            logger.error("an error of the program keeps a row from being sent: %r", error, exc_info=error)
        parcel.stumble(error)


def insist(publisher: Publisher, parcels: Sequence[Parcel]) -> None:
    """The same, twice where the first time said nothing of any event.

    A publisher that lost its channel for the sake of one message finds out which in the very next call.
    """
    try:
        deliver(publisher, parcels)
    except BrokerUnavailable as error:
        if any(outcome is not None for outcome in error.outcomes):
            raise
        deliver(publisher, parcels)


def _settle(parcels: Sequence[Parcel], made: Sequence[list[Message]], outcomes: Sequence[Outcome | None]) -> None:
    position = 0
    for parcel, messages in zip(parcels, made, strict=True):
        some = list(outcomes[position : position + len(messages)])
        some += [None] * (len(messages) - len(some))
        parcel.settle(messages, some)
        position += len(messages)


def _worst(outcomes: Sequence[Outcome | None]) -> Outcome | None:
    """What is to be said of a parcel; None where it is not known of all events, and the broker refused none."""
    said = set(outcomes)
    if Outcome.REFUSED in said:
        return Outcome.REFUSED
    return Outcome.UNROUTABLE if said == {Outcome.UNROUTABLE} else None


def _head(body: bytes) -> _Head:
    event = orjson.loads(body)
    if type(event) is not dict or not body.startswith(b'{"') or "sequence" in event:
        raise ValueError("not an unsealed event")
    return _short(event, "type"), _short(event, "id"), _short(event, "correlationid"), _text(event, "subject")


def _short(event: dict[str, Any], name: str) -> str:
    text = _text(event, name)
    if len(text.encode()) > _SHORT:
        raise ValueError(f"its {name} is longer than {_SHORT} bytes")
    return text


def _text(event: dict[str, Any], name: str) -> str:
    text = event.get(name)
    if type(text) is not str or not text:
        raise ValueError(f"its {name} is no text")
    return text
