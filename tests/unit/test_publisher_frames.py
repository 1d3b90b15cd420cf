"""The bytes of a publication are those that py-amqp writes, and what arrives is cut into the frames that were sent."""

from __future__ import annotations

from struct import pack
from types import SimpleNamespace
from typing import Any

import amqp
import orjson
import pytest
from amqp import spec
from amqp.exceptions import FrameError, UnexpectedFrame
from amqp.method_framing import frame_writer
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from eventbus.events.envelope import Message
from eventbus.publishers.frames import FrameReader, FrameWriter
from eventbus.publishers.headers import partition, partition_table

SHORT = st.text(max_size=60)


def by_py_amqp(message: Message, *, frame_max: int, channel: int, exchange: str, **properties: Any) -> bytes:
    """What py-amqp puts on the wire for the message, `mandatory`."""
    written: list[bytes] = []
    transport = SimpleNamespace(write=lambda data: written.append(bytes(data)))
    write = frame_writer(SimpleNamespace(frame_max=frame_max, bytes_sent=0), transport)
    content = amqp.Message(message.body, **properties)
    arguments = dumps("Bssbb", (0, exchange, message.routing_key, True, False))
    write(1, channel, spec.Basic.Publish, arguments, content)
    return b"".join(written)


@given(
    key=SHORT,
    message_id=SHORT,
    correlation_id=SHORT,
    body=st.binary(max_size=40_000) | st.binary(max_size=40_000).map(lambda body: b"[" + body),
    exchange=SHORT,
    service=SHORT,
    user=st.none() | SHORT,
    headers=st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=40), max_size=3),
    timestamp=st.integers(0, 2**40),
    channel=st.integers(1, 2047),
    frame_max=st.sampled_from([8192, 131_072]),
)
def test_the_frames_are_those_of_py_amqp(
    key: str,
    message_id: str,
    correlation_id: str,
    body: bytes,
    exchange: str,
    service: str,
    user: str | None,
    headers: dict[str, str],
    timestamp: int,
    channel: int,
    frame_max: int,
) -> None:
    message = Message(key, message_id, body, correlation_id)
    ours = FrameWriter(
        channel=channel,
        frame_max=frame_max,
        exchange=exchange,
        app_id=service,
        user_id=user,
        headers=lambda _: headers,
    )
    theirs = by_py_amqp(
        message,
        frame_max=frame_max,
        channel=channel,
        exchange=exchange,
        content_type=message.content_type,
        content_encoding="utf-8",
        application_headers=headers,
        delivery_mode=2,
        correlation_id=correlation_id,
        message_id=message_id,
        timestamp=timestamp,
        type=key,
        app_id=service,
        user_id=user,
    )
    assert ours.publication(message, timestamp) == theirs
    assert ours.publication(message, timestamp) == theirs, "from the prepared key"


def test_a_body_larger_than_a_frame_is_split() -> None:
    writer = FrameWriter(channel=1, frame_max=1008, exchange="x", app_id="crm")
    data = writer.publication(Message("a.b.created", "1", b"z" * 2500, "t"), 0)
    assert [data.count(b"\x03\x00\x01\x00\x00" + size.to_bytes(2)) for size in (1000, 500)] == [2, 1]


@pytest.mark.parametrize("field", ["routing_key", "id", "correlation_id"])
def test_what_amqp_cannot_carry_is_a_value_error_that_says_so(field: str) -> None:
    writer = FrameWriter(channel=1, frame_max=8192, exchange="x", app_id="crm")
    message = Message("a.b.created", "1", b"{}", "t")._replace(**{field: "é" * 128})
    with pytest.raises(ValueError, match="has 256 bytes, AMQP allows 255"):
        writer.publication(message, 0)


def test_prepared_routing_keys_do_not_grow_without_end() -> None:
    writer = FrameWriter(channel=1, frame_max=8192, exchange="x", app_id="crm")
    for number in range(10_000):
        writer.publication(Message(f"a.b{number}.created", "1", b"{}", "t"), 0)
    assert len(writer._keys) <= 4096


@given(payloads=st.lists(st.binary(max_size=300), max_size=8), data=st.data())
def test_frames_are_whole_however_the_network_cuts_them(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pack(">BHI", 1, 7, len(payload)) + payload + b"\xce" for payload in payloads)
    reader, found, at = FrameReader(4096), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        found += list(reader.feed(stream[at : at + size]))
        at += size
    assert found == [(1, 7, payload) for payload in payloads]


@pytest.mark.parametrize(
    ("stream", "error"),
    [(b"HTTP/1.1 400 Bad Request\r\n", FrameError), (pack(">BHI", 1, 0, 1) + b"xy", UnexpectedFrame)],
)
def test_what_is_not_amqp_is_an_error_before_anything_is_waited_for(stream: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        list(FrameReader(131_072).feed(stream))


@given(st.text(max_size=300), st.text(max_size=5))
def test_the_table_that_is_cut_out_of_a_body_is_that_of_its_headers(key: str, other: str) -> None:
    body = orjson.dumps({"id": other, "partitionkey": key, "data": {"partitionkey": "another"}})
    table = partition_table(body)
    if table is not None:
        assert table == dumps("F", ({name: value.encode() for name, value in partition(body).items()},))
    else:
        assert len(key.encode()) > 255 or orjson.dumps(key)[1:-1] != key.encode(), "it could have been"


@pytest.mark.parametrize("body", [b"{}", b'{"partitionkey":7}', b'{"partitionkey":"', b'{"partitionkey":"a\\"b"}'])
def test_what_is_no_plain_text_is_not_cut_out(body: bytes) -> None:
    assert partition_table(body) is None


def test_an_escaped_or_long_partition_key_takes_the_other_way_to_the_same_frames() -> None:
    plain = FrameWriter(channel=1, frame_max=8192, exchange="e", app_id="crm", headers=partition)
    other = FrameWriter(
        channel=1, frame_max=8192, exchange="e", app_id="crm", headers=lambda body: dict(partition(body))
    )
    for key in ("contact/1", "", 'quoted "x"', "\n", "k" * 256, "\u00e9" * 255):
        message = Message("crm.contact.created", "t-1", orjson.dumps({"partitionkey": key}), "t")
        assert plain.publication(message, 1) == other.publication(message, 1)
