"""The frames of `basic.publish`, written by hand, and what comes back cut into frames.

py-amqp takes some 50 to 100 µs of Python for a publication, most of the cost of sending an event, and keeps the GIL
from the threads of the service meanwhile. Our messages look alike, so nearly all of their frames is prepared once and
the rest joined to it, in about 1 µs. The bytes are those that py-amqp would write; a test holds the two side by side.
It also asks the kernel three times for each frame that arrives; here everything that has arrived is taken at once.

Layout: AMQP 0-9-1 specification, sections 2.3.5 (frames), 4.2.6 (content) and 1.8.3.3 (basic.publish).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from struct import Struct
from typing import Final, final

from amqp.exceptions import FrameError, UnexpectedFrame

from eventbus.events import batch
from eventbus.events.envelope import CONTENT_TYPE, Message
from eventbus.publishers.headers import partition, partition_table

METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH = 60, 40
_MANDATORY = 0b01
_PERSISTENT = b"\x02"

_FRAME: Final = Struct(">BHI")
_PUBLISH_ARGUMENTS: Final = Struct(">HHH")
_CONTENT: Final = Struct(">BHIHHQH")
"""The frame of the header, and what it begins with."""
_TIMESTAMP: Final = Struct(">Q")
_LONG: Final = Struct(">I")

# One bit a property, from the highest down, in the order the properties are then written in.
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE, _CORRELATION_ID = 0x8000, 0x4000, 0x2000, 0x1000, 0x0400
_MESSAGE_ID, _TIME, _TYPE, _USER_ID, _APP_ID = 0x0080, 0x0040, 0x0020, 0x0010, 0x0008
_FLAGS: Final = (
    _CONTENT_TYPE
    | _CONTENT_ENCODING
    | _HEADERS
    | _DELIVERY_MODE
    | _CORRELATION_ID
    | _MESSAGE_ID
    | _TIME
    | _TYPE
    | _APP_ID
)

_LENGTHS: Final = [bytes((length,)) for length in range(256)]
_MAX_KEYS = 4096
"""Prepared routing keys; a service has three an entity, so this is never reached unless someone makes keys up."""


@final
class FrameWriter:
    """Turns messages into the bytes of mandatory, persistent publications to one exchange on one channel.

    `frame_max` is the negotiated size of a frame, its 8 bytes of overhead included; longer bodies are split. `headers`
    makes the headers of a message from its body.
    """

    def __init__(
        self,
        *,
        channel: int,
        frame_max: int,
        exchange: str,
        app_id: str,
        user_id: str | None = None,
        headers: Callable[[bytes], Mapping[str, str]] = lambda _: {},
    ) -> None:
        self._channel = channel
        self._chunk = frame_max - 8
        self._exchange = exchange
        self._flags = _FLAGS | (_USER_ID if user_id is not None else 0)
        self._headers = headers
        self._plain = headers is partition
        self._head = _short(CONTENT_TYPE) + _short("utf-8")
        self._batch_head = _short(batch.CONTENT_TYPE) + _short("utf-8")
        self._tail = (_short(user_id) if user_id is not None else b"") + _short(app_id)
        self._keys: dict[str, tuple[bytes, bytes, int]] = {}
        self._correlation = ("", _PERSISTENT + _LENGTHS[0])
        self._time = (-1, b"")

    def publication(self, message: Message, timestamp: int) -> bytes:
        """The frames of one message; `timestamp` is in seconds since 1970.

        Raises ValueError where AMQP cannot carry it: a key or id of more than 255 bytes, headers longer than a frame.
        """
        key, event_id, body, correlation_id = message
        method, end, fixed = self._keys.get(key) or self._prepare(key)
        table = (partition_table(body) if self._plain else None) or _table(self._headers(body))
        # Of neighbours these are mostly the same.
        if self._correlation[0] != correlation_id:
            self._correlation = (correlation_id, _PERSISTENT + _short(correlation_id))
        if self._time[0] != timestamp:
            self._time = (timestamp, _TIMESTAMP.pack(timestamp))
        name = event_id.encode("utf-8", "surrogatepass")
        if len(name) > 255:
            raise _too_long(event_id, name)
        correlation, size = self._correlation[1], len(body)
        head = self._batch_head if batch.is_batch(body) else self._head
        header = fixed + len(head) + len(table) + len(correlation) + len(name)
        if header > self._chunk:
            raise ValueError(f"its headers have {header} bytes, a frame holds {self._chunk}")
        return b"".join(
            (
                method,
                _CONTENT.pack(_HEADER, self._channel, header, _BASIC, 0, size, self._flags),
                head,
                table,
                correlation,
                _LENGTHS[len(name)],
                name,
                self._time[1],
                end,
                *(
                    (_FRAME.pack(_BODY, self._channel, size), body, _END)
                    if 0 < size <= self._chunk
                    else self._body(body)
                ),
            )
        )

    def _prepare(self, key: str) -> tuple[bytes, bytes, int]:
        """The first frame of messages with that key, the end of the second, its size without what varies."""
        arguments = b"".join(
            (_PUBLISH_ARGUMENTS.pack(_BASIC, _PUBLISH, 0), _short(self._exchange), _short(key), bytes((_MANDATORY,)))
        )
        if len(self._keys) >= _MAX_KEYS:
            self._keys.clear()
        end = _short(key) + self._tail + _END
        fixed = _CONTENT.size - _FRAME.size + len(_LENGTHS[0]) + _TIMESTAMP.size + len(end) - len(_END)
        prepared = self._keys[key] = (self._frame(METHOD, arguments), end, fixed)
        return prepared

    def _body(self, body: bytes) -> list[bytes]:
        """The frames of one that does not fit into one, or has none."""
        return [self._frame(_BODY, body[at : at + self._chunk]) for at in range(0, len(body), self._chunk)]

    def _frame(self, kind: int, payload: bytes) -> bytes:
        return _FRAME.pack(kind, self._channel, len(payload)) + payload + _END


Frame = tuple[int, int, bytes]
"""Kind, channel, payload."""


@final
class FrameReader:
    """Cuts what arrives into frames, however the network has cut it."""

    def __init__(self, frame_max: int) -> None:
        self._frame_max = frame_max
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with this data. To be used up before the next call.

        Raises UnexpectedFrame or FrameError for what is not AMQP, or larger than was agreed.
        """
        buffer, at = self._buffer + data if self._buffer else data, 0
        self._buffer = b""
        while len(buffer) - at >= _FRAME.size:
            kind, channel, size = _FRAME.unpack_from(buffer, at)
            if size + 8 > self._frame_max:
                raise FrameError(f"a frame of {size} bytes, agreed were {self._frame_max}")
            end = at + _FRAME.size + size
            if end >= len(buffer):
                break
            if buffer[end] != _END[0]:
                raise UnexpectedFrame(f"a frame ends with {buffer[end]:#04x} instead of 0xce")
            yield kind, channel, buffer[at + _FRAME.size : end]
            at = end + 1
        self._buffer = buffer[at:]


def _short(text: str) -> bytes:
    """A short string: one byte of length, then UTF-8."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > 255:
        raise _too_long(text, data)
    return _LENGTHS[len(data)] + data


def _too_long(text: str, data: bytes) -> ValueError:
    return ValueError(f"{text[:40]!r}… has {len(data)} bytes, AMQP allows 255")


def _table(fields: Mapping[str, str]) -> bytes:
    """A table of long strings."""
    written = [b"".join((_short(name), b"S", _long(value))) for name, value in fields.items()]
    return _LONG.pack(sum(map(len, written))) + b"".join(written)


def _long(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return _LONG.pack(len(data)) + data
