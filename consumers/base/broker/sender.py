"""Sends letters so that none can be lost: each is confirmed by the broker, in a queue, before `send` returns."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, final

import amqp

from consumers.base.broker.line import Line, is_amqp
from consumers.base.errors import NoQueue, NotTaken, describe, talking
from consumers.base.reading.letter import Letter
from consumers.base.settings import ConsumerSettings

_AT_ONCE: Final = 100
"""Letters on their way before their confirms are awaited."""
_IDLE: Final = 10.0
"""Seconds after which an unused connection is closed: it sends no heartbeats."""


@final
class Sender:
    """A connection of its own for publishing, opened when needed.

    It is apart from the consumer's because a broker that is short of memory or disk stops reading from connections that
    publish, and acknowledgements must still get through.
    """

    def __init__(self, settings: ConsumerSettings) -> None:
        self._settings = settings
        self._exit: _Exit | None = None
        self._used = 0.0

    def send(self, letters: Sequence[Letter]) -> None:
        """Return once every letter is confirmed. Raises Lost where one may not be; all may then be sent again.

        What is raised is NoQueue where the broker is there and the queue is not, NotTaken where the queue refuses.
        """
        try:
            if self._exit is None:
                self._exit = _AmqpExit(self._settings) if is_amqp(self._settings.url) else _VirtualExit(self._settings)
            with talking():
                self._send_all(self._exit, letters)
        except BaseException:
            # After an error nobody knows which confirm belongs to what.
            self.close()
            raise
        self._used = time.monotonic()

    def _send_all(self, way_out: _Exit, letters: Sequence[Letter]) -> None:
        try:
            for first in range(0, len(letters), _AT_ONCE):
                way_out.send(letters[first : first + _AT_ONCE])
        except amqp.exceptions.NotFound as error:  # no such exchange
            raise NoQueue(describe(error)) from error

    def tick(self) -> None:
        """Hang up if nothing was sent for a while."""
        if self._exit is not None and time.monotonic() - self._used > _IDLE:
            self.close()

    def close(self) -> None:
        """Hang up. Never raises; safe to call twice."""
        way_out, self._exit = self._exit, None
        if way_out is not None:
            way_out.close()


class _Exit(ABC):
    """An open connection that letters leave by."""

    @abstractmethod
    def send(self, letters: Sequence[Letter]) -> None:
        """Publish and wait for the confirms."""

    @abstractmethod
    def close(self) -> None:
        """Hang up. Never raises."""


@final
class _AmqpExit(_Exit):
    """Publishes mandatory and in confirm mode; the confirms of a whole group are awaited together."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._patience = settings.patience
        self._line = Line(settings)
        self._connection = self._line.driver
        try:
            with talking():
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        # A broker that stops reading, or answering, ends in an error and not in a wait.
        self._connection.sock.settimeout(self._patience)
        self._channel = self._line.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)
        self._published = self._confirmed = 0
        self._missing: set[int] = set()

    def send(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            message = amqp.Message(letter.body, **letter.properties)
            self._published += 1
            self._missing.add(self._published)
            self._channel.basic_publish(
                message, exchange=letter.exchange, routing_key=letter.routing_key, mandatory=True
            )
        deadline = time.monotonic() + self._patience
        while self._missing:
            self._connection.drain_events(timeout=max(0.01, deadline - time.monotonic()))

    def _on_ack(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._missing = {missing for missing in self._missing if missing > tag}
        else:
            self._missing.discard(tag)

    def _on_nack(self, *_which: object) -> None:
        raise NotTaken("the broker refused a letter: its queue is full or without a leader")

    def _on_return(self, _error: Exception, exchange: str, routing_key: str, _message: object) -> None:
        raise _no_queue(exchange, routing_key)

    def close(self) -> None:
        self._line.drop()


@final
class _VirtualExit(_Exit):
    """Publishes through a virtual transport: each call has taken effect when it returns."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._line = Line(settings)
        with talking():
            self._channel = self._line.channel()

    def send(self, letters: Sequence[Letter]) -> None:
        if hasattr(self._channel, "publish_batch"):
            self._send_together(letters)
            return
        for letter in letters:
            self._channel.basic_publish(
                self._message(letter), exchange=letter.exchange, routing_key=letter.routing_key, mandatory=True
            )

    def _send_together(self, letters: Sequence[Letter]) -> None:
        """The embedded broker takes many in one transaction."""
        for exchange, group in groupby(letters, key=attrgetter("exchange")):
            items = [(letter.routing_key, letter.body, letter.properties) for letter in group]
            routed = self._channel.publish_batch(exchange, items)
            if not all(routed):
                raise _no_queue(exchange, items[routed.index(False)][0])

    def _message(self, letter: Letter) -> object:
        properties = dict(letter.properties)
        return self._channel.prepare_message(
            letter.body,
            content_type=properties.pop("content_type", None),
            content_encoding=properties.pop("content_encoding", None),
            headers=properties.pop("application_headers", None),
            priority=properties.pop("priority", None),
            properties=properties,
        )

    def close(self) -> None:
        self._line.drop()


def _no_queue(exchange: str, routing_key: str) -> NoQueue:
    if not exchange:  # then the routing key is the queue's name
        return NoQueue(f"there is no queue {routing_key}: start its consumer once")
    return NoQueue(f"no queue takes letters to {routing_key!r} through exchange {exchange!r}")
