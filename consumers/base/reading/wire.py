"""Deliveries read straight from the broker's bytes.

py-amqp reads a delivery as three frames, with some 20 Python calls and three or more system calls, and decodes all of
its properties; here it is one pass over what one system call brought, and properties are decoded only where somebody
looks. It also keeps hostile messages from doing harm before our own code has seen them: nothing is decompressed, no
text encoding the sender names is applied, a header table that cannot be read spoils one delivery instead of the
connection, and of a body larger than anything acceptable only the size is kept.

Everything else the broker says still goes through py-amqp, whose own waiting reads through here as well.
Layout: AMQP 0-9-1 specification, sections 2.3.5 (frames), 4.2.6 (content) and 1.8.3.9 (basic.deliver).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import Any, Final, final

from amqp.exceptions import UnexpectedFrame
from amqp.serialization import decode_properties_basic

from consumers.base.reading.delivery import Delivery, Properties
from eventbus.events.envelope import CONTENT_TYPE

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, 0xCE
_DELIVER: Final = b"\x00\x3c\x00\x3c"
_FRAME: Final = Struct(">BHI")
_TAG: Final = Struct(">QB")
_CONTENT: Final = Struct(">HHQ")
_RECEIVE = 256 << 10

_STANDARD: Final = bytes((len(CONTENT_TYPE),)) + CONTENT_TYPE.encode() + b"\x05utf-8"
"""How the properties of an event begin, after their flags: content type, content encoding."""
_CONTENT_FLAGS: Final = 0xC0
"""The highest two of the flags stand for content type and content encoding."""
_COMPRESSION: Final = b"compression"

_NO_METHOD: Final = (0, False, "", "")
_NOTHING_YET = (BlockingIOError, InterruptedError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@final
class FrameReader:
    """Reads all that comes in on one connection; the deliveries of one channel go to `on_delivery`, in their order.

    `keep` is the size in bytes up to which a body is kept; of a larger one the delivery tells only the size.
    `patience` bounds each wait of py-amqp for an answer, and each write, in seconds: a TimeoutError follows.
    """

    def __init__(
        self, connection: Any, channel: int, on_delivery: Callable[[Delivery], None], *, keep: int, patience: float
    ) -> None:
        self._connection = connection
        self._socket = connection.sock
        self._channel = channel
        self._on_delivery = on_delivery
        self._keep = keep
        self._patience = patience
        self._largest_frame = connection.frame_max
        # What py-amqp has read ahead while it shook hands.
        self._data: bytes = connection.transport._read_buffer
        self._at = 0
        self._method: tuple[int, bool, str, str] | None = None
        self._missing = self._size = 0
        self._properties = b""
        self._chunks: list[bytes] = []
        self._socket.settimeout(patience)
        connection.blocking_read = self._blocking_read

    def read(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for bytes and take in every whole frame; False where nothing came.

        Raises ConnectionError where the broker has gone, and what py-amqp makes of the broker's words (channel closed,
        consumer cancelled, …).
        """
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(_RECEIVE)
        except _NOTHING_YET:
            return False
        finally:
            self._socket.settimeout(self._patience)
        if not data:
            raise ConnectionResetError("the broker closed the connection")
        self._connection.bytes_recv += 1
        self._data = self._data[self._at :] + data
        self._at = 0
        self._take_in()
        return True

    def _blocking_read(self, timeout: float | None = None) -> bool:
        """What py-amqp calls while it waits for an answer."""
        allowed = self._connection.allowed(timeout)
        if not self.read(self._patience if allowed is None else allowed):
            raise TimeoutError("the broker did not answer in time")
        return True

    def _take_in(self) -> None:
        data, at = self._data, self._at
        while len(data) - at >= 8:
            kind, channel, size = _FRAME.unpack_from(data, at)
            start = at + 7
            end = start + size
            if size > self._largest_frame:
                raise UnexpectedFrame(f"a frame of {size} bytes, {self._largest_frame} were agreed on")
            if end >= len(data):
                break
            if data[end] != _END:
                raise UnexpectedFrame("a frame does not end where it should")
            at = end + 1
            if channel != self._channel or not self._delivery_frame(kind, data, start, end):
                # py-amqp may answer, and wait for the answer to that, in here: this method is entered again.
                self._at = at
                self._connection.on_inbound_frame((kind, channel, data[start:end]))
                data, at = self._data, self._at
        self._at = at

    def _delivery_frame(self, kind: int, data: bytes, start: int, end: int) -> bool:
        """Take one frame of a delivery; False where it belongs to something else."""
        if kind == _METHOD:
            if data[start : start + 4] != _DELIVER:
                return False
            self._read_method(data, start + 4)
        elif self._method is None:
            return False
        elif kind == _HEADER:
            self._size = self._missing = _CONTENT.unpack_from(data, start)[2]
            self._properties = data[start + 12 : end]
            if not self._missing:
                self._deliver(b"")
        elif kind == _BODY:
            self._read_body(data[start:end])
        else:
            return False
        return True

    def _read_method(self, data: bytes, at: int) -> None:
        at += data[at] + 1  # the consumer tag: a channel has one consumer
        tag, redelivered = _TAG.unpack_from(data, at)
        at += 9
        end = at + 1 + data[at]
        exchange = data[at + 1 : end].decode("utf-8", "replace")
        key = data[end + 1 : end + 1 + data[end]].decode("utf-8", "replace")
        self._method = (tag, bool(redelivered), key, exchange)

    def _read_body(self, chunk: bytes) -> None:
        self._missing -= len(chunk)
        if self._size <= self._keep:
            self._chunks.append(chunk)
        if self._missing <= 0:
            self._deliver(b"".join(self._chunks) if len(self._chunks) != 1 else chunk)

    def _deliver(self, body: bytes) -> None:
        (tag, redelivered, key, exchange), self._method = self._method or _NO_METHOD, None
        raw = self._properties
        standard = (
            raw.startswith(_STANDARD, 2) and raw[0] & _CONTENT_FLAGS == _CONTENT_FLAGS and _COMPRESSION not in raw
        )
        self._chunks = []
        properties = partial(_decode_properties, raw)
        self._on_delivery(
            Delivery(
                body,
                key,
                tag,
                redelivered,
                exchange=exchange,
                properties=properties,
                size=self._size,
                standard=standard,
            )
        )


def _decode_properties(raw: bytes) -> Properties:
    """All properties; `{"unreadable": …}` alone where they break the format or hold what Python has no place for."""
    try:
        properties: Properties = decode_properties_basic(raw, 0)[0]
    except Exception as error:  # noqa: BLE001  a hostile table raises nearly anything, RecursionError among it
        return {"unreadable": type(error).__name__}
    return properties
