"""A dead letter: the message as it came, and in its headers why it could not be taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import amqp

from consumers.base.reading.delivery import Delivery, Properties
from consumers.trust import USER_HEADER
from eventbus.errors import BadEvent

REASON: Final = "x-eventbus-reason"
DETAIL: Final = "x-eventbus-detail"
TIME: Final = "x-eventbus-time"
QUEUE: Final = "x-eventbus-queue"
ROUTING_KEY: Final = "x-eventbus-routing-key"
DIGEST: Final = "x-eventbus-sha256"
ATTEMPTS: Final = "x-eventbus-attempts"

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


def dead_letter(delivery: Delivery, fault: BadEvent, *, queue: str, exchange: str, key: str) -> Letter:
    """The delivery with its reason. Sent to `exchange` with `key`; `queue` is the one it came from."""
    attempts = delivery.headers.get(ATTEMPTS)
    headers = {
        REASON: fault.reason,
        **({DETAIL: fault.detail[:_LONGEST_DETAIL]} if fault.detail else {}),
        TIME: datetime.now(UTC).isoformat(timespec="milliseconds"),
        QUEUE: queue,
        ROUTING_KEY: original_key(delivery),
        DIGEST: delivery.digest,
        ATTEMPTS: (attempts if type(attempts) is int and 0 < attempts < 1_000_000 else 0) + 1,
    }
    user = delivery.properties.get("user_id")
    if user is not None:
        headers.setdefault(USER_HEADER, delivery.headers.get(USER_HEADER, user))
    return Letter(exchange, key, delivery.body, repeated(delivery.properties, headers))


def original_key(delivery: Delivery) -> str:
    """The routing key the service gave: of a message that came back from the dead letters, the one before."""
    key = delivery.headers.get(ROUTING_KEY)
    return key if isinstance(key, str) else delivery.routing_key


def repeated(properties: Properties, headers: Mapping[str, Any]) -> dict[str, Any]:
    """The properties for sending a message again, with more headers. What cannot be written again is left out."""
    kept = {name: value for name, value in properties.items() if name not in _NOT_REPEATED and value is not None}
    given = without_brokers_own(properties.get("application_headers") or {})
    for candidate in ({**kept, "application_headers": {**given, **headers}}, {**kept, "application_headers": headers}):
        complete = {**candidate, "delivery_mode": 2}
        if _writable(complete):
            return complete
    return {"application_headers": dict(headers), "delivery_mode": 2}


def without_brokers_own(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that the sender gave; those a broker adds on the way would confuse the next one."""
    return {name: value for name, value in headers.items() if not str(name).startswith(_BROKERS_OWN)}


def _writable(properties: dict[str, Any]) -> bool:
    """Whether py-amqp can write them, into one frame."""
    try:
        return len(amqp.Message(b"", **properties)._serialize_properties()) <= _LARGEST_HEADERS
    except Exception:  # noqa: BLE001  values that can be read but not written raise nearly anything
        return False
