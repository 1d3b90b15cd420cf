"""Exchange, queue and dead letters, as the consumer declares them. Declaring again what is there changes nothing.

    eventbus (topic) ──binding──▶ json-mirror (quorum, single active consumer)
                                      └─ delivery limit ─▶ eventbus.dlx (direct) ──▶ json-mirror.dlq (quorum)

With shards, each record's events go to one of several queues, whichever services and however many publish:

    eventbus (topic) ──binding──▶ json-mirror.shards (x-consistent-hash on the header `partitionkey`)
                                      ├──▶ json-mirror.0 (quorum, single active consumer)
                                      └──▶ json-mirror.1 …          dead letters of all: json-mirror.dlq
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from amqp.exceptions import AccessRefused, NotFound

from consumers.base.broker.line import Line
from consumers.base.errors import setting_up
from consumers.base.settings import ConsumerSettings
from eventbus.events.naming import DEAD_LETTER_EXCHANGE, dead_letter_queue
from eventbus.transports.mirror_queue import dead_letter_arguments, queue_arguments

PARTITION_HEADER: Final = "partitionkey"
"""The message header that the hash exchange looks at: the event's attribute of this name, `contact/ab12`. Messages
without it all go to one shard: right, but not spread."""

logger = logging.getLogger(__name__)


def shard_exchange(queue: str) -> str:
    """The exchange that spreads records over the shards of a queue."""
    return f"{queue}.shards"


def declare(line: Line, settings: ConsumerSettings) -> None:
    """Declare everything this consumer stands on.

    A user who may not configure the broker finds what its administrator has prepared. Raises ConfigurationError where
    something exists with other arguments, or is missing and may not be made; Lost where the broker goes away.
    """
    with setting_up():
        _exchange(line, settings.exchange, "topic")
    declare_dead_letters(line, settings.queue)
    with setting_up():
        if settings.shard is None:
            _queue(line, settings.queue, queue_arguments(settings.queue, settings.delivery_limit))
            for binding in settings.bindings:
                _bind(line, settings.queue, settings.exchange, binding)
        else:
            _declare_shards(line, settings, settings.shard.count)


def declare_dead_letters(line: Line, queue: str) -> None:
    """Declare where the dead letters of `queue` are kept. Raises as `declare` does."""
    with setting_up():
        _exchange(line, DEAD_LETTER_EXCHANGE, "direct")
        _queue(line, dead_letter_queue(queue), dead_letter_arguments())
        _bind(line, dead_letter_queue(queue), DEAD_LETTER_EXCHANGE, queue)


def _declare_shards(line: Line, settings: ConsumerSettings, count: int) -> None:
    # Every shard declares the queues of all, so that from the first moment each record has its own.
    shards = shard_exchange(settings.queue)
    _exchange(line, shards, "x-consistent-hash", {"hash-header": PARTITION_HEADER})
    for index in range(count):
        name = f"{settings.queue}.{index}"
        _queue(line, name, queue_arguments(settings.queue, settings.delivery_limit))
        _bind(line, name, shards, "1")  # here the routing key is the queue's weight
    for binding in settings.bindings:
        with line.channel() as channel:
            channel.exchange_bind(destination=shards, source=settings.exchange, routing_key=binding)


def _exchange(line: Line, name: str, kind: str, arguments: dict[str, Any] | None = None) -> None:
    def declare_exchange(channel: Any, passive: bool) -> None:
        channel.exchange_declare(
            exchange=name, type=kind, durable=True, auto_delete=False, arguments=arguments, passive=passive
        )

    _ensure(line, declare_exchange)


def _queue(line: Line, name: str, arguments: dict[str, Any]) -> None:
    def declare_queue(channel: Any, passive: bool) -> None:
        channel.queue_declare(
            queue=name, durable=True, exclusive=False, auto_delete=False, arguments=arguments, passive=passive
        )

    _ensure(line, declare_queue)


def _ensure(line: Line, declare_it: Callable[[Any, bool], None]) -> None:
    # A channel of its own each time: a refusal closes it.
    try:
        with line.channel() as channel:
            declare_it(channel, False)
    except AccessRefused as refused:
        try:
            with line.channel() as channel:
                declare_it(channel, True)
        except NotFound:
            raise refused from None


def _bind(line: Line, queue: str, exchange: str, key: str) -> None:
    try:
        with line.channel() as channel:
            channel.queue_bind(queue=queue, exchange=exchange, routing_key=key)
    except AccessRefused:
        logger.warning("binding not allowed, taken as made", extra={"queue": queue, "exchange": exchange, "key": key})
