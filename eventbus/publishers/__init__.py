"""Ways to get messages to a broker: one for each kind of URL, all with the promises of `base.Publisher`."""

from __future__ import annotations

from urllib.parse import urlsplit

from eventbus.errors import ConfigurationError
from eventbus.publishers.amqp import AmqpPublisher
from eventbus.publishers.base import Backoff, Outcome, Publisher
from eventbus.publishers.memory import MemoryPublisher
from eventbus.publishers.virtual import VirtualPublisher
from eventbus.settings import Settings

__all__ = ["AmqpPublisher", "Backoff", "MemoryPublisher", "Outcome", "Publisher", "VirtualPublisher", "publisher_for"]


def publisher_for(settings: Settings) -> Publisher:
    """The publisher for `settings.url`, not connected yet. Raises ConfigurationError for a URL that cannot be used."""
    scheme = urlsplit(settings.url).scheme
    if scheme in ("amqp", "amqps"):
        return AmqpPublisher(
            settings.url,
            exchange=settings.exchange,
            service=settings.service,
            insecure_tls=settings.insecure_tls,
        )
    if scheme in ("sqlite", "memory"):
        return VirtualPublisher(
            settings.url, exchange=settings.exchange, service=settings.service, queue=settings.queue
        )
    raise ConfigurationError(
        f"EVENTBUS_URL begins with {scheme or 'no scheme'!r}: use amqp://, amqps://, sqlite:/// or memory://"
    )
