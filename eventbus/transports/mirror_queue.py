"""The default mirror's queue, for a service that runs on the embedded broker before its first mirror does.

On RabbitMQ the consumer alone declares its queue. On a fresh machine without a broker that would lose the point: what
the service publishes must be there when the mirror is started for the first time. So the two sides agree on the
arguments, which a broker compares when a queue is declared again.
"""

from __future__ import annotations

from typing import Any, Final

from amqp.exceptions import ChannelError

from eventbus.events.naming import DEAD_LETTER_EXCHANGE, DEFAULT_QUEUE, dead_letter_queue

DELIVERY_LIMIT: Final = 100
"""How often a message may come back before it is dead-lettered."""
_NEVER: Final = 1_000_000
"""Deliveries of a dead letter: looking at it counts as one, and since RabbitMQ 4.0 the default of 20 would drop it."""


_LONGEST_KEY: Final = 255
"""Bytes of a routing key."""


def mark(queue: str, kind: str) -> str:
    """The routing key of the dead letters that the broker itself makes; it says as well what kind of consumer it is.

    Of the arguments that brokers compare when a queue is declared again, this one alone means nothing to others.
    The mirror's own queue is known by its name, and a name that leaves no room stays without.
    """
    marked = f"{queue}@{kind}"
    return marked if kind and queue != DEFAULT_QUEUE and len(marked.encode()) <= _LONGEST_KEY else queue


def queue_arguments(queue: str, delivery_limit: int = DELIVERY_LIMIT, kind: str = "") -> dict[str, Any]:
    """Arguments of the queue of a consumer of this kind; `queue` is the name its dead letters go by.

    What exceeds the delivery limit is dead-lettered at least once: the broker keeps it until the dead-letter queue has
    it. That strategy needs the overflow behaviour `reject-publish`, which has no effect without a length limit.
    """
    return {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": delivery_limit,
        "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
        "x-dead-letter-routing-key": mark(queue, kind),
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def dead_letter_arguments() -> dict[str, Any]:
    """Arguments of a dead-letter queue."""
    return {"x-queue-type": "quorum", "x-delivery-limit": _NEVER}


def declare_if_missing(channel: Any, exchange: str, queue: str) -> None:
    """Make the queue with its dead letters, and bind it to all of the exchange.

    A queue that is there is left as it is, and so are the bindings to this exchange that somebody gave it. Without any,
    a service with an exchange of its own made it: then nobody would take what this one publishes.
    """
    if not _exists(channel, queue):
        letters = dead_letter_queue(queue)
        channel.exchange_declare(exchange=DEAD_LETTER_EXCHANGE, type="direct", durable=True, auto_delete=False)
        _queue(channel, letters, dead_letter_arguments())
        channel.queue_bind(queue=letters, exchange=DEAD_LETTER_EXCHANGE, routing_key=queue)
        _queue(channel, queue, queue_arguments(queue))
    if not _is_bound(channel, exchange, queue):
        channel.queue_bind(queue=queue, exchange=exchange, routing_key="#")


def _is_bound(channel: Any, exchange: str, queue: str) -> bool:
    return any((bound, source) == (queue, exchange) for bound, source, _ in channel.list_bindings())


def _exists(channel: Any, queue: str) -> bool:
    try:
        channel.queue_declare(queue=queue, passive=True)
    except ChannelError as error:  # NotFound, but kombu's memory transport has no subclasses and the code as text
        if str(error.reply_code) != "404":
            raise
        return False
    return True


def _queue(channel: Any, name: str, arguments: dict[str, Any]) -> None:
    channel.queue_declare(queue=name, durable=True, exclusive=False, auto_delete=False, arguments=arguments)
