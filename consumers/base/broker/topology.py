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
import re
from collections.abc import Callable
from typing import Any, Final

import amqp
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from consumers.base.broker.line import Line, is_amqp
from consumers.base.errors import Refused, lacking, needing, setting_up, talking
from consumers.base.reading.letter import retry_key
from consumers.base.settings import ConsumerSettings
from eventbus.errors import ConfigurationError
from eventbus.events.naming import DEAD_LETTER_EXCHANGE, dead_letter_queue
from eventbus.transports.mirror_queue import dead_letter_arguments, mark, queue_arguments

PARTITION_HEADER: Final = "partitionkey"
"""The message header that the hash exchange looks at: the event's attribute of this name, `contact/ab12`. Messages
without it all go to one shard: right, but not spread."""

_GLANCE: Final = 2.0

_MARK: Final = re.compile(r"['\"]([^'\"]+)@([a-z0-9_-]+)['\"]")

logger = logging.getLogger(__name__)


def shard_exchange(queue: str) -> str:
    """The exchange that spreads records over the shards of a queue."""
    return f"{queue}.shards"


def declare(line: Line, settings: ConsumerSettings) -> None:
    """Declare everything this consumer stands on.

    A user who may not configure the broker finds what its administrator has prepared. Raises ConfigurationError where
    something exists with other arguments, or is missing and may not be made; Lost where the broker goes away.
    """
    declare_dead_letters(line, settings.queue)
    with setting_up():
        _exchange(line, settings.exchange, "topic")
        if settings.shard is None:
            may = _own_queue(line, settings.queue, settings)
            for binding in settings.bindings:
                _bind(line, settings.queue, settings.exchange, binding, may=may)
        else:
            _declare_shards(line, settings, settings.shard.count)
        if is_amqp(settings.url):
            _demand_way_out(settings)


def declare_again(line: Line, settings: ConsumerSettings) -> None:
    """Make exchange and bindings again, in case somebody deleted them.

    A queue that was deleted ends the connection; `declare` makes and binds it on the next one.
    Raises Refused where something is gone and may not be made again, Lost where the broker goes away.
    """
    with talking():
        was_gone = not exchange_exists(line, settings.exchange)
    try:
        with setting_up():
            _exchange(line, settings.exchange, "topic")
            if settings.shard is None:
                for binding in settings.bindings:
                    _bind(line, settings.queue, settings.exchange, binding, may=False, quiet=True)
            else:
                _declare_shards(line, settings, settings.shard.count)
    except ConfigurationError as error:
        raise Refused(f"exchange {settings.exchange} or a binding to it is gone: {error}") from error
    if was_gone:
        logger.warning(
            "exchange %s was gone: it is made again and bound to queue %s", settings.exchange, settings.queue_name
        )


def exchange_exists(line: Line, exchange: str) -> bool:
    """Whether it is there."""
    try:
        with line.channel() as channel:
            channel.exchange_declare(exchange=exchange, type="topic", passive=True)
    except NotFound:
        return False
    return True


def bind_for_retry(line: Line, queue: str) -> None:
    """Let the dead-letter exchange bring letters back to the queue: who may write there reaches no other queue."""
    with line.channel() as channel:
        channel.queue_bind(queue=queue, exchange=DEAD_LETTER_EXCHANGE, routing_key=retry_key(queue))


def declare_dead_letters(line: Line, queue: str) -> None:
    """Declare where the dead letters of `queue` are kept. Raises as `declare` does."""
    with setting_up():
        _exchange(line, DEAD_LETTER_EXCHANGE, "direct")
        may = _queue(line, dead_letter_queue(queue), dead_letter_arguments())
        _bind(line, dead_letter_queue(queue), DEAD_LETTER_EXCHANGE, queue, may=may)


def _own_queue(line: Line, name: str, settings: ConsumerSettings) -> bool:
    """Whether this login may make it. It bears the mark of this kind of consumer, or none: then others made it, or an
    older version. Raises ConfigurationError where it is another kind's.
    """
    queue, limit = settings.queue, settings.delivery_limit
    try:
        may = _queue(line, name, queue_arguments(queue, limit, settings.kind))
    except PreconditionFailed as refused:
        _demand_own_kind(settings, str(refused))
        try:
            may = _queue(line, name, queue_arguments(queue, limit))
        except PreconditionFailed:
            raise refused from None
    _bind(line, dead_letter_queue(queue), DEAD_LETTER_EXCHANGE, mark(queue, settings.kind), may=may, quiet=True)
    _bind(line, name, DEAD_LETTER_EXCHANGE, retry_key(name), may=may, quiet=True)
    return may


def _demand_own_kind(settings: ConsumerSettings, refusal: str) -> None:
    """Brokers tell how the queue that is there differs."""
    kinds = {kind for queue, kind in _MARK.findall(refusal) if queue == settings.queue} - {settings.kind}
    if kinds:
        raise ConfigurationError(
            f"queue {settings.queue} is of a consumer of kind {kinds.pop()}, and this one is of kind {settings.kind}: "
            "one would eat what the other should have. Give this consumer a queue of its own name with EVENTBUS_QUEUE"
        )


def _demand_way_out(settings: ConsumerSettings) -> None:
    """Whether letters can be sent is found out now, and not when the first one has to be: this one reaches no queue.

    Over a connection of its own: a broker that is short of memory stops reading from those that publish. Then nothing
    is found out.
    """
    line = Line(settings)
    try:
        line.driver.sock.settimeout(_GLANCE)
        with needing(f"write on exchange {DEAD_LETTER_EXCHANGE}"), line.channel() as channel:
            channel.basic_publish(
                amqp.Message(b""), exchange=DEAD_LETTER_EXCHANGE, routing_key=f"{settings.queue}.nowhere"
            )
            channel.queue_declare(queue=settings.queue_name, passive=True)  # whose answer comes after a refusal
    except TimeoutError:
        return
    finally:
        line.drop()


def _declare_shards(line: Line, settings: ConsumerSettings, count: int) -> None:
    # Every shard declares the queues of all, so that from the first moment each record has its own.
    shards = shard_exchange(settings.queue)
    _exchange(line, shards, "x-consistent-hash", {"hash-header": PARTITION_HEADER})
    for index in range(count):
        name = f"{settings.queue}.{index}"
        may = _own_queue(line, name, settings)
        _bind(line, name, shards, "1", may=may)  # here the routing key is the queue's weight
    for binding in settings.bindings:
        with (
            needing(f"write on exchange {shards}, or to read on exchange {settings.exchange}"),
            line.channel() as channel,
        ):
            channel.exchange_bind(destination=shards, source=settings.exchange, routing_key=binding)


def _exchange(line: Line, name: str, kind: str, arguments: dict[str, Any] | None = None) -> bool:
    def declare_exchange(channel: Any, passive: bool) -> None:
        channel.exchange_declare(
            exchange=name, type=kind, durable=True, auto_delete=False, arguments=arguments, passive=passive
        )

    return _ensure(line, declare_exchange, f"configure exchange {name}")


def _queue(line: Line, name: str, arguments: dict[str, Any]) -> bool:
    def declare_queue(channel: Any, passive: bool) -> None:
        channel.queue_declare(
            queue=name, durable=True, exclusive=False, auto_delete=False, arguments=arguments, passive=passive
        )

    return _ensure(line, declare_queue, f"configure queue {name}")


def _ensure(line: Line, declare_it: Callable[[Any, bool], None], permission: str) -> bool:
    """Whether this login may make it. Where it may not, somebody else must have."""
    # A channel of its own each time: a refusal closes it.
    try:
        with line.channel() as channel:
            declare_it(channel, False)
    except AccessRefused as refused:
        try:
            with line.channel() as channel:
                declare_it(channel, True)
        except NotFound:
            raise ConfigurationError(lacking(permission, refused)) from refused
        return False
    return True


def _bind(line: Line, queue: str, exchange: str, key: str, *, may: bool, quiet: bool = False) -> None:
    """Bind it. `may` says that this login made the queue: then nobody else has bound it, and a refusal is an error."""
    try:
        with line.channel() as channel:
            channel.queue_bind(queue=queue, exchange=exchange, routing_key=key)
    except AccessRefused as refused:
        if may:
            needed = f"write on queue {queue}, or to read on exchange {exchange}"
            raise ConfigurationError(lacking(needed, refused)) from refused
        if not quiet:
            logger.warning(
                "binding not allowed, taken as made: queue %s, exchange %s, key %s",
                queue,
                exchange,
                key,
                extra={"queue": queue, "exchange": exchange, "key": key},
            )
