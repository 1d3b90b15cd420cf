"""What kombu asks of a transport, answered by the embedded broker's connection."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import amqp
from amqp.exceptions import InvalidPath
from kombu.transport import base

from eventbus.transports.sqlite.channel import Channel
from eventbus.transports.sqlite.connection import Connection


class Transport(base.Transport):
    """`sqlite:///relative/path` (to the working directory) and `sqlite:////absolute/path`."""

    driver_type = "sqlite"
    driver_name = "sqlite3"
    implements = base.Transport.implements.extend(
        asynchronous=False, exchange_type=frozenset({"direct", "fanout", "topic"}), heartbeats=False
    )
    connection_errors = amqp.Connection.connection_errors
    channel_errors = amqp.Connection.channel_errors
    recoverable_connection_errors = amqp.Connection.recoverable_connection_errors
    recoverable_channel_errors = amqp.Connection.recoverable_channel_errors

    def __init__(self, client: Any, **_options: Any) -> None:
        self.client: Any = client

    def driver_version(self) -> str:
        return sqlite3.sqlite_version

    def establish_connection(self) -> Connection:
        path = self.client.virtual_host
        if path == "/":  # kombu's default where the URL has no path
            raise InvalidPath("the broker URL names no file: sqlite:///broker.sqlite3")
        return Connection(self.client, Path(os.path.realpath(path)))

    def close_connection(self, connection: Connection) -> None:
        connection.close()

    def create_channel(self, connection: Connection) -> Channel:
        return connection.channel()

    def close_channel(self, channel: Channel) -> None:
        channel.close()

    def drain_events(self, connection: Connection, timeout: float | None = None, **_options: object) -> None:
        connection.drain_events(timeout)

    def verify_connection(self, connection: Connection) -> bool:
        return connection.connected
