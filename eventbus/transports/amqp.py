"""kombu's AMQP transports, with messages that are never inflated."""

from __future__ import annotations

from collections.abc import Callable

from kombu.transport import pyamqp

from eventbus.transports.raw import RawMessage


class Message(pyamqp.Message, RawMessage):
    """A message of a real broker, as it came."""


class Channel(pyamqp.Channel):
    """A channel that makes such messages."""

    Message = Message


class Connection(pyamqp.Connection):
    """Makes such channels, and leaves no socket behind when connecting fails, whatever the peer answered."""

    Channel = Channel

    def connect(self, callback: Callable[[], object] | None = None) -> object:
        try:
            return super().connect(callback)
        except BaseException:
            self.collect()
            raise


class Transport(pyamqp.Transport):
    """`amqp://`."""

    Connection = Connection


class TLSTransport(pyamqp.SSLTransport):
    """`amqps://`."""

    Connection = Connection
