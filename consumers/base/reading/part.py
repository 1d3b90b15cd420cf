"""The events of a batch, each a delivery of its own: to be checked, handled or dead-lettered like any other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, final

from consumers.base.reading.delivery import Delivery, Properties
from eventbus.events.envelope import CONTENT_TYPE
from eventbus.events.signing import KEY_HEADER, SIGNATURE_HEADER, Key, sign

_OF_THE_WHOLE: Final = frozenset({KEY_HEADER, SIGNATURE_HEADER})


@final
class Part(Delivery):
    """One event of a batch. Routing key, exchange and sender are the batch's; its tag says which one of it this is."""

    __slots__ = ("_whole",)

    _whole: _Whole


class _Whole:
    """A message, and how many of its events have no outcome yet."""

    __slots__ = ("delivery", "left")

    def __init__(self, delivery: Delivery, left: int) -> None:
        self.delivery = delivery
        self.left = left


def parts_of(delivery: Delivery, bodies: Sequence[bytes], key: Key | None) -> list[Delivery]:
    """A delivery for each of these bodies.

    The batch's signature proves nothing of one event alone. So each is signed anew with the `key` that the batch's was
    seen to be by: a dead letter of one event can be checked when it comes back.
    """
    whole, parts = _Whole(delivery, len(bodies)), list[Delivery]()
    for index, body in enumerate(bodies):
        part = Part(
            body,
            delivery.routing_key,
            (delivery.tag, index),
            delivery.redelivered,
            exchange=delivery.exchange,
            properties=partial(_properties, delivery, body, key),
            standard=True,
        )
        part._whole = whole
        parts.append(part)
    return parts


def settled(deliveries: Iterable[Delivery]) -> list[Delivery]:
    """The messages that are to be acknowledged now that these have their outcomes: a batch with its last event."""
    messages = []
    for delivery in deliveries:
        if not isinstance(delivery, Part):
            messages.append(delivery)
            continue
        whole = delivery._whole
        whole.left -= 1
        if not whole.left:
            messages.append(whole.delivery)
    return messages


def _properties(whole: Delivery, body: bytes, key: Key | None) -> Properties:
    headers = {name: value for name, value in whole.headers.items() if name not in _OF_THE_WHOLE}
    # The batch's message id is that of its first event.
    kept = {name: value for name, value in whole.properties.items() if name != "message_id"}
    return {
        **kept,
        "content_type": CONTENT_TYPE,
        "application_headers": headers | (sign(body, key) if key else {}),
    }
