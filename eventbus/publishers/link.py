"""One connection to an AMQP broker, as a publisher needs it: opened, written to, listened to, thrown away.

Everything here is bounded in time. A black-holed network, a broker that accepts and says nothing, or one that stops
reading ends in an exception of the driver; a link is never used again after one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from ssl import SSLSocket, SSLWantReadError, SSLWantWriteError
from struct import Struct, pack
from struct import error as StructError  # noqa: N812
from typing import Any, Final, final

import amqp
import kombu
from amqp import spec
from amqp.exceptions import (
    AccessRefused,
    AMQPError,
    ChannelError,
    NotFound,
    RecoverableConnectionError,
    UnexpectedFrame,
    error_for_code,
)
from amqp.serialization import loads
from kombu.exceptions import OperationalError

from eventbus import transports
from eventbus.publishers.flight import Flight
from eventbus.publishers.frames import METHOD, Frame, FrameReader, FrameWriter

LOST: Final = (AMQPError, OperationalError, OSError)
"""What is raised where the peer is gone, silent or no AMQP broker."""
_PARSING: Final = (StructError, AttributeError, LookupError, TypeError, ValueError)
"""What py-amqp's parser raises where the peer is no AMQP broker. From elsewhere these are errors of a program."""
_ANY: Final = (*LOST, *_PARSING)

_SEND: Final = 64 << 10
_RECEIVE: Final = 64 << 10
_NOT_NOW: Final = (BlockingIOError, SSLWantReadError, SSLWantWriteError)

_CLOSES: Final = {
    pack(">HH", *spec.Channel.Close): ChannelError,
    pack(">HH", *spec.Connection.Close): amqp.ConnectionError,
}
_ACK: Final = pack(">HH", *spec.Basic.Ack)
_NACK: Final = pack(">HH", *spec.Basic.Nack)
_CONFIRM: Final = Struct(">QB")

_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)  # no descriptor of its own to leak in a fork

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each kind of wait may last, in seconds.

    `connect` is for one address of the broker's name (resolving the name has the resolver's own limit), `write` for
    pushing some 64 KiB into the socket, `confirm` for the broker's silence while it owes confirms or blocks publishers,
    `close` for the farewell. Where nothing is heard for two intervals of `heartbeat` the connection is given up;
    RabbitMQ offers 60 and warns against less than 5.
    """

    connect: float = 5.0
    write: float = 10.0
    confirm: float = 30.0
    close: float = 2.0
    heartbeat: float = 30.0


DEFAULT_TIMEOUTS: Final = Timeouts()


@dataclass(frozen=True, slots=True)
class Sender:
    """Who publishes, and where to.

    `send_user` puts the login into each message; `headers` makes a message's headers from its body.
    """

    exchange: str
    service: str
    send_user: bool = False
    headers: Callable[[bytes], Mapping[str, str]] = lambda _: {}


@final
class Link:
    """An open connection with one channel in confirm mode and the exchange declared.

    `flight` is told what the broker says of publications. `published` counts them, and is the delivery tag of the last
    one. `proven` tells whether the broker has ever confirmed one, `blocked` whether it asked publishers to stop.
    """

    def __init__(self, url: str, sender: Sender, timeouts: Timeouts, *, insecure_tls: bool = False) -> None:
        self.flight: Flight | None = None
        self.published = 0
        self.proven = False
        self.blocked = False
        self._timeouts = timeouts
        client = self._client(url, sender.service, insecure_tls)
        with _understood():
            # Not `connect()`: that tries again after two seconds. When to try again is the owner's to decide.
            self._connection = client.transport.establish_connection()
        try:
            with _understood():
                channel = self._prepare(sender.exchange)
        except BaseException:
            self.drop()
            raise
        self._reading, self._writing = _selector(self._sock, writing=False), _selector(self._sock, writing=True)
        self._incoming = FrameReader(self._connection.frame_max)
        self._sock.settimeout(0)  # from here on it is we who wait, with an eye on both directions
        self.frames = FrameWriter(
            channel=channel.channel_id,
            frame_max=self._connection.frame_max,
            exchange=sender.exchange,
            app_id=sender.service,
            user_id=client.userid if sender.send_user else None,
            headers=sender.headers,
        )

    def _client(self, url: str, service: str, insecure_tls: bool) -> kombu.Connection:
        limits = self._timeouts
        return transports.connection(
            url,
            insecure_tls=insecure_tls,
            connect_timeout=limits.connect,
            heartbeat=limits.heartbeat,
            transport_options={
                "write_timeout": limits.write,
                "socket_settings": _socket_settings(limits.write),
                "client_properties": _client_properties(service),
                "on_blocked": self._on_blocked,
                "on_unblocked": self._on_unblocked,
            },
        )

    def _prepare(self, exchange: str) -> Any:
        """The channel to publish on."""
        self._sock: socket.socket = self._connection.sock
        self._sock.settimeout(self._timeouts.write)  # py-amqp would wait for ever
        _declare(self._connection, exchange)
        channel = self._connection.channel()
        channel.auto_decode = False
        channel.confirm_select()
        channel.events["basic_return"].add(self._on_return)
        return channel

    def write(self, data: bytes) -> None:
        """Push the bytes out within `Timeouts.write`.

        Listens meanwhile: a broker that cannot get rid of what it has to say may stop reading.
        """
        rest, deadline = memoryview(data), time.monotonic() + self._timeouts.write
        while rest := rest[self._send(rest) :]:
            events = self._writing.select(deadline - time.monotonic())
            if not events:
                raise RecoverableConnectionError(f"the broker read nothing for {self._timeouts.write:g} s")
            if events[0][1] & selectors.EVENT_READ:
                self.read()
        self._connection.bytes_sent += 1  # tells `heartbeat_tick` that something was sent

    def read(self, timeout: float = 0) -> bool:
        """Take in all that arrived; if nothing did, wait `timeout` seconds for it. Whether there was any."""
        data = self._receive()
        if not data and timeout > 0 and self._reading.select(timeout):
            data = self._receive()
        heard = bool(data)
        while data:
            for frame in self._incoming.feed(data):
                try:
                    self._take(frame)
                except _PARSING as error:
                    raise _misunderstood(error) from error
            data = self._receive() if len(data) == _RECEIVE or self._held_back() else b""
        return heard

    def beat(self) -> None:
        """Send a heartbeat if one is due; raises where the broker has been silent for two intervals."""
        self._sock.settimeout(self._timeouts.write)
        self._connection.heartbeat_tick()
        self._sock.settimeout(0)

    def close(self) -> None:
        """Take leave of the broker, within `Timeouts.close` a step."""
        if not self.blocked:  # a broker that blocks publishers reads nothing, not even this
            with contextlib.suppress(*_ANY):
                self._sock.settimeout(self._timeouts.close)
                self._connection.close()
        self.drop()

    def drop(self) -> None:
        """Close the socket without a word and without waiting."""
        with contextlib.suppress(*_ANY):
            self._sock.settimeout(0)
        with contextlib.suppress(*_ANY):
            self._connection.collect()

    def abandon(self) -> None:
        """Close this process's copy of the socket; the connection lives on in the parent."""
        with contextlib.suppress(*_ANY):
            os.close(self._sock.detach())

    def _send(self, data: memoryview) -> int:
        try:
            return self._sock.send(data[:_SEND])
        except _NOT_NOW:
            return 0

    def _receive(self) -> bytes:
        """What is there; nothing if nothing is. Raises ConnectionResetError where the broker has hung up."""
        try:
            data = self._sock.recv(_RECEIVE)
        except _NOT_NOW:
            return b""
        if not data:
            raise ConnectionResetError("the broker closed the connection")
        return data

    def _held_back(self) -> bool:
        """Whether the TLS layer has read more than it has given us."""
        return isinstance(self._sock, SSLSocket) and self._sock.pending() > 0

    def _take(self, frame: Frame) -> None:
        """Confirms are ours, thousands a second; the rest is py-amqp's."""
        kind, _, payload = frame
        method = payload[:4] if kind == METHOD else b""
        if method in (_ACK, _NACK):
            self._connection.bytes_recv += 1
            tag, flags = _CONFIRM.unpack_from(payload, 4)
            self._confirm(tag, multiple=bool(flags & 1), accepted=method == _ACK)
        elif method in _CLOSES:
            # py-amqp would answer into the middle of what we are writing, open the channel again and wait.
            (code, text, *place), _ = loads("BsBB", payload, 4)
            raise error_for_code(code, text, tuple(place), _CLOSES[method])
        else:
            self._connection.on_inbound_frame(frame)

    def _confirm(self, tag: int, *, multiple: bool, accepted: bool) -> None:
        self.proven = True
        if self.flight is not None:
            self.flight.settle(tag, multiple, accepted=accepted)

    def _on_return(self, _error: object, _exchange: str, _key: str, message: amqp.Message) -> None:
        if self.flight is not None:
            self.flight.unroutable(message.properties.get("message_id", ""))

    def _on_blocked(self, reason: str) -> None:
        self.blocked = True
        logger.warning("the broker blocks publishers: %s", reason)

    def _on_unblocked(self) -> None:
        self.blocked = False
        logger.info("the broker takes messages again")


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except _PARSING as error:
        raise _misunderstood(error) from error


def _misunderstood(error: Exception) -> AMQPError:
    return UnexpectedFrame(f"the broker's answer is not understood: {type(error).__name__}: {error}")


def _declare(connection: Any, exchange: str) -> None:
    """Make sure that the exchange is there. A login that may only write finds one that somebody else declared."""
    options = {"exchange": exchange, "type": "topic", "durable": True, "auto_delete": False}
    try:
        channel = connection.channel()
        channel.exchange_declare(**options)
    except AccessRefused as refused:
        channel = connection.channel()
        try:
            channel.exchange_declare(**options, passive=True)
        except NotFound:
            raise refused from None  # what is to be done is permit it, or make the exchange
    channel.close()


def _selector(sock: socket.socket, *, writing: bool) -> selectors.BaseSelector:
    selector: selectors.BaseSelector = _Selector()
    selector.register(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0))
    return selector


def _socket_settings(write_timeout: float) -> dict[int, int]:
    """py-amqp gives up a connection whose peer takes nothing for one second; a busy broker does that."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    return {} if option is None else {option: round(write_timeout * 1000)}


def _client_properties(service: str) -> dict[str, str]:
    return {
        "product": "sqlalchemy-eventbus",
        "product_version": _version(),
        "platform": f"Python {platform.python_version()}",
        "connection_name": f"{service} publisher {socket.gethostname()}:{os.getpid()}",
        "service": service,
    }


def _version() -> str:
    try:
        return metadata.version("sqlalchemy-eventbus")
    except metadata.PackageNotFoundError:
        return "unknown"
