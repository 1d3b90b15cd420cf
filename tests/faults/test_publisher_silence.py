"""A broker of our own that stops answering, or answers wrongly, at any step: every step is bounded in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from struct import pack, unpack
from typing import BinaryIO, Self

import pytest
from amqp.serialization import dumps

from consumers.base import ConsumerSettings
from consumers.base.broker.line import Line
from consumers.base.reading.wire import FrameReader
from eventbus.errors import BrokerUnavailable
from eventbus.events.envelope import Message
from eventbus.publishers import AmqpPublisher, Outcome
from eventbus.publishers.link import Timeouts

SHORT = Timeouts(connect=0.5, write=0.5, confirm=0.5, close=0.3)
MESSAGES = [Message("crm.contact.updated", f"tx-{number}", b'{"n":%d}' % number, "tx") for number in range(3)]

HEARTBEAT = pack(">BHIB", 8, 0, 0, 0xCE)
HEADER = b"AMQP\x00\x00\x09\x01"
START_OK, OPEN, CHANNEL_OPEN, DECLARE, CHANNEL_CLOSE, SELECT = (
    (10, 11),
    (10, 40),
    (20, 10),
    (40, 10),
    (20, 40),
    (85, 10),
)
CLOSE, PUBLISH = (10, 50), (60, 40)


def method(channel: int, signature: tuple[int, int], arguments: bytes = b"") -> bytes:
    payload = pack(">HH", *signature) + arguments
    return pack(">BHI", 1, channel, len(payload)) + payload + b"\xce"


def ack(tag: int, multiple: bool = False) -> bytes:
    return method(1, (60, 80), dumps("Lb", (tag, multiple)))


START = method(0, (10, 10), dumps("ooFSS", (0, 9, {}, "PLAIN", "en_US")))
ANSWERS = {
    START_OK: lambda _: method(0, (10, 30), dumps("BlB", (2047, 131_072, 60))),
    OPEN: lambda _: method(0, (10, 41), dumps("s", ("",))),
    CHANNEL_OPEN: lambda channel: method(channel, (20, 11), dumps("S", ("",))),
    DECLARE: lambda channel: method(channel, (40, 11)),
    CHANNEL_CLOSE: lambda channel: method(channel, (20, 41)),
    SELECT: lambda channel: method(channel, (85, 11)),
    CLOSE: lambda _: method(0, (10, 51)),
}
STEPS = [HEADER, START_OK, OPEN, CHANNEL_OPEN, DECLARE, CHANNEL_CLOSE, SELECT]


class FakeBroker:
    """Speaks as much AMQP as a publisher needs, and nothing more once it has heard `deaf_to`.

    `confirm` is what it sends for each publication: bytes, or nothing. With `beats` it goes on with its heartbeats, as
    a broker does that hangs over one question, about a queue without its majority for one.
    """

    def __init__(self) -> None:
        self.deaf_to: object = None
        self.beats = False
        self.confirm = b""
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)

    @property
    def url(self) -> str:
        return f"amqp://u:p@127.0.0.1:{self._server.getsockname()[1]}//"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()
        for client in self._clients:
            client.close()

    def _accept(self) -> None:
        try:
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                self._clients.append(client)
                self._serve(client)
        except OSError:
            return  # closed

    def _serve(self, client: socket.socket) -> None:
        """One client, until it goes."""
        with client.makefile("rb") as stream:
            if stream.read(8) == HEADER and self.deaf_to is not HEADER:
                client.sendall(START)
            while len(head := stream.read(7)) == 7:
                kind, channel, size = unpack(">BHI", head)
                payload = stream.read(size + 1)
                signature = unpack(">HH", payload[:4]) if kind == 1 else None
                if signature is not None and signature == self.deaf_to:
                    self.deaf_to = None
                    self._hang(client, stream)
                elif signature == PUBLISH:
                    client.sendall(self.confirm)
                elif signature in ANSWERS:
                    client.sendall(ANSWERS[signature](channel))

    def _hang(self, client: socket.socket, stream: BinaryIO) -> None:
        """Until the client gives up."""
        client.settimeout(0.1)
        with contextlib.suppress(OSError):
            while self.beats and not _hung_up(client):
                client.sendall(HEARTBEAT)
        client.settimeout(None)
        stream.read()


def _hung_up(client: socket.socket) -> bool:
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as running:
        yield running


@pytest.fixture
def publisher(broker: FakeBroker) -> Iterator[AmqpPublisher]:
    made = AmqpPublisher(broker.url, exchange="x", service="crm", timeouts=SHORT)
    yield made
    made.close()


@pytest.mark.parametrize("step", [CHANNEL_OPEN, DECLARE, SELECT], ids=str)
def test_heartbeats_are_no_answer(broker: FakeBroker, publisher: AmqpPublisher, step: object) -> None:
    broker.deaf_to, broker.beats = step, True
    start = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="did not answer within") as caught:
        publisher.publish(MESSAGES)
    assert time.monotonic() - start < 3
    assert caught.value.outcomes == [None] * 3
    broker.confirm = ack(0, multiple=True)
    assert publisher.publish(MESSAGES) == [Outcome.CONFIRMED] * 3


def test_a_consumer_takes_heartbeats_for_no_answer_either(broker: FakeBroker) -> None:
    line = Line(replace(ConsumerSettings(), url=broker.url, patience=0.5))
    FrameReader(line.driver, 1, lambda _: None, keep=1, patience=0.5)
    broker.deaf_to, broker.beats = CHANNEL_OPEN, True
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.5 s"):
        line.channel()
    assert time.monotonic() - start < 3
    line.drop()


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_broker_that_falls_silent_while_connecting_ends_the_call_in_bounded_time(
    broker: FakeBroker, publisher: AmqpPublisher, step: object
) -> None:
    broker.deaf_to = step
    start = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        publisher.publish(MESSAGES)
    assert time.monotonic() - start < 3
    assert caught.value.outcomes == [None] * 3
    broker.deaf_to = None
    broker.confirm = ack(0, multiple=True)
    assert publisher.publish(MESSAGES) == [Outcome.CONFIRMED] * 3


def test_half_a_confirm_is_none(broker: FakeBroker, publisher: AmqpPublisher) -> None:
    broker.confirm = ack(1)[:-5]
    start = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        publisher.publish(MESSAGES)
    assert time.monotonic() - start < 5
    assert caught.value.outcomes == [None] * 3


def test_a_confirm_for_what_was_never_sent_ends_the_connection(broker: FakeBroker, publisher: AmqpPublisher) -> None:
    broker.confirm = ack(99)
    with pytest.raises(BrokerUnavailable, match="delivery tag 99, which is not under way") as caught:
        publisher.publish(MESSAGES)
    assert caught.value.outcomes == [None] * 3
    broker.confirm = ack(0, multiple=True)
    assert publisher.publish(MESSAGES) == [Outcome.CONFIRMED] * 3
    assert broker.connections == 2


def test_a_confirm_of_all_by_tag_zero_counts(broker: FakeBroker, publisher: AmqpPublisher) -> None:
    broker.confirm = ack(0, multiple=True)
    assert publisher.publish(MESSAGES * 10) == [Outcome.CONFIRMED] * 30


def test_farewell_to_a_broker_that_does_not_answer_is_bounded(broker: FakeBroker, publisher: AmqpPublisher) -> None:
    broker.confirm = ack(0, multiple=True)
    publisher.publish(MESSAGES)
    broker.deaf_to = CLOSE
    start = time.monotonic()
    publisher.close()
    assert time.monotonic() - start < 2


def test_abandoning_says_nothing_to_the_broker(broker: FakeBroker, publisher: AmqpPublisher) -> None:
    """The child of a fork closes its copy of the socket; FIN goes out only because there is no parent here."""
    broker.confirm = ack(0, multiple=True)
    publisher.publish(MESSAGES)
    broker.deaf_to = CLOSE
    publisher.abandon()
    publisher.close()
    assert publisher.publish(MESSAGES) == [Outcome.CONFIRMED] * 3
    assert broker.deaf_to is CLOSE, "the broker was told"
