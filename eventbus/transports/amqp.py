"""kombu's AMQP transports, with messages that are never inflated."""

from __future__ import annotations

from kombu.transport import pyamqp

from eventbus.transports.raw import RawMessage


class Message(pyamqp.Message, RawMessage):
    """A message of a real broker, as it came."""


class Channel(pyamqp.Channel):
    """A channel that makes such messages."""

    Message = Message


class Connection(pyamqp.Connection):
    """A connection that makes such channels."""

    Channel = Channel


class Transport(pyamqp.Transport):
    """`amqp://`."""

    Connection = Connection


class TLSTransport(pyamqp.SSLTransport):
    """`amqps://`."""

    Connection = Connection
