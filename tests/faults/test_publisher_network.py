"""A broken network before RabbitMQ: every wait is bounded, no confirm is credited wrongly, nothing is lost."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import kombu
import pytest

from eventbus import transports
from eventbus.errors import BrokerUnavailable
from eventbus.events.envelope import Message
from eventbus.publishers import AmqpPublisher, Outcome
from eventbus.publishers.link import Timeouts
from tests.conftest import Remove
from tests.support.messages import messages
from tests.support.tcp_proxy import Mode, TcpProxy

CONFIRMED, UNROUTABLE = Outcome.CONFIRMED, Outcome.UNROUTABLE
SHORT = Timeouts(connect=1, write=1, confirm=1, close=0.5)
BOUND = 4.0
"""Seconds within which a call must end with SHORT timeouts, on a busy machine."""


class Bench:
    """A publisher behind a proxy, and its queue behind none."""

    def __init__(self, url: str, proxy: TcpProxy, name: str) -> None:
        self.proxy = proxy
        self.name = name
        self.publisher = AmqpPublisher(proxy.url, exchange=name, service="crm", timeouts=SHORT)
        self.connection: kombu.Connection = transports.connection(url)
        self.channel: Any = self.connection.channel()
        self.channel.exchange_declare(exchange=name, type="topic", durable=True, auto_delete=False)
        self.channel.queue_declare(queue=name, durable=True, auto_delete=False)
        self.bind()

    def bind(self) -> None:
        self.channel.queue_bind(queue=self.name, exchange=self.name, routing_key="#")

    def unbind(self) -> None:
        self.channel.queue_unbind(queue=self.name, exchange=self.name, routing_key="#")

    def received(self) -> list[str]:
        """Ids in the queue, in its order."""
        taken = []
        while (got := self.channel.basic_get(self.name, no_ack=True)) is not None:
            taken.append(got.properties["message_id"])
        return taken

    def close(self) -> None:
        self.publisher.close()
        self.connection.release()


@pytest.fixture
def bench(
    rabbitmq_url: str, tcp_proxy: Callable[[str], TcpProxy], unique: str, rabbitmq_remove: Remove
) -> Iterator[Bench]:
    rabbitmq_remove(queues=[unique], exchanges=[unique])
    made = Bench(rabbitmq_url, tcp_proxy(rabbitmq_url), unique)
    yield made
    made.close()


@contextlib.contextmanager
def bounded(seconds: float = BOUND) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def send_all(bench: Bench, sent: list[Message]) -> int:
    """Do what a dispatcher does: send what is not confirmed until all is. Returns the number of failures."""
    failures = 0
    while sent:
        try:
            outcomes: list[Outcome | None] = list(bench.publisher.publish(sent))
        except BrokerUnavailable as error:
            outcomes, failures = error.outcomes, failures + 1
        sent = [message for message, outcome in zip(sent, outcomes, strict=True) if outcome is not CONFIRMED]
    return failures


def test_a_late_confirm_is_never_credited_to_another_message(bench: Bench) -> None:
    """TRAPS F1: A's confirm comes after the time allowed; B, which no queue takes, must not pass for confirmed."""
    bench.publisher.publish(messages(1))
    bench.proxy.delay = 0.8  # each way: later than `confirm`, and on its way when B is sent
    with pytest.raises(BrokerUnavailable) as caught:
        bench.publisher.publish(messages(1, start=1))
    assert caught.value.outcomes == [None]
    bench.unbind()
    bench.proxy.delay = 0.0
    assert bench.publisher.publish(messages(1, start=2)) == [UNROUTABLE]
    assert bench.received() == ["tx-0", "tx-1"]


def test_what_was_sent_and_not_answered_is_of_unknown_fate_and_sent_again(bench: Bench) -> None:
    bench.publisher.publish(messages(1))
    bench.proxy.mode = Mode.REPLIES_LOST
    with bounded(), pytest.raises(BrokerUnavailable, match="confirmed nothing for 1 s, 3 unconfirmed") as caught:
        bench.publisher.publish(messages(3, start=1))
    assert caught.value.outcomes == [None] * 3
    bench.proxy.mode = Mode.PASS
    assert bench.publisher.publish(messages(3, start=1)) == [CONFIRMED] * 3
    assert bench.received() == ["tx-0", "tx-1", "tx-2", "tx-3", "tx-1", "tx-2", "tx-3"]


def test_a_black_hole_ends_a_call_in_bounded_time_even_when_the_socket_is_full(bench: Bench) -> None:
    bench.publisher.publish(messages(1))
    bench.proxy.mode = Mode.BLACK_HOLE
    sent = messages(60, size=200_000, start=1)  # 12 MB: more than the buffers on the way hold
    with bounded(), pytest.raises(BrokerUnavailable) as caught:
        bench.publisher.publish(sent)
    assert caught.value.outcomes == [None] * 60
    bench.proxy.mode = Mode.PASS
    assert send_all(bench, sent) == 0
    assert set(bench.received()) == {"tx-0", *(message.id for message in sent)}


def test_a_black_hole_before_the_connection_ends_in_bounded_time(bench: Bench) -> None:
    bench.proxy.mode = Mode.BLACK_HOLE
    with bounded(), pytest.raises(BrokerUnavailable):
        bench.publisher.publish(messages(1))


def test_a_broker_that_accepts_and_says_nothing_ends_in_bounded_time(bench: Bench) -> None:
    """TRAPS F3: with kombu's own retries this takes four times as long."""
    bench.proxy.mode = Mode.SILENT
    with bounded(3.5), pytest.raises(BrokerUnavailable):
        bench.publisher.publish(messages(1))


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.RESET])
def test_a_broker_that_is_down_is_an_error_at_once(bench: Bench, mode: Mode) -> None:
    bench.proxy.mode = mode
    with bounded(2), pytest.raises(BrokerUnavailable) as caught:
        bench.publisher.publish(messages(2))
    assert caught.value.outcomes == [None, None]
    assert caught.value.__cause__ is not None


def test_a_connection_reset_between_calls_loses_nothing(bench: Bench) -> None:
    bench.publisher.publish(messages(1))
    bench.proxy.cut()
    assert send_all(bench, messages(5, start=1)) <= 1
    assert set(bench.received()) == {f"tx-{number}" for number in range(6)}


def test_connections_cut_again_and_again_lose_nothing_and_confirm_nothing_that_did_not_arrive(bench: Bench) -> None:
    sent = messages(3_000, size=2_000)
    stop = threading.Event()

    def cut() -> None:
        while not stop.wait(0.15):
            bench.proxy.cut()

    cutter = threading.Thread(target=cut)
    cutter.start()
    confirmed: set[str] = set()
    left = sent
    try:
        for _ in range(12):
            try:
                outcomes: list[Outcome | None] = list(bench.publisher.publish(left))
            except BrokerUnavailable as error:
                outcomes = error.outcomes
            confirmed |= {one.id for one, outcome in zip(left, outcomes, strict=True) if outcome is CONFIRMED}
            left = [one for one in left if one.id not in confirmed]
    finally:
        stop.set()
        cutter.join()
    arrived = set(bench.received())
    assert confirmed <= arrived, "confirmed, but not in the queue"
    send_all(bench, left)
    assert arrived | set(bench.received()) == {message.id for message in sent}


def test_nothing_is_sent_into_a_connection_known_to_be_blocked_and_it_is_kept(bench: Bench) -> None:
    bench.publisher.publish(messages(1))
    link = bench.publisher._link
    assert link is not None
    link._on_blocked("as RabbitMQ says only to a connection that is publishing")
    for _ in range(2):
        with bounded(), pytest.raises(BrokerUnavailable, match=r"blocks publishers .* 0 unconfirmed") as caught:
            bench.publisher.publish(messages(3, start=1))
        assert caught.value.outcomes == [None] * 3
    assert bench.publisher.blocked
    link._on_unblocked()
    assert bench.publisher.publish(messages(3, start=1)) == [CONFIRMED] * 3
    assert bench.proxy.accepted == 1
    assert bench.received() == ["tx-0", "tx-1", "tx-2", "tx-3"]


def test_ticks_keep_an_idle_connection(bench: Bench) -> None:
    """The broker closes a connection of which it hears nothing for two intervals."""
    bench.publisher = AmqpPublisher(bench.proxy.url, exchange=bench.name, service="crm", timeouts=Timeouts(heartbeat=1))
    bench.publisher.publish(messages(1))
    until = time.monotonic() + 4
    while time.monotonic() < until:
        bench.publisher.tick()
        time.sleep(0.1)  # the passing of time is the condition
    assert bench.publisher.publish(messages(1)) == [CONFIRMED]
    assert bench.proxy.accepted == 1


def test_a_tick_finds_a_connection_that_died_in_silence(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.publisher = AmqpPublisher(bench.proxy.url, exchange=bench.name, service="crm", timeouts=Timeouts(heartbeat=1))
    bench.publisher.publish(messages(1))
    bench.proxy.mode = Mode.BLACK_HOLE
    until = time.monotonic() + 8
    while "not connected" not in repr(bench.publisher):
        bench.publisher.tick()
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "the idle connection to the broker is lost: " in caplog.text
    bench.proxy.mode = Mode.PASS
    assert bench.publisher.publish(messages(1)) == [CONFIRMED]


def test_returned_bodies_that_fill_the_way_back_do_not_block_the_way_there(bench: Bench) -> None:
    """The broker sends unroutable messages back whole: who only writes and never reads would wait for ever."""
    bench.unbind()
    with bounded(20):
        assert bench.publisher.publish(messages(150, size=100_000)) == [UNROUTABLE] * 150


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x00\x09\x01", b"\x01" * 64])
def test_what_is_no_amqp_broker_is_an_error_and_leaves_no_socket_behind(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(100)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        publisher = AmqpPublisher(
            f"amqp://u:sesame@127.0.0.1:{server.getsockname()[1]}//", exchange="x", service="crm", timeouts=SHORT
        )
        with bounded(), pytest.raises(BrokerUnavailable) as caught:
            publisher.publish(messages(1))
        thread.join()
    assert "sesame" not in str(caught.value)


def test_no_log_and_no_error_shows_the_password(
    bench: Bench, rabbitmq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    parts = urlsplit(bench.proxy.url)
    url = urlunsplit(parts._replace(netloc=f"{parts.username}:sesame@{parts.hostname}:{parts.port}"))
    publisher = AmqpPublisher(url, exchange=bench.name, service="crm", timeouts=SHORT)
    with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED") as caught:
        publisher.publish(messages(1))
    bench.publisher.publish(messages(1))
    bench.proxy.cut()
    bench.publisher.tick()
    records = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "sesame" not in records + str(caught.value) + repr(publisher)
    assert f":{parts.password}@" not in records
