"""A dead letter: the message as it came, and in its headers why it could not be taken.

A sender may put any header into a message, those of ours too. So they count only where the broker vouches that this
consumer's own login wrote them: it lets a message carry as `user_id` nothing but the login that published it. What the
sender gave under these names is left out when a letter is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import amqp

from consumers.base.reading.delivery import Delivery, Properties
from consumers.trust import USER_HEADER
from eventbus.errors import BadEvent
from eventbus.events.naming import DEAD_LETTER_EXCHANGE

REASON: Final = "x-eventbus-reason"
DETAIL: Final = "x-eventbus-detail"
TIME: Final = "x-eventbus-time"
QUEUE: Final = "x-eventbus-queue"
ROUTING_KEY: Final = "x-eventbus-routing-key"
DIGEST: Final = "x-eventbus-sha256"
ATTEMPTS: Final = "x-eventbus-attempts"
OURS: Final = frozenset({REASON, DETAIL, TIME, QUEUE, ROUTING_KEY, DIGEST, ATTEMPTS, USER_HEADER})

_LONGEST_DETAIL = 200
_LARGEST_HEADERS = 32 << 10
"""Bytes; with ours added they must still fit into one frame, or the broker ends the connection each time we try."""
_BROKERS_OWN: Final = ("x-death", "x-delivery-count", "x-acquired-count", "x-first-death", "x-last-death")
_NOT_REPEATED: Final = ("application_headers", "user_id", "expiration", "cluster_id", "delivery_mode", "unreadable")
"""`user_id` must be the sender's own login, so it moves to a header; an `expiration` would let the letter vanish."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way: where to, with which AMQP properties."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Mapping[str, Any]


def retry_key(queue: str) -> str:
    """The routing key by which the dead-letter exchange brings a letter back to its queue."""
    return f"{queue}.retry"


def is_resent(delivery: Delivery, queue: str, own_user: str | None) -> bool:
    """Whether this consumer's own command sent the message again, so that headers of ours in it are ours.

    `own_user` is its login; None at a broker that has none.
    """
    came = (delivery.exchange, delivery.routing_key) == (DEAD_LETTER_EXCHANGE, retry_key(queue))
    return came and is_own(delivery, own_user)


def is_own(delivery: Delivery, own_user: str | None) -> bool:
    """Whether the broker vouches that this login published it."""
    return own_user is None or delivery.properties.get("user_id") == own_user


def dead_letter(  # keyword arguments: what it is about, and how it is sent
    delivery: Delivery, fault: BadEvent, *, queue: str, key: str, own_user: str | None
) -> Letter:
    """The delivery with its reason, for the dead-letter exchange with `key`; `queue` is the one it came from."""
    given = delivery.headers if is_resent(delivery, queue, own_user) else {}
    attempts = given.get(ATTEMPTS)
    original = given.get(ROUTING_KEY)
    headers = {
        REASON: fault.reason,
        **({DETAIL: fault.detail[:_LONGEST_DETAIL]} if fault.detail else {}),
        TIME: datetime.now(UTC).isoformat(timespec="milliseconds"),
        QUEUE: queue,
        ROUTING_KEY: original if isinstance(original, str) else delivery.routing_key,
        DIGEST: delivery.digest,
        ATTEMPTS: (attempts if type(attempts) is int and 0 < attempts < 1_000_000 else 0) + 1,
        **_sender(given.get(USER_HEADER, delivery.properties.get("user_id"))),
    }
    properties = repeated(delivery.properties, headers)
    return Letter(DEAD_LETTER_EXCHANGE, key, delivery.body, signed(properties, own_user))


def again(delivery: Delivery, *, attempts: int, queue: str, written: bool, own_user: str | None) -> Letter:
    """The letter on its way back to `queue`. `written` says that headers of ours in it are ours."""
    given = delivery.headers if written else {}
    original = given.get(ROUTING_KEY)
    headers = {
        ROUTING_KEY: original if isinstance(original, str) else delivery.routing_key,
        ATTEMPTS: attempts,
        # Empty rather than missing: nobody is to take the command's own login for the sender's.
        USER_HEADER: "",
        **_sender(given.get(USER_HEADER, None if written else delivery.properties.get("user_id"))),
    }
    properties = repeated(delivery.properties, headers)
    return Letter(DEAD_LETTER_EXCHANGE, retry_key(queue), delivery.body, signed(properties, own_user))


def _sender(user: object) -> dict[str, str]:
    return {USER_HEADER: user} if isinstance(user, str) else {}


def signed(properties: dict[str, Any], own_user: str | None) -> dict[str, Any]:
    """With the login that publishes it, which the broker checks."""
    return properties if own_user is None else {**properties, "user_id": own_user}


def repeated(properties: Properties, headers: Mapping[str, Any]) -> dict[str, Any]:
    """The properties for sending a message again, with these headers of ours. What cannot be written is left out."""
    kept = {name: value for name, value in properties.items() if name not in _NOT_REPEATED and value is not None}
    given = _senders_own(properties.get("application_headers") or {})
    for candidate in ({**kept, "application_headers": {**given, **headers}}, {**kept, "application_headers": headers}):
        complete = {**candidate, "delivery_mode": 2}
        if _writable(complete):
            return complete
    return {"application_headers": dict(headers), "delivery_mode": 2}


def _senders_own(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that the sender gave, without what a broker adds on the way, and without what is ours to say."""
    return {
        name: value for name, value in headers.items() if name not in OURS and not str(name).startswith(_BROKERS_OWN)
    }


def _writable(properties: dict[str, Any]) -> bool:
    """Whether py-amqp can write them, into one frame."""
    try:
        return len(amqp.Message(b"", **properties)._serialize_properties()) <= _LARGEST_HEADERS
    except Exception:  # noqa: BLE001  values that can be read but not written raise nearly anything
        return False
