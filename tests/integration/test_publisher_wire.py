"""What goes over the wire, seen from the other side: signatures, users, and the queue that waits for a first mirror."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kombu
import pytest

from consumers.base.broker import topology
from consumers.base.settings import ConsumerSettings
from eventbus import transports
from eventbus.errors import BrokerUnavailable, ConfigurationError
from eventbus.events import signing
from eventbus.events.envelope import Message
from eventbus.events.naming import DEAD_LETTER_EXCHANGE, dead_letter_queue
from eventbus.publishers import AmqpPublisher, Outcome, publisher_for
from eventbus.publishers.frames import FrameWriter
from eventbus.settings import Settings
from tests.conftest import Remove
from tests.support.tcp_proxy import TcpProxy

CONFIRMED, UNROUTABLE = Outcome.CONFIRMED, Outcome.UNROUTABLE


def message(number: int = 0, key: str = "crm.contact.updated") -> Message:
    return Message(key, f"tx-{number}", b'{"partitionkey":"contact/%d"}' % number, "tx")


@pytest.fixture(params=["sqlite", "rabbitmq"])
def url(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> str:
    """Of a broker; on RabbitMQ exchange and queue `unique` are removed afterwards."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/broker.sqlite3"
    request.getfixturevalue("rabbitmq_remove")(queues=[unique], exchanges=[unique])
    return str(request.getfixturevalue("rabbitmq_url"))


@pytest.fixture
def channel(url: str, unique: str) -> Iterator[Any]:
    """A channel with exchange and queue `unique`."""
    connection: kombu.Connection = transports.connection(url)
    channel = connection.channel()
    channel.auto_decode = False
    channel.exchange_declare(exchange=unique, type="topic", durable=True, auto_delete=False)
    channel.queue_declare(queue=unique, durable=True, auto_delete=False)
    channel.queue_bind(queue=unique, exchange=unique, routing_key="crm.#")
    yield channel
    connection.release()


def test_a_signed_message_can_be_verified_by_who_has_the_key(url: str, channel: Any, unique: str) -> None:
    keys = f"2026-11:{secrets.token_hex(32)} 2026-05:{secrets.token_hex(32)}"
    publisher = publisher_for(Settings(url=url, service="crm", exchange=unique, queue=unique, hmac_keys=keys))
    assert publisher.publish([message()]) == [CONFIRMED]
    publisher.close()
    raw = channel.basic_get(unique, no_ack=True)
    got = channel.message_to_python(raw)
    assert got.headers["partitionkey"] == "contact/0"
    assert got.headers[signing.KEY_HEADER] == "2026-11", "the first key signs"
    signing.verify(bytes(got.body), got.headers, signing.parse_keys(keys))


def test_a_key_longer_than_a_frame_is_published(url: str, channel: Any, unique: str) -> None:
    """The header that spreads records is bounded: a longer one would end the connection, again and again."""
    publisher = publisher_for(Settings(url=url, service="crm", exchange=unique, queue=unique))
    long = [
        Message("crm.contact.updated", f"tx-{each}", b'{"partitionkey":"contact/%s"}' % (b"k" * 140_000), "tx")
        for each in range(2)
    ]
    assert publisher.publish([message(7), *long, message(8)]) == [CONFIRMED] * 4
    publisher.close()
    taken = [channel.basic_get(unique, no_ack=True).headers for _ in range(4)]
    partitions = [headers["partitionkey"] for headers in taken]
    assert partitions[0] == "contact/7"
    assert partitions[1] == partitions[2] != partitions[3]
    assert len(partitions[1]) == 64


def test_a_batch_that_the_broker_hangs_up_over_is_taken_apart(
    rabbitmq_url: str, unique: str, rabbitmq_remove: Remove, monkeypatch: pytest.MonkeyPatch
) -> None:
    """501 for one message, here with a header that is longer than a frame, closes the connection for all of them."""
    rabbitmq_remove(queues=[unique], exchanges=[unique])
    publication = FrameWriter.publication

    def unbounded(self: FrameWriter, each: Message, timestamp: int) -> bytes:
        chunk, self._chunk = self._chunk, 1 << 30 if each.id == "tx-1" else self._chunk
        try:
            return publication(self, each, timestamp)
        finally:
            self._chunk = chunk

    monkeypatch.setattr(FrameWriter, "publication", unbounded)
    publisher = AmqpPublisher(rabbitmq_url, exchange=unique, service="crm")
    long = {"long": "x" * 140_000}
    publisher._sender = replace(publisher._sender, headers=lambda body: long if body.endswith(b'/1"}') else {})
    waiting, outcomes = [message(each) for each in range(4)], {}
    for _ in range(4):
        try:
            result: Sequence[Outcome | None] = publisher.publish(waiting)
        except BrokerUnavailable as error:
            result = error.outcomes
        outcomes |= {each.id: outcome for each, outcome in zip(waiting, result, strict=True) if outcome is not None}
        waiting = [each for each in waiting if each.id not in outcomes]
    publisher.close()
    expected = {f"tx-{each}": UNROUTABLE for each in range(4)} | {"tx-1": Outcome.REFUSED}
    assert outcomes == expected


def test_wrong_keys_are_an_error_before_anything_is_published_and_no_secret_shows(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        publisher_for(Settings(url=url, service="crm", hmac_keys="2026-11:sesame"))
    assert "sesame" not in str(caught.value)


# -- the embedded broker ----------------------------------------


def embedded(directory: Path, **options: str) -> Settings:
    return Settings(url=f"sqlite:///{directory}/broker.sqlite3", service="crm", **options)


def declared(settings: Settings, look: Callable[[Any], Any]) -> Any:
    with transports.connection(settings.url) as connection:
        return look(connection.channel())


def test_what_is_published_before_the_first_mirror_waits_for_it(tmp_path: Path) -> None:
    settings = embedded(tmp_path)
    publisher = publisher_for(settings)
    assert publisher.publish([message(0), message(1)]) == [CONFIRMED] * 2
    publisher.close()
    count = declared(settings, lambda channel: channel.queue_declare(queue=settings.queue, passive=True).message_count)
    assert count == 2


def test_the_queue_is_the_one_a_consumer_with_default_settings_declares(tmp_path: Path) -> None:
    """A broker refuses a queue declared again with other arguments."""
    settings = embedded(tmp_path)
    publisher_for(settings).publish([message()])
    with transports.connection(settings.url) as connection:
        channel = connection.channel()
        name, letters = settings.queue, dead_letter_queue(settings.queue)
        arguments = topology.queue_arguments(name, ConsumerSettings().delivery_limit)
        channel.queue_declare(queue=name, durable=True, exclusive=False, auto_delete=False, arguments=arguments)
        arguments = topology.dead_letter_arguments()
        channel.queue_declare(queue=letters, durable=True, exclusive=False, auto_delete=False, arguments=arguments)


def test_a_dead_letter_of_that_queue_is_kept(tmp_path: Path) -> None:
    settings = embedded(tmp_path)
    publisher_for(settings).publish([message()])
    with transports.connection(settings.url) as connection:
        channel = connection.channel()
        channel.basic_reject(channel.basic_get(settings.queue).delivery_tag, requeue=False)
        letter = channel.basic_get(dead_letter_queue(settings.queue), no_ack=True)
        assert letter is not None
        channel.exchange_declare(exchange=DEAD_LETTER_EXCHANGE, type="direct", durable=True, auto_delete=False)


def test_a_queue_that_a_consumer_bound_its_own_way_stays_so(tmp_path: Path) -> None:
    settings = embedded(tmp_path)
    with transports.connection(settings.url) as connection:
        channel = connection.channel()
        channel.exchange_declare(exchange=settings.exchange, type="topic", durable=True, auto_delete=False)
        channel.queue_declare(queue=settings.queue, durable=True, auto_delete=False)
        channel.queue_bind(queue=settings.queue, exchange=settings.exchange, routing_key="crm.contact.*")
    publisher = publisher_for(settings)
    assert publisher.publish([message(), message(1, "crm.order.created")]) == [CONFIRMED, UNROUTABLE]
    publisher.close()


def test_a_broker_file_that_was_removed_is_made_again_and_nothing_is_confirmed_into_the_old_one(tmp_path: Path) -> None:
    settings = embedded(tmp_path)
    publisher = publisher_for(settings)
    publisher.publish([message()])
    for path in tmp_path.glob("broker.sqlite3*"):
        path.unlink()
    with pytest.raises(BrokerUnavailable) as caught:
        publisher.publish([message(1)])
    assert caught.value.outcomes == [None]
    assert publisher.publish([message(1)]) == [CONFIRMED]
    publisher.close()
    count = declared(settings, lambda channel: channel.queue_declare(queue=settings.queue, passive=True).message_count)
    assert count == 1


def test_a_deleted_exchange_is_declared_again(tmp_path: Path) -> None:
    settings = embedded(tmp_path)
    publisher = publisher_for(settings)
    publisher.publish([message()])
    declared(settings, lambda channel: channel.exchange_delete(settings.exchange))
    with pytest.raises(BrokerUnavailable):
        publisher.publish([message(1)])
    assert publisher.publish([message(1)]) == [CONFIRMED], "declared again, and bound to the queue again"
    publisher.close()


def test_a_file_that_is_no_broker_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "broker.sqlite3").write_bytes(b"something else " * 1000)
    with pytest.raises(BrokerUnavailable, match=r"broker\.sqlite3"):
        publisher_for(embedded(tmp_path)).publish([message()])


# -- RabbitMQ ---------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_forgot_to_abandon_still_leaves_the_parents_connection_alone(
    rabbitmq_url: str, tcp_proxy: Callable[[str], TcpProxy], unique: str, rabbitmq_remove: Remove
) -> None:
    """TRAPS F14."""
    rabbitmq_remove(exchanges=[unique])
    proxy = tcp_proxy(rabbitmq_url)
    publisher = AmqpPublisher(proxy.url, exchange=unique, service="crm")
    assert publisher.publish([message()]) == [UNROUTABLE]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            publisher.tick()
            code = 0 if publisher.publish([message()]) == [UNROUTABLE] else 2
            publisher.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert proxy.accepted == 2
    assert publisher.publish([message()] * 10) == [UNROUTABLE] * 10
    assert proxy.accepted == 2, "the parent had to connect again"
    publisher.close()


def test_more_than_the_window_goes_through_in_order(rabbitmq_url: str, unique: str, rabbitmq_remove: Remove) -> None:
    rabbitmq_remove(queues=[unique], exchanges=[unique])
    with transports.connection(rabbitmq_url) as connection:
        channel = connection.channel()
        channel.exchange_declare(exchange=unique, type="topic", durable=True, auto_delete=False)
        channel.queue_declare(queue=unique, durable=True, auto_delete=False)
        channel.queue_bind(queue=unique, exchange=unique, routing_key="#")
        sent = [message(number)._replace(body=b"x" * (number % 7) * 1000) for number in range(6_000)]
        publisher = AmqpPublisher(rabbitmq_url, exchange=unique, service="crm")
        assert publisher.publish(sent) == [CONFIRMED] * len(sent)
        publisher.close()
        assert channel.queue_declare(queue=unique, passive=True).message_count == len(sent)
        got = [channel.basic_get(unique, no_ack=True) for _ in range(1_000)]
        assert [one.properties["message_id"] for one in got] == [one.id for one in sent[:1_000]]
