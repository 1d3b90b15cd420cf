"""What may come near a handler: a message that is exactly an event, from somebody who may say it."""

from __future__ import annotations

from typing import Final, final

from consumers.base.reading.delivery import Delivery, Properties
from consumers.trust import Trust
from eventbus.errors import BadEvent
from eventbus.events.envelope import CONTENT_TYPE, Limits, decode

_ENCODINGS: Final = (None, "", "utf-8", "utf8", "binary")
_COMPRESSION: Final = "compression"
"""The header by which kombu says how to inflate a body, and which it obeys before anybody has looked at the message."""


@final
class Screen:
    """Reads each delivery's event, within limits, or tells why it has none."""

    def __init__(self, limits: Limits, trust: Trust) -> None:
        self._limits = limits
        self._trust = trust

    def check(self, delivery: Delivery) -> None:
        """Set `delivery.event`. Raises BadEvent, and nothing else whatever the message holds."""
        try:
            if not delivery.standard:
                _check_properties(delivery.properties)
            _check_size(delivery.size, self._limits.body)
            delivery.event = decode(delivery.body, self._limits)
            if self._trust:
                self._trust.check(delivery.event, delivery.body, delivery.properties)
        except BadEvent:
            raise
        except Exception as error:  # a message that stops the consumer would stop it again after every restart
            raise BadEvent("unreadable", type(error).__name__) from error


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BadEvent("body too large", f"{size} bytes, the limit is {limit}")


def _check_properties(properties: Properties) -> None:
    if "unreadable" in properties:
        raise BadEvent("properties unreadable", str(properties["unreadable"]))
    headers = properties.get("application_headers") or {}
    if headers.get(_COMPRESSION):
        raise BadEvent("compressed")
    content_type = properties.get("content_type")
    if not content_type:
        raise BadEvent("content type missing")
    if str(content_type).partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise BadEvent("content type is not an event's")
    encoding = properties.get("content_encoding")
    if (encoding.lower() if isinstance(encoding, str) else encoding) not in _ENCODINGS:
        raise BadEvent("content encoding is not UTF-8")
