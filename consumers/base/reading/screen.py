"""What may come near a handler: what is exactly an event, from somebody who may say it."""

from __future__ import annotations

from typing import Final, NamedTuple, Self, final

from consumers.base.reading.agreement import check_agreement, check_version
from consumers.base.reading.delivery import Delivery, Properties
from consumers.base.reading.letter import is_resent
from consumers.base.reading.part import parts_of
from consumers.base.settings import ConsumerSettings
from consumers.trust import Trust
from eventbus.errors import BadEvent
from eventbus.events import batch, signing
from eventbus.events.envelope import CONTENT_TYPE, decode
from eventbus.events.naming import DEAD_LETTER_EXCHANGE
from eventbus.events.reading import Limits

OWN_WAYS: Final = (None, "", DEAD_LETTER_EXCHANGE)
"""Exchanges by which operators' commands reach a queue, with keys of their own; services need not write there."""
BATCH_AT_A_SHARD: Final = "batch at a shard"
_ENCODINGS: Final = (None, "", "utf-8", "utf8", "binary")
_COMPRESSION: Final = "compression"
"""The header by which kombu says how to inflate a body, and which it obeys before anybody has looked at the message."""


class Sifted(NamedTuple):
    """Deliveries that are events, and those that are not or may not be said, each with why."""

    good: list[Delivery]
    bad: list[tuple[Delivery, BadEvent]]


@final
class Screen:
    """Reads each delivery's event, or events, within limits, or tells why it has none.

    A shard takes no batches: the broker spreads messages over the shards by the one record that each is about.
    """

    def __init__(
        self,
        limits: Limits,
        trust: Trust,
        *,
        queue: str = "",
        own_user: str | None = None,
        version_ahead: float = 0.0,
        is_shard: bool = False,
    ) -> None:
        self._limits = limits
        self._trust = trust
        self._queue = queue
        self._own_user = own_user
        self._version_ahead = version_ahead
        self._is_shard = is_shard

    @classmethod
    def of(cls, settings: ConsumerSettings) -> Self:
        """The one that these settings ask for."""
        return cls(
            settings.limits,
            Trust(settings.trusted_users, settings.hmac_keys),
            queue=settings.queue_name,
            own_user=settings.validated_user,
            version_ahead=settings.max_version_ahead,
            is_shard=settings.shard is not None,
        )

    def sift(self, delivery: Delivery) -> Sifted:
        """Read what the message holds. Raises nothing, whatever that is.

        The events of a batch are judged one by one. A batch without a good one is bad as a whole: one dead letter.
        """
        try:
            parts = self._parts(delivery) if _is_batch(delivery) else [delivery]
        except BadEvent as fault:
            return Sifted([], [(delivery, _told(fault))])
        sifted = Sifted([], [])
        for part in parts:
            try:
                self.check(part)
            except BadEvent as fault:
                sifted.bad.append((part, _told(fault)))
            else:
                sifted.good.append(part)
        return sifted if sifted.good else Sifted([], [(delivery, sifted.bad[0][1])])

    def _parts(self, delivery: Delivery) -> list[Delivery]:
        try:
            _check_properties(delivery.properties, batch.CONTENT_TYPE)
            self._check_place()
            _check_size(delivery.size, self._limits.body)
            keys = self._trust.keys
            key = signing.verify(delivery.body, delivery.headers, keys) if keys else None
            return parts_of(delivery, batch.cut(delivery.body, self._limits), key)
        except BadEvent:
            raise
        except Exception as error:  # as in `check`
            raise BadEvent("unreadable", type(error).__name__) from error

    def _check_place(self) -> None:
        if self._is_shard:
            raise BadEvent(BATCH_AT_A_SHARD, "set EVENTBUS_WIRE=single where it is published")

    def check(self, delivery: Delivery) -> None:
        """Set `delivery.event`. Raises BadEvent, and nothing else whatever the message holds."""
        try:
            if not delivery.standard:
                _check_properties(delivery.properties, CONTENT_TYPE)
            _check_size(delivery.size, self._limits.body)
            event = delivery.event = decode(delivery.body, self._limits)
            check_agreement(event, None if delivery.exchange in OWN_WAYS else delivery.routing_key)
            check_version(event.version, self._version_ahead)
            if self._trust:
                resent = is_resent(delivery, self._queue, self._own_user)
                self._trust.check(event, delivery.body, delivery.properties, resent=resent)
        except BadEvent:
            raise
        except Exception as error:  # a message that stops the consumer would stop it again after every restart
            raise BadEvent("unreadable", type(error).__name__) from error


def _told(fault: BadEvent) -> BadEvent:
    """What it says, without the frames that raised it.

    They hold what was read, many times the body's size; and their callers hold them, so all would stay for the
    collector, which seldom comes.
    """
    return BadEvent(fault.reason, fault.detail)


def _is_batch(delivery: Delivery) -> bool:
    return not delivery.standard and _plain(delivery.properties.get("content_type")) == batch.CONTENT_TYPE


def _plain(content_type: object) -> str:
    return str(content_type).partition(";")[0].strip().lower()


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BadEvent("body too large", f"{size} bytes, the limit is {limit}")


def _check_properties(properties: Properties, expected: str) -> None:
    if "unreadable" in properties:
        raise BadEvent("properties unreadable", str(properties["unreadable"]))
    headers = properties.get("application_headers") or {}
    if headers.get(_COMPRESSION):
        raise BadEvent("compressed")
    content_type = properties.get("content_type")
    if not content_type:
        raise BadEvent("content type missing")
    if _plain(content_type) != expected:
        raise BadEvent("content type is not an event's")
    encoding = properties.get("content_encoding")
    if (encoding.lower() if isinstance(encoding, str) else encoding) not in _ENCODINGS:
        raise BadEvent("content encoding is not UTF-8")
