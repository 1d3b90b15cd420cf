"""What eventbus relies on, said once and asked of every broker: RabbitMQ, the embedded one, and kombu's memory.

Memory is asked only what it can do: it forgets what a closed connection held, knows no queue arguments, no mandatory
and no exact topics, and is for tests that need none of these.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import kombu
import pytest
from amqp.exceptions import ChannelError, ConsumerCancelled, NotFound, PreconditionFailed

from eventbus import transports
from tests.conftest import Remove

PATIENCE = 10.0
"""Seconds within which an expected message comes, on any machine."""
QUIET = 0.3
"""Seconds of silence that are taken for: no more comes."""
NOTHING: Mapping[str, object] = MappingProxyType({})
QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": 20}
SINGLE = {"x-single-active-consumer": True}


@dataclass
class Broker:
    """A broker under test and what this test made on it; every name ends with `unique`."""

    kind: str
    url: str
    unique: str
    stack: ExitStack
    queues: list[str] = field(default_factory=list)
    exchanges: list[str] = field(default_factory=list)

    def connect(self) -> kombu.Connection:
        """A connection of its own, with confirms where publishing needs them."""
        options = {"confirm_publish": True} if self.kind == "rabbitmq" else {}
        connection = transports.connection(self.url, transport_options=options)
        self.stack.callback(connection.release)
        connection.connect()
        return connection

    def exchange(self, channel: Any, kind: str = "topic", name: str = "events") -> str:
        name = f"{name}-{self.unique}"
        self.exchanges.append(name)
        channel.exchange_declare(exchange=name, type=kind, durable=True, auto_delete=False)
        return name

    def queue(self, channel: Any, name: str = "queue", arguments: Mapping[str, object] = NOTHING) -> str:
        name = f"{name}-{self.unique}"
        self.queues.append(name)
        channel.queue_declare(queue=name, durable=True, auto_delete=False, arguments={**QUORUM, **arguments})
        return name

    def bound(self, channel: Any, *keys: str, arguments: Mapping[str, object] = NOTHING) -> tuple[str, str]:
        """An exchange and a queue bound to it by the keys, `#` where none is given."""
        exchange, queue = self.exchange(channel), self.queue(channel, arguments=arguments)
        for key in keys or ("#",):
            channel.queue_bind(queue=queue, exchange=exchange, routing_key=key)
        return exchange, queue


class Reader:
    """A consumer that keeps what it got; `read` waits for messages, `silent` for their absence."""

    def __init__(self, connection: kombu.Connection, queue: str, *, prefetch: int = 0, **options: Any) -> None:
        self.channel = connection.channel()
        self.channel.auto_decode = False  # py-amqp would turn what looks like text into text
        self.messages: list[Any] = []
        self._connection = connection
        if prefetch:
            self.channel.basic_qos(0, prefetch, False)
        self.tag = f"reader-{id(self)}"
        self.channel.basic_consume(
            queue=queue, consumer_tag=self.tag, no_ack=options.pop("no_ack", False), callback=self._arrive, **options
        )

    def _arrive(self, message: Any) -> None:
        self.messages.append(self.channel.message_to_python(message))

    def read(self, count: int) -> list[Any]:
        """The next `count` messages."""
        until = time.monotonic() + PATIENCE
        while len(self.messages) < count:
            assert time.monotonic() < until, f"{len(self.messages)} of {count} messages came"
            self._drain(QUIET)
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def silent(self) -> bool:
        """Whether nothing came and nothing comes."""
        while not self.messages and self._drain(QUIET):
            pass
        return not self.messages

    def _drain(self, timeout: float) -> bool:
        try:
            self._connection.drain_events(timeout=timeout)
        except TimeoutError:
            return False
        return True


def publish(channel: Any, exchange: str, key: str, body: bytes | str = b"", **options: Any) -> None:
    properties = options.pop("properties", {})
    message = channel.prepare_message(body, None, "text/plain", "utf-8", options.pop("headers", {}), properties)
    channel.basic_publish(message, exchange=exchange, routing_key=key, **options)


def publish_all(channel: Any, exchange: str, numbers: range) -> None:
    for body in numbers:
        publish(channel, exchange, "a.b.c", str(body))


def acknowledge_surely(channel: Any, tag: int, queue: str) -> None:
    """An acknowledgement has no answer of its own; a command after it has."""
    channel.basic_ack(tag)
    channel.queue_declare(queue=queue, passive=True)


def bodies(messages: list[Any]) -> list[int]:
    return [int(message.body) for message in messages]


@contextmanager
def _broker(kind: str, unique: str, request: pytest.FixtureRequest) -> Iterator[Broker]:
    remove: Remove | None = None
    if kind == "memory":
        url = "memory://"
    elif kind == "sqlite":
        url = f"sqlite:///{request.getfixturevalue('tmp_path')}/broker.sqlite3"
    else:
        url, remove = request.getfixturevalue("rabbitmq_url"), request.getfixturevalue("rabbitmq_remove")
    with ExitStack() as stack:
        broker = Broker(kind, url, unique, stack)
        yield broker
    if remove is not None:
        remove(queues=broker.queues, exchanges=broker.exchanges)


@pytest.fixture(params=["memory", "sqlite", "rabbitmq"])
def any_broker(request: pytest.FixtureRequest, unique: str) -> Iterator[Broker]:
    """Each of the three."""
    with _broker(request.param, unique, request) as broker:
        yield broker


@pytest.fixture(params=["sqlite", "rabbitmq"])
def broker(request: pytest.FixtureRequest, unique: str) -> Iterator[Broker]:
    """Those that keep what they are given."""
    with _broker(request.param, unique, request) as broker:
        yield broker


# -- routing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        ("crm.contact.updated", ["crm.contact.updated"], ["crm.contact.created", "crm.contact", "x"]),
        ("crm.*.updated", ["crm.contact.updated", "crm.a-b.updated"], ["crm.updated", "crm.a.b.updated"]),
        ("#", ["crm.contact.updated", "x", ""], []),
        ("crm.#", ["crm", "crm.contact", "crm.contact.updated"], ["crmx.contact", "x.crm"]),
        ("#.updated", ["updated", "crm.contact.updated"], ["crm.contact.updated.x"]),
        ("crm.#.updated", ["crm.updated", "crm.a.updated", "crm.a.b.updated"], ["crm", "updated", "crm.a"]),
        ("#.*", ["a", "a.b"], [""]),
        ("*.#.*", ["a.b", "a.b.c"], ["a"]),
        ("crm.con+t.x", ["crm.con+t.x"], ["crm.cont.x", "crm.connt.x"]),
        ("*.%2E.*", ["a.%2E.b"], ["a...b"]),
    ],
)
def test_topic_takes_star_for_one_word_and_hash_for_any_number(
    broker: Broker, pattern: str, taken: list[str], left: list[str]
) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel, pattern)
    for key in [*left, *taken]:
        publish(channel, exchange, key, key)
    reader = Reader(broker.connect(), queue)
    assert [message.delivery_info["routing_key"] for message in reader.read(len(taken))] == taken
    assert reader.silent()


def test_direct_takes_the_very_key(any_broker: Broker) -> None:
    channel = any_broker.connect().channel()
    exchange, queue = any_broker.exchange(channel, "direct"), any_broker.queue(channel)
    channel.queue_bind(queue=queue, exchange=exchange, routing_key="a.*")
    publish(channel, exchange, "a.b", "1")
    publish(channel, exchange, "a.*", "2")
    reader = Reader(any_broker.connect(), queue)
    assert bodies(reader.read(1)) == [2]
    assert reader.silent()


def test_fanout_takes_every_key_and_copies_for_every_queue(any_broker: Broker) -> None:
    channel = any_broker.connect().channel()
    exchange = any_broker.exchange(channel, "fanout")
    queues = [any_broker.queue(channel, name) for name in ("one", "two")]
    for queue in queues:
        channel.queue_bind(queue=queue, exchange=exchange, routing_key="ignored")
    publish(channel, exchange, "a.b.c", "7")
    for queue in queues:
        assert bodies(Reader(any_broker.connect(), queue).read(1)) == [7]


def test_default_exchange_routes_by_the_name_of_the_queue(any_broker: Broker) -> None:
    channel = any_broker.connect().channel()
    queue = any_broker.queue(channel)
    publish(channel, "", queue, "7")
    assert bodies(Reader(any_broker.connect(), queue).read(1)) == [7]


def test_two_bindings_of_one_queue_give_one_copy(any_broker: Broker) -> None:
    channel = any_broker.connect().channel()
    exchange, queue = any_broker.bound(channel, "#", "a.*.c")
    publish(channel, exchange, "a.b.c", "7")
    reader = Reader(any_broker.connect(), queue)
    assert bodies(reader.read(1)) == [7]
    assert reader.silent()


def test_an_unbound_queue_gets_no_more(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel, "a.#", "b.#")
    channel.queue_unbind(queue=queue, exchange=exchange, routing_key="a.#")
    publish(channel, exchange, "a.x", "1")
    publish(channel, exchange, "b.x", "2")
    reader = Reader(broker.connect(), queue)
    assert bodies(reader.read(1)) == [2]
    assert reader.silent()


def test_a_publisher_needs_no_declaration_of_its_own(broker: Broker) -> None:
    exchange, queue = broker.bound(broker.connect().channel())
    publish(broker.connect().channel(), exchange, "a.b.c", "7")
    assert bodies(Reader(broker.connect(), queue).read(1)) == [7]


def test_an_unroutable_mandatory_message_is_an_error(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, _ = broker.bound(channel, "a.#")
    publish(channel, exchange, "a.b", "1", mandatory=True)
    with pytest.raises(ChannelError) as caught:
        publish(channel, exchange, "b.b", "2", mandatory=True)
    assert caught.value.reply_code == 312
    publish(channel, exchange, "a.b", "3", mandatory=True)


def test_an_unroutable_mandatory_message_is_told_to_those_who_listen(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, _ = broker.bound(channel, "a.#")
    told: list[tuple[int, str, str]] = []
    channel.events["basic_return"].add(lambda error, *route: told.append((error.reply_code, *route[:2])))
    publish(channel, exchange, "b.b", "2", mandatory=True)
    assert told == [(312, exchange, "b.b")]


def test_an_unknown_exchange_is_an_error_to_the_publisher(broker: Broker) -> None:
    channel = broker.connect().channel()
    with pytest.raises(NotFound):
        publish(channel, f"missing-{broker.unique}", "a.b", "1")


# -- messages ----------------------------------------------------------------------------------------------------------


def test_messages_come_in_the_order_they_were_published(any_broker: Broker) -> None:
    channel = any_broker.connect().channel()
    exchange, queue = any_broker.bound(channel)
    publish_all(channel, exchange, range(100))
    reader = Reader(any_broker.connect(), queue, prefetch=100)
    assert bodies(reader.read(100)) == list(range(100))


def test_body_properties_and_headers_come_as_they_were_sent(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    sent = {
        "message_id": "m-1",
        "type": "crm.contact.updated",
        "app_id": "crm",
        "correlation_id": "t",
        "delivery_mode": 2,
    }
    headers = {"traceparent": "00-1", "count": 7, "deep": {"list": [1, "é", True]}}
    publish(channel, exchange, "a.b.c", b"\x00\xff\xfe", headers=headers, properties=sent)
    (message,) = Reader(broker.connect(), queue).read(1)
    assert bytes(message.body) == b"\x00\xff\xfe"
    assert {name: message.properties[name] for name in sent} == sent
    assert (message.content_type, message.content_encoding) == ("text/plain", "utf-8")
    assert message.headers == headers == message.properties["application_headers"]
    assert message.delivery_info["exchange"] == exchange
    assert message.delivery_info["routing_key"] == "a.b.c"
    assert not message.delivery_info["redelivered"]


def test_a_compressed_body_is_not_inflated(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    bomb = zlib.compress(bytes(1 << 20))
    publish(channel, exchange, "a.b.c", bomb, headers={"compression": "application/x-gzip"})
    (message,) = Reader(broker.connect(), queue).read(1)
    assert bytes(message.body) == bomb
    assert message.headers["compression"] == "application/x-gzip"


# -- acknowledgement ---------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_is_gone(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(3))
    connection = broker.connect()
    for message in Reader(connection, queue).read(3):
        message.ack()
    connection.release()
    assert Reader(broker.connect(), queue).silent()


def test_what_a_closed_connection_held_comes_again_marked(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(5))
    connection = broker.connect()
    Reader(connection, queue, prefetch=5).read(5)[0].ack()
    connection.release()
    again = Reader(broker.connect(), queue).read(4)
    assert sorted(bodies(again)) == [1, 2, 3, 4]
    assert all(message.delivery_info["redelivered"] for message in again)
    assert [message.headers["x-delivery-count"] for message in again] == [1, 1, 1, 1]


def test_multiple_acknowledges_all_up_to_the_tag_and_none_after(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(6))
    connection = broker.connect()
    Reader(connection, queue, prefetch=6).read(6)[3].ack(multiple=True)
    connection.release()
    assert sorted(bodies(Reader(broker.connect(), queue).read(2))) == [4, 5]


def test_multiple_with_tag_zero_acknowledges_all(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(4))
    connection = broker.connect()
    reader = Reader(connection, queue)
    reader.read(4)
    reader.channel.basic_ack(0, multiple=True)
    connection.release()
    assert Reader(broker.connect(), queue).silent()


def test_an_unknown_delivery_tag_is_an_error(broker: Broker) -> None:
    channel = broker.connect().channel()
    _, queue = broker.bound(channel)
    with pytest.raises(PreconditionFailed):
        acknowledge_surely(channel, 7, queue)


def test_a_message_cannot_be_acknowledged_twice(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish(channel, exchange, "a.b.c", "1")
    (message,) = (reader := Reader(broker.connect(), queue)).read(1)
    message.ack()
    with pytest.raises(PreconditionFailed):
        acknowledge_surely(reader.channel, message.delivery_tag, queue)


def test_without_acknowledgement_a_message_is_gone_once_delivered(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(3))
    connection = broker.connect()
    assert bodies(Reader(connection, queue, no_ack=True).read(3)) == [0, 1, 2]
    connection.release()
    assert Reader(broker.connect(), queue).silent()


def test_a_requeued_message_comes_before_those_never_delivered(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(5))
    reader = Reader(broker.connect(), queue, prefetch=1)
    (first,) = reader.read(1)
    first.requeue()
    seen = []
    for _ in range(5):
        (message,) = reader.read(1)
        seen.append((int(message.body), message.delivery_info["redelivered"]))
        message.ack()
    assert seen == [(0, True), (1, False), (2, False), (3, False), (4, False)]


def test_prefetch_bounds_what_a_consumer_holds(any_broker: Broker) -> None:
    channel = any_broker.connect().channel()
    exchange, queue = any_broker.bound(channel)
    publish_all(channel, exchange, range(10))
    reader = Reader(any_broker.connect(), queue, prefetch=3)
    held = reader.read(3)
    assert reader.silent()
    held[0].ack()
    assert bodies(reader.read(1)) == [3]
    assert reader.silent()


def test_prefetch_is_counted_for_each_consumer(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(10))
    one, two = Reader(broker.connect(), queue, prefetch=2), Reader(broker.connect(), queue, prefetch=3)
    assert bodies(one.read(2)) == [0, 1]
    assert bodies(two.read(3)) == [2, 3, 4]
    assert one.silent()
    assert two.silent()


def test_get_takes_one_message_and_none_from_an_empty_queue(any_broker: Broker) -> None:
    channel = any_broker.connect().channel()
    exchange, queue = any_broker.bound(channel)
    publish_all(channel, exchange, range(2))
    reading = any_broker.connect().channel()
    for expected in (0, 1):
        message = reading.message_to_python(reading.basic_get(queue))
        assert int(message.body) == expected
        message.ack()
    assert reading.basic_get(queue) is None


# -- dead letters ------------------------------------------------------------------------------------------------------


def dead_letter_queue(broker: Broker, channel: Any) -> tuple[str, str, str]:
    """An exchange, a queue, and where its dead letters go."""
    graveyard, letters = broker.exchange(channel, "direct", "graveyard"), broker.queue(channel, "letters")
    channel.queue_bind(queue=letters, exchange=graveyard, routing_key="dead")
    arguments = {"x-dead-letter-exchange": graveyard, "x-dead-letter-routing-key": "dead", "x-delivery-limit": 2}
    return *broker.bound(channel, arguments=arguments), letters


def test_a_rejected_message_goes_to_the_dead_letters_and_tells_why(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue, letters = dead_letter_queue(broker, channel)
    publish(channel, exchange, "a.b.c", "7", headers={"kept": "yes"}, properties={"message_id": "m-1"})
    reader = Reader(broker.connect(), queue)
    reader.read(1)[0].reject()
    (letter,) = Reader(broker.connect(), letters).read(1)
    assert letter.body == b"7"
    assert letter.properties["message_id"] == "m-1"
    assert letter.headers["kept"] == "yes"
    (death,) = letter.headers["x-death"]
    assert {name: death[name] for name in ("reason", "queue", "count", "exchange", "routing-keys")} == {
        "reason": "rejected",
        "queue": queue,
        "count": 1,
        "exchange": exchange,
        "routing-keys": ["a.b.c"],
    }
    assert abs(death["time"] - datetime.now(UTC).replace(tzinfo=None)) < timedelta(minutes=1)
    assert letter.headers["x-first-death-queue"] == queue
    assert letter.headers["x-first-death-reason"] == "rejected"
    assert letter.headers["x-first-death-exchange"] == exchange
    assert reader.silent()


def test_a_message_that_comes_back_too_often_goes_to_the_dead_letters(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue, letters = dead_letter_queue(broker, channel)
    publish_all(channel, exchange, range(2))
    reader = Reader(broker.connect(), queue, prefetch=1)
    counts = []
    for _ in range(3):  # a limit of 2 is two comings back
        (message,) = reader.read(1)
        assert message.body == b"0"
        counts.append(message.headers.get("x-delivery-count"))
        message.requeue()
    assert counts == [None, 1, 2]
    assert bodies(reader.read(1)) == [1]
    (letter,) = Reader(broker.connect(), letters).read(1)
    assert letter.body == b"0"
    assert letter.headers["x-death"][0]["reason"] == "delivery_limit"


def test_a_second_death_is_counted(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue, letters = dead_letter_queue(broker, channel)
    publish(channel, exchange, "a.b.c", "7")
    reader, undertaker = Reader(broker.connect(), queue), Reader(broker.connect(), letters)
    reader.read(1)[0].reject()
    (letter,) = undertaker.read(1)
    publish(channel, exchange, "a.b.c", "7", headers=dict(letter.headers))
    reader.read(1)[0].reject()
    (letter,) = undertaker.read(1)
    assert [(death["reason"], death["count"]) for death in letter.headers["x-death"]] == [("rejected", 2)]


def test_a_rejected_message_without_dead_letter_exchange_is_gone(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(2))
    reader = Reader(broker.connect(), queue, prefetch=1)
    reader.read(1)[0].reject()
    assert bodies(reader.read(1)) == [1]


# -- single active consumer --------------------------------------------------------------------------------------------


def test_only_the_first_consumer_is_served_and_the_next_when_it_goes(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel, arguments=SINGLE)
    connection = broker.connect()
    first, second = Reader(connection, queue, prefetch=2), Reader(broker.connect(), queue, prefetch=2)
    publish_all(channel, exchange, range(6))
    for message in first.read(2):
        message.ack()
    assert second.silent()
    connection.release()
    assert bodies(second.read(2)) == [2, 3]


# -- declarations ------------------------------------------------------------------------------------------------------


def test_a_passive_declaration_counts_ready_messages_and_consumers(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(5))
    reader = Reader(broker.connect(), queue, prefetch=2)
    reader.read(2)
    assert reader.silent()
    assert tuple(channel.queue_declare(queue=queue, passive=True)) == (queue, 3, 1)


def test_a_passive_declaration_of_a_missing_queue_is_an_error(broker: Broker) -> None:
    with pytest.raises(NotFound) as caught:
        broker.connect().channel().queue_declare(queue=f"missing-{broker.unique}", passive=True)
    assert caught.value.reply_code == 404


def test_a_passive_declaration_of_a_missing_exchange_is_an_error(broker: Broker) -> None:
    with pytest.raises(NotFound):
        broker.connect().channel().exchange_declare(exchange=f"missing-{broker.unique}", type="topic", passive=True)


def test_the_same_declaration_again_is_fine_and_another_an_error(broker: Broker) -> None:
    channel = broker.connect().channel()
    broker.queue(channel, arguments=SINGLE)
    broker.queue(channel, arguments=SINGLE)
    with pytest.raises(PreconditionFailed) as caught:
        broker.queue(channel)
    assert caught.value.reply_code == 406


def test_an_exchange_cannot_change_its_type(broker: Broker) -> None:
    channel = broker.connect().channel()
    broker.exchange(channel, "topic")
    broker.exchange(channel, "topic")
    with pytest.raises(PreconditionFailed):
        broker.exchange(channel, "direct")


def test_binding_to_a_missing_exchange_is_an_error(broker: Broker) -> None:
    channel = broker.connect().channel()
    queue = broker.queue(channel)
    with pytest.raises(NotFound):
        channel.queue_bind(queue=queue, exchange=f"missing-{broker.unique}", routing_key="#")


def test_purge_removes_what_is_ready_and_says_how_many(any_broker: Broker) -> None:
    channel = any_broker.connect().channel()
    exchange, queue = any_broker.bound(channel)
    publish_all(channel, exchange, range(4))
    assert channel.queue_purge(queue) == 4
    assert Reader(any_broker.connect(), queue).silent()


def test_the_consumer_of_a_deleted_queue_is_told(broker: Broker) -> None:
    channel = broker.connect().channel()
    _, queue = broker.bound(channel)
    reader = Reader(broker.connect(), queue)
    assert reader.silent()
    channel.queue_delete(queue)
    with pytest.raises(ConsumerCancelled):
        reader.read(1)


def test_a_cancelled_consumer_keeps_what_it_holds_until_it_is_acknowledged(broker: Broker) -> None:
    channel = broker.connect().channel()
    exchange, queue = broker.bound(channel)
    publish_all(channel, exchange, range(4))
    reader = Reader(broker.connect(), queue, prefetch=2)
    held = reader.read(2)
    reader.channel.basic_cancel(reader.tag)
    rest = Reader(broker.connect(), queue)
    assert bodies(rest.read(2)) == [2, 3]
    held[1].ack(multiple=True)
    reader.channel.close()
    assert rest.silent()
