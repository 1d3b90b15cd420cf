"""An AMQP channel on the embedded broker, as kombu wants it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

from amqp import spec
from amqp.basic_message import Message as OutgoingMessage
from amqp.exceptions import (
    AMQPNotImplementedError,
    ChannelError,
    ConsumerCancelled,
    PreconditionFailed,
    RecoverableConnectionError,
)
from amqp.protocol import queue_declare_ok_t
from kombu.transport import base
from kombu.utils.uuid import uuid

from eventbus.transports.sqlite.broker import Broker
from eventbus.transports.sqlite.consumer import FETCH_BYTES, Callback, Consumer
from eventbus.transports.sqlite.message import Message
from eventbus.transports.sqlite.messages import Item, Place, Stored
from eventbus.transports.sqlite.unsettled import Unsettled


class Ahead(NamedTuple):
    """A message that was fetched and not yet handed over."""

    channel: Channel
    consumer: Consumer
    stored: Stored


class Owner(Protocol):
    """What a channel needs of its connection; `client` is for kombu."""

    client: Any
    broker: Broker
    channels: dict[int, Channel]

    @property
    def connected(self) -> bool:
        """Whether this process may use the connection."""

    def take_back(self, chosen: Callable[[Ahead], bool]) -> list[Place]:
        """The places of the messages fetched ahead for which `chosen` is true; they will not be handed over."""


class Channel(base.StdChannel):
    """An AMQP channel, with py-amqp's methods; what has no meaning here, as `nowait`, is accepted and ignored.

    Acknowledgements are gathered, and written when the channel has no message left to hand over or to be acknowledged,
    with `multiple`, before any other command, before the connection fetches or waits, and at the latest with the first
    one that comes `ACK_DELAY` seconds after another.
    """

    def __init__(self, connection: Owner, channel_id: int) -> None:
        self.connection: Owner | None = connection
        self.channel_id = channel_id
        self.events: defaultdict[str, set[Callable[..., object]]] = defaultdict(set)
        self.no_ack_consumers: set[str] = set()  # type: ignore[assignment]  # None in the base, which is not typed
        self.consumers: dict[str, Consumer] = {}
        self._prefetch = 0
        self._unsettled = Unsettled()

    @property
    def is_open(self) -> bool:
        """Whether the channel may be used."""
        return self.connection is not None

    @property
    def _open(self) -> Owner:
        if self.connection is None:
            raise RecoverableConnectionError("channel is closed")
        return self.connection

    @property
    def _broker(self) -> Broker:
        """For commands: what was acknowledged before has happened before."""
        self.flush()
        return self._open.broker

    # -- exchanges and queues ------------------------------------------------------------------------------------------

    def exchange_declare(
        self,
        exchange: str = "",
        type: str = "direct",
        *,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
        **_options: object,
    ) -> None:
        """Make the exchange, or see that it exists as declared; `passive`: only that it exists."""
        if passive:
            self._broker.catalogue.require_exchange(exchange)
        elif auto_delete:
            raise AMQPNotImplementedError("auto-delete exchanges are not offered by the embedded broker")
        else:
            self._broker.catalogue.declare_exchange(exchange, type, durable=durable, arguments=arguments)

    def exchange_delete(self, exchange: str, if_unused: bool = False, **_options: object) -> None:
        """Remove the exchange and its bindings."""
        self._broker.catalogue.delete_exchange(exchange, if_unused=if_unused)

    def exchange_bind(self, *_args: object, **_kwargs: object) -> None:
        """Not offered."""
        raise AMQPNotImplementedError("exchange-to-exchange bindings are not offered by the embedded broker")

    exchange_unbind = exchange_bind

    def queue_declare(
        self,
        queue: str = "",
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
        **_options: object,
    ) -> queue_declare_ok_t:
        """Make the queue, or see that it exists as declared; returns its name, ready messages and consumers."""
        if exclusive:
            raise AMQPNotImplementedError("exclusive queues are not offered by the embedded broker")
        queue = queue or f"amq.gen-{uuid()}"
        broker = self._broker
        if not passive:
            broker.catalogue.declare_queue(queue, durable=durable, auto_delete=auto_delete, arguments=arguments)
        return queue_declare_ok_t(queue, *broker.counts(queue))

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **_options: object,
    ) -> None:
        """Bind the queue to the exchange."""
        self._broker.catalogue.bind(queue, exchange, routing_key, arguments)

    def queue_unbind(self, queue: str, exchange: str, routing_key: str = "", **_options: object) -> None:
        """Undo a binding."""
        self._broker.catalogue.unbind(queue, exchange, routing_key)

    def queue_purge(self, queue: str, **_options: object) -> int:
        """Remove the ready messages; returns how many."""
        return self._broker.purge(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **_options: object) -> int:
        """Remove the queue; returns how many ready messages went with it."""
        return self._broker.delete_queue(queue, if_unused=if_unused, if_empty=if_empty)

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **kwargs: Any) -> dict[str, Any]:
        """kombu's spelling of queue options as AMQP arguments."""
        prepared: dict[str, Any] = base.to_rabbitmq_queue_arguments(arguments or {}, **kwargs)
        return prepared

    def list_bindings(self) -> list[tuple[str, str, str]]:
        """Every binding of the broker, as kombu's virtual channels list them: queue, exchange, routing key."""
        return self._broker.catalogue.bindings()

    # -- publishing ----------------------------------------------------------------------------------------------------

    def publish_batch(self, exchange: str, items: Sequence[Item]) -> list[bool]:
        """Store many messages in one transaction, synced to disk; True for each that a queue took.

        An item is routing key, body and AMQP properties (headers as `application_headers`; all must be JSON values).
        A message for which the answer is False is nowhere. An exception means that nothing was stored, except for a
        RecoverableConnectionError, which may come from the commit itself: then all was stored or nothing.
        """
        return self._broker.publish(exchange, items)

    def basic_publish(
        self,
        msg: OutgoingMessage,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        **_options: object,
    ) -> None:
        """Publish one message, synced to disk.

        An unroutable one is dropped; if `mandatory`, the listeners of `events["basic_return"]` are told, or where there
        are none, ChannelError 312 is raised, as py-amqp does.
        """
        body = msg.body.encode() if isinstance(msg.body, str) else bytes(msg.body)
        routed = self.publish_batch(exchange, [(routing_key, body, msg.properties)])
        if routed[0] or not mandatory:
            return
        error = ChannelError("NO_ROUTE", (50, 60), reply_code=312)
        if not self.events["basic_return"]:
            raise error
        for listener in self.events["basic_return"]:
            listener(error, exchange, routing_key, msg)

    def prepare_message(
        self,
        body: bytes | str,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> OutgoingMessage:
        """What kombu's Producer hands to `basic_publish`."""
        return OutgoingMessage(
            body,
            priority=priority,
            content_type=content_type,
            content_encoding=content_encoding,
            application_headers=headers,
            **properties or {},
        )

    # -- consuming -----------------------------------------------------------------------------------------------------

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """How many messages each consumer that starts from now on may hold unacknowledged; 0 is any number."""
        if prefetch_size or apply_global:
            raise AMQPNotImplementedError("prefetch is a count for each consumer, as with quorum queues")
        self._prefetch = prefetch_count

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        callback: Callback | None = None,
        on_cancel: Callable[[str], object] | None = None,
        **_options: object,
    ) -> str:
        """Start to consume; returns the consumer's tag. `drain_events` calls back with one message at a time.

        When the queue is deleted, `on_cancel` is called with the tag; where there is none, ConsumerCancelled is raised.
        """
        if exclusive:
            raise AMQPNotImplementedError("exclusive consumers are not offered: use x-single-active-consumer")
        tag = consumer_tag or uuid()
        if tag in self.consumers:
            raise PreconditionFailed(f"consumer tag {tag!r} is in use on this channel")
        broker = self._broker
        broker.sessions.recover()
        number, queue_id = broker.sessions.add_consumer(queue)
        self.consumers[tag] = Consumer(tag, number, queue_id, callback, no_ack, self._prefetch, on_cancel)
        if no_ack:
            self.no_ack_consumers.add(tag)
        return tag

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop to consume. What was handed over stays to be acknowledged; what was fetched ahead goes back unseen."""
        consumer = self._forget(consumer_tag)
        if consumer is not None:
            self._settle(unseen=self._open.take_back(lambda ahead: ahead.consumer is consumer))
            self._broker.sessions.remove_consumer(consumer.id)

    def basic_get(self, queue: str = "", no_ack: bool = False) -> Message | None:
        """One message, None if none is ready."""
        stored, more = self._broker.get(queue, max_bytes=FETCH_BYTES)
        return stored and self._hand_over(stored, None, no_ack=no_ack, message_count=more)

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Acknowledge one message, or with `multiple` all up to it (all there are for tag 0)."""
        waited = self._unsettled.acknowledge(delivery_tag, multiple=multiple)
        if multiple or waited or not self._outstanding:
            self.flush()

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Give a message back to its place in the queue, or send it to the queue's dead-letter exchange."""
        self.basic_nack(delivery_tag, requeue=requeue)

    def basic_nack(self, delivery_tag: int, multiple: bool = False, requeue: bool = True) -> None:
        """As `basic_reject`; for all up to the tag with `multiple`."""
        places = self._unsettled.take(delivery_tag, multiple=multiple)
        if requeue:
            # What was fetched from the same queues goes back too: it comes after the requeued messages, not before.
            queues = {queue for queue, _ in places}
            unseen = self._open.take_back(lambda ahead: ahead.stored.queue in queues)
            self._settle(returned=places, unseen=unseen)
        else:
            self._settle(rejected=places)

    def basic_recover(self, requeue: bool = False) -> None:
        """Give back everything that is not acknowledged."""
        if not requeue:
            raise AMQPNotImplementedError("basic.recover is offered with requeue=True only")
        self.basic_nack(0, multiple=True, requeue=True)

    def message_to_python(self, raw_message: Message) -> Message:
        """kombu's hook; messages are made whole here."""
        return raw_message

    def after_reply_message_received(self, queue: str) -> None:
        """kombu's hook; nothing to do."""

    def flush(self) -> None:
        """Write the acknowledgements gathered so far."""
        self._settle()

    def close(self) -> None:
        """Close the channel: what is not acknowledged goes back. Safe to call twice."""
        connection = self.connection
        if connection is None:
            return
        try:
            if connection.connected:
                unseen = connection.take_back(lambda ahead: ahead.channel is self)
                self._settle(returned=self._unsettled.places(), unseen=unseen)
                for consumer in self.consumers.values():
                    connection.broker.sessions.remove_consumer(consumer.id)
        finally:
            self.consumers.clear()
            self._unsettled.clear()
            connection.channels.pop(self.channel_id, None)
            self.connection = None

    # -- for the connection --------------------------------------------------------------------------------------------

    def deliver(self, consumer: Consumer, stored: Stored) -> None:
        """Hand a message to its consumer."""
        message = self._hand_over(stored, consumer, no_ack=consumer.no_ack, consumer_tag=consumer.tag)
        if consumer.callback is not None:
            consumer.callback(message)

    def cancelled(self, consumer: Consumer) -> None:
        """The broker ended the consumer: its queue was deleted."""
        self._forget(consumer.tag)
        if consumer.on_cancel is None:
            raise ConsumerCancelled(consumer.tag, spec.Basic.Cancel)
        consumer.on_cancel(consumer.tag)

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _outstanding(self) -> bool:
        """Whether a message waits to be handed over or acknowledged."""
        return bool(self._unsettled) or any(consumer.held for consumer in self.consumers.values())

    def _forget(self, tag: str) -> Consumer | None:
        self.no_ack_consumers.discard(tag)
        return self.consumers.pop(tag, None)

    def _hand_over(self, stored: Stored, consumer: Consumer | None, *, no_ack: bool, **delivery_info: Any) -> Message:
        tag = self._unsettled.add(stored.place, consumer)
        message = Message(stored, self, tag, **delivery_info)
        if no_ack:
            self.basic_ack(tag)
        return message

    def _settle(
        self,
        *,
        returned: Collection[Place] = (),
        unseen: Collection[Place] = (),
        rejected: Collection[Place] = (),
    ) -> None:
        acked = self._unsettled.take_acknowledged()
        if acked or returned or unseen or rejected:
            self._open.broker.settle(acked, returned=returned, unseen=unseen, rejected=rejected)
