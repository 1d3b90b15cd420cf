"""A message as the broker handed it over, and the event that was read from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from eventbus.events.envelope import Event

Properties = Mapping[str, Any]
"""AMQP properties by their names (`content_type`, `message_id`, …); the header table is `application_headers`."""


class Delivery:
    """One message that waits for its outcome.

    A handler reads `event`; the rest is for those who want the raw side. `exchange` and `routing_key` are what the
    broker vouches for: where the sender published it; `exchange` is None where nobody said. `tag` belongs to the
    connection that delivered it: only the consumer uses it.
    `size` is the length of the body on the wire, in bytes; it exceeds `len(body)` only where a body was too
    large to be kept. `standard` says that content type and encoding were seen to be those of an event, and that no
    header speaks of compression.
    """

    __slots__ = ("_properties", "body", "event", "exchange", "redelivered", "routing_key", "size", "standard", "tag")

    event: Event

    def __init__(
        self,
        body: bytes,
        routing_key: str = "",
        tag: Any = 0,
        redelivered: bool = False,
        *,
        exchange: str | None = None,
        properties: Properties | Callable[[], Properties] = {},  # noqa: B006  never changed
        size: int | None = None,
        standard: bool = False,
    ) -> None:
        self.body = body
        self.exchange = exchange
        self.routing_key = routing_key
        self.tag = tag
        self.redelivered = redelivered
        self.size = len(body) if size is None else size
        self.standard = standard
        self._properties = properties

    @property
    def properties(self) -> Properties:
        """The AMQP properties; decoded at the first look, as few handlers need them."""
        if callable(self._properties):
            self._properties = self._properties()
        return self._properties

    @property
    def headers(self) -> Mapping[str, Any]:
        """The header table; empty where the sender gave none."""
        return self.properties.get("application_headers") or {}

    @property
    def digest(self) -> str:
        """SHA-256 of the body, in hex: names a payload in logs without showing it."""
        return hashlib.sha256(self.body).hexdigest()

    def __repr__(self) -> str:
        return f"<Delivery {self.tag} {self.routing_key} {self.size} bytes>"
