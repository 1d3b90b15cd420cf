"""Deliveries are read from the broker's bytes however they arrive, and nothing in them can do harm."""

from __future__ import annotations

import gzip
import random
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from struct import pack
from typing import Any

import amqp
import pytest
from amqp.exceptions import UnexpectedFrame
from amqp.serialization import dumps
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.base.reading.delivery import Delivery
from consumers.base.reading.wire import FrameReader
from tests.support.consuming import STANDARD

CHANNEL = 2
FRAME_MAX = 131_072


class Driver:
    """What the reader needs of py-amqp's connection; remembers the frames it is given."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.frame_max = FRAME_MAX
        self.bytes_recv = 0
        self.frames: list[tuple[int, int, bytes]] = []
        self.transport = self
        self._read_buffer = b""

    def allowed(self, timeout: float | None) -> float | None:
        return timeout

    def on_inbound_frame(self, frame: tuple[int, int, bytes]) -> None:
        self.frames.append(frame)


class Wire:
    """A reader at one end, the broker's bytes at the other."""

    def __init__(self, ours: socket.socket, theirs: socket.socket, keep: int = 1 << 20) -> None:
        self.theirs = theirs
        self.driver = Driver(ours)
        self.deliveries: list[Delivery] = []
        self.reader = FrameReader(self.driver, CHANNEL, self.deliveries.append, keep=keep, patience=1.0)

    def feed(self, data: bytes) -> None:
        self.theirs.sendall(data)
        while self.reader.read(0):
            pass


@pytest.fixture
def wire() -> Iterator[Wire]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Wire(ours, theirs)


def frame(kind: int, payload: bytes, channel: int = CHANNEL) -> bytes:
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def frames(body: bytes, tag: int = 1, *, properties: dict[str, Any] | bytes = STANDARD, chunk: int = 1000) -> bytes:
    """A delivery as RabbitMQ sends it."""
    method = dumps("sLbss", ("consumer", tag, False, "eventbus", "crm.contact.updated"))
    raw = properties if isinstance(properties, bytes) else amqp.Message(b"", **properties)._serialize_properties()
    return b"".join(
        [
            frame(1, pack(">HH", 60, 60) + method),
            frame(2, pack(">HHQ", 60, 0, len(body)) + raw),
            *(frame(3, body[at : at + chunk]) for at in range(0, len(body), chunk)),
        ]
    )


def test_a_delivery_says_what_the_broker_said(wire: Wire) -> None:
    wire.feed(frames(b"{}", 7, properties={**STANDARD, "message_id": "t-1", "application_headers": {"a": 1}}))
    (delivery,) = wire.deliveries
    assert (delivery.body, delivery.tag, delivery.routing_key) == (b"{}", 7, "crm.contact.updated")
    assert (delivery.redelivered, delivery.size) == (False, 2)
    assert delivery.properties["message_id"] == "t-1"
    assert delivery.headers == {"a": 1}


@given(st.lists(st.binary(max_size=3000), max_size=6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_bodies_arrive_in_order_through_any_cuts(bodies: list[bytes], seed: int) -> None:
    cuts = random.Random(seed)
    heartbeat, other = frame(8, b"", 0), frame(1, pack(">HH", 20, 10), 1)
    stream = b"".join(frames(body, tag) + cuts.choice([b"", heartbeat, other]) for tag, body in enumerate(bodies, 1))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(ours, theirs)
        while stream:
            size = cuts.randint(1, 2000)
            wire.feed(stream[:size])
            stream = stream[size:]
    assert [each.body for each in wire.deliveries] == bodies
    assert [each.tag for each in wire.deliveries] == list(range(1, len(bodies) + 1))
    assert {channel for _, channel, _ in wire.driver.frames} <= {0, 1}


def test_everything_else_goes_to_the_driver(wire: Wire) -> None:
    cancel = pack(">HH", 60, 30) + dumps("sb", ("consumer", True))
    returned = frame(1, pack(">HH", 60, 50)) + frame(2, pack(">HHQ", 60, 0, 1) + b"\0\0") + frame(3, b"x")
    wire.feed(frame(1, cancel) + returned + frames(b"{}"))
    assert [kind for kind, _, _ in wire.driver.frames] == [1, 1, 2, 3]
    assert wire.driver.frames[0] == (1, CHANNEL, cancel)
    assert len(wire.deliveries) == 1


def test_the_driver_may_wait_for_an_answer_while_it_is_given_a_frame(wire: Wire) -> None:
    """py-amqp opens a closed channel again and reads the answer in the middle of reading."""

    def wait(_frame: tuple[int, int, bytes]) -> None:
        if not wire.driver.frames:
            wire.driver.frames.append(_frame)
            wire.theirs.sendall(frames(b"later", 2))
            wire.driver.blocking_read(1.0)  # type: ignore[attr-defined]

    wire.driver.on_inbound_frame = wait  # type: ignore[method-assign, assignment]
    wire.feed(frame(1, pack(">HH", 20, 40)) + frames(b"first", 1))
    assert [each.body for each in wire.deliveries] == [b"first", b"later"]


def test_what_the_driver_read_ahead_is_not_lost() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = frames(b"whole")
        driver = Driver(ours)
        driver._read_buffer = stream[:20]
        got: list[Delivery] = []
        reader = FrameReader(driver, CHANNEL, got.append, keep=100, patience=1.0)
        theirs.sendall(stream[20:])
        assert reader.read(1.0)
        assert [each.body for each in got] == [b"whole"]


def test_a_text_encoding_named_by_the_sender_is_not_applied(wire: Wire) -> None:
    wire.feed(frames(b"\xff\xfe{\x00", properties={**STANDARD, "content_encoding": "utf-16"}))
    assert wire.deliveries[0].body == b"\xff\xfe{\x00"


def test_a_bomb_stays_as_small_as_it_came(wire: Wire) -> None:
    bomb = gzip.compress(b"\0" * (10 << 20))
    wire.feed(frames(bomb, properties={**STANDARD, "application_headers": {"compression": "application/x-gzip"}}))
    assert wire.deliveries[0].body == bomb


def test_of_a_body_beyond_all_measure_only_the_size_is_kept() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(ours, theirs, keep=2000)
        wire.feed(frames(b"x" * 5000, 1) + frames(b"{}", 2))
    assert [(each.body, each.size) for each in wire.deliveries] == [(b"", 5000), (b"{}", 2)]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (b"\x01aT" + b"\xff" * 8, "a time beyond Python's"),
        (b"\x01a?" + b"\0" * 8, "a type nobody knows"),
        (b"\x01aS\x00\xff\xff\xff", "a text longer than its table"),
        (b"\x01aD\xff\x00\x00\x00\x01", "a decimal with a huge scale"),
        (b"\x01aF\x00\x00\x10\x00" * 3000, "tables in tables"),
    ],
)
def test_properties_that_cannot_be_read_spoil_one_delivery_only(wire: Wire, table: bytes, why: str) -> None:
    raw = pack(">H", 0x2000) + pack(">I", len(table)) + table
    wire.feed(frames(b"{}", 1, properties=raw) + frames(b"good", 2))
    assert isinstance(wire.deliveries[0].properties, dict), why
    assert not wire.deliveries[0].standard
    assert wire.deliveries[1].body == b"good"


@pytest.mark.parametrize(
    ("properties", "standard"),
    [
        (STANDARD, True),
        ({**STANDARD, "message_id": "x", "timestamp": 1, "user_id": "guest"}, True),
        ({**STANDARD, "application_headers": {"compression": "gzip"}}, False),
        ({**STANDARD, "application_headers": {"partitionkey": "contact/ab12", "x-delivery-count": 1}}, True),
        ({**STANDARD, "content_encoding": "gzip"}, False),
        ({**STANDARD, "content_type": "application/x-python-serialize"}, False),
        ({**STANDARD, "content_type": None}, False),
        ({}, False),
    ],
)
def test_only_properties_that_need_no_second_look_are_standard(
    wire: Wire, properties: dict[str, Any], standard: bool
) -> None:
    wire.feed(frames(b"{}", properties=properties))
    assert wire.deliveries[0].standard is standard


def test_a_stream_out_of_step_is_an_error_and_not_a_guess(wire: Wire) -> None:
    with pytest.raises(UnexpectedFrame):
        wire.feed(pack(">BHI", 1, CHANNEL, 3) + b"abc" + b"X" + b"\0" * 20)
    with pytest.raises(UnexpectedFrame):
        wire.feed(pack(">BHI", 1, CHANNEL, 1 << 30) + b"\0" * 20)


def test_a_closed_connection_is_an_error(wire: Wire) -> None:
    wire.theirs.close()
    with pytest.raises(ConnectionResetError):
        wire.reader.read(1.0)


def test_waits_of_the_driver_are_bounded() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        driver = Driver(ours)
        FrameReader(driver, CHANNEL, lambda _: None, keep=1, patience=0.05)
        with pytest.raises(TimeoutError):
            driver.blocking_read()  # type: ignore[attr-defined]


def test_time_in_headers_is_read(wire: Wire) -> None:
    """A plain look at a table that is as it should be."""
    moment = datetime(2026, 11, 23, 8, tzinfo=UTC)
    wire.feed(frames(b"{}", properties={**STANDARD, "application_headers": {"when": moment}}))
    assert wire.deliveries[0].headers["when"] == moment.replace(tzinfo=None)
