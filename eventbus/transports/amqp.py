"""kombu's AMQP transports, with messages that are never inflated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from kombu.transport import pyamqp

from eventbus.transports.raw import RawMessage

_SILENT: Final = "the broker did not answer within {:g} s: it hangs, or a queue lacks the majority of its nodes"


class Message(pyamqp.Message, RawMessage):
    """A message of a real broker, as it came."""


class Channel(pyamqp.Channel):
    """A channel that makes such messages, and waits for the answer to a question no longer than its socket may."""

    Message = Message

    def wait(self, *args: Any, **options: Any) -> Any:
        if self.connection is None:
            return super().wait(*args, **options)  # which says so
        with self.connection.answering():
            return super().wait(*args, **options)


class Connection(pyamqp.Connection):
    """Makes such channels, and leaves no socket behind when connecting fails, whatever the peer answered."""

    Channel = Channel
    _deadline: float | None = None

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Bound the whole wait for an answer by the timeout that the socket has.

        That one alone bounds each read: a broker that hangs over one question, as about a quorum queue without its
        majority, goes on sending heartbeats, and would be waited for as long as it does.
        """
        limit = self.transport.sock.gettimeout()
        if not limit or self._deadline is not None:
            yield
            return
        self._deadline = time.monotonic() + limit
        try:
            yield
        except TimeoutError as error:
            raise TimeoutError(_SILENT.format(limit)) from error
        finally:
            self._deadline = None

    def wait(self, *args: Any, **options: Any) -> Any:
        with self.answering():
            return super().wait(*args, **options)

    def allowed(self, timeout: float | None) -> float | None:
        """Of these seconds those that a read may take. Raises TimeoutError where the wait is over."""
        if self._deadline is None:
            return timeout
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left if timeout is None else min(timeout, left)

    def blocking_read(self, timeout: float | None = None) -> object:
        return super().blocking_read(self.allowed(timeout))

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
