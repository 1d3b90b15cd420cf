"""Ways to get messages to a broker: one for each kind of URL, all with the promises of `base.Publisher`.

To add a broker derive from that, and name its scheme in `publisher_for`. Consumers need a transport as well.
"""

from __future__ import annotations

from eventbus.errors import ConfigurationError
from eventbus.events.signing import parse_keys
from eventbus.publishers.amqp import AmqpPublisher
from eventbus.publishers.base import Outcome, Publisher
from eventbus.publishers.batching import BatchingPublisher
from eventbus.publishers.memory import MemoryPublisher
from eventbus.publishers.virtual import VirtualPublisher
from eventbus.redaction import redact_url
from eventbus.settings import Settings
from eventbus.transports import KINDS

__all__ = [
    "AmqpPublisher",
    "MemoryPublisher",
    "Outcome",
    "Publisher",
    "VirtualPublisher",
    "on_the_wire",
    "publisher_for",
]


def publisher_for(settings: Settings) -> Publisher:
    """The publisher for `settings.url`, not connected yet. Raises ConfigurationError for what cannot be used."""
    return on_the_wire(_single(settings), settings)


def on_the_wire(publisher: Publisher, settings: Settings) -> Publisher:
    """This publisher, given events singly or in batches, as `settings.wire` says."""
    if settings.wire == "batch":
        return BatchingPublisher(publisher, most_bytes=settings.max_event_bytes)
    return publisher


def _single(settings: Settings) -> Publisher:
    url, exchange, service = settings.url, settings.exchange, settings.service
    key = next(iter(parse_keys(settings.hmac_keys)), None)
    scheme = url.lower().partition("://")[0]
    if scheme in ("amqp", "amqps"):
        insecure, send_user = settings.insecure_tls, settings.send_user
        return AmqpPublisher(
            url, exchange=exchange, service=service, send_user=send_user, key=key, insecure_tls=insecure
        )
    if scheme in ("sqlite", "memory"):
        return VirtualPublisher(url, exchange=exchange, service=service, queue=settings.queue, key=key)
    raise ConfigurationError(f"broker URL {redact_url(url)}: use {KINDS}")
