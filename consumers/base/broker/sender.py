"""Sends letters so that none can be lost: each is confirmed by the broker, in a queue, before `send` returns."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, final

import amqp

from consumers.base.broker.line import Line, is_amqp
from consumers.base.errors import Blocked, NoQueue, NotTaken, Refused, describe, lacking, talking
from consumers.base.reading.letter import Letter
from consumers.base.settings import ConsumerSettings
from eventbus.events.naming import DEAD_LETTER_EXCHANGE

_AT_ONCE: Final = 100
"""Letters on their way before their confirms are awaited."""
_BYTES_AT_ONCE: Final = 256 << 10
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

        NoQueue is raised where the broker is there and the queue is not, NotTaken where the queue refuses or the broker
        blocks publishers, Refused where the login may not. What a blocking broker has got already is not sent a second
        time: the next call waits for it.
        """
        try:
            if self._exit is None:
                self._exit = _AmqpExit(self._settings) if is_amqp(self._settings.url) else _VirtualExit(self._settings)
            with talking():
                self._send_all(self._exit, letters)
        except Blocked:
            raise
        except BaseException:
            # After an error nobody knows which confirm belongs to what.
            self.close()
            raise
        self._used = time.monotonic()

    def _send_all(self, way_out: _Exit, letters: Sequence[Letter]) -> None:
        try:
            for group in _grouped(letters):
                way_out.send(group)
        except amqp.exceptions.NotFound as error:  # no such exchange
            raise NoQueue(describe(error)) from error
        except amqp.exceptions.AccessRefused as error:
            raise Refused(lacking(f"write on exchange {letters[0].exchange or 'amq.default'}", error)) from error

    def tick(self) -> None:
        """Hang up if nothing was sent for a while."""
        if self._exit is not None and self._exit.idle and time.monotonic() - self._used > _IDLE:
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

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Hang up. Never raises."""


_Key = tuple[str, str, bytes]
"""What a letter is known by while it is on its way: exchange, routing key, hash of its body."""
_NOWHERE: Final = "eventbus.nowhere"
"""A routing key that no queue is bound with."""
_EXACT: Final = ("", DEAD_LETTER_EXCHANGE)
"""Exchanges where such a key reaches nobody."""


@final
class _AmqpExit(_Exit):
    """Publishes mandatory and in confirm mode; the confirms of a whole group are awaited together.

    A broker that blocks publishers says so only once something was published, and takes in what it has got when it
    unblocks. So the first message is one that reaches no queue, and what is unconfirmed is not published again.
    """

    def __init__(self, settings: ConsumerSettings) -> None:
        self._patience = settings.patience
        self._line = Line(settings)
        self._connection = self._line.driver
        self._blocked = False
        self._published = 0
        self._on_their_way: dict[int, _Key | None] = {}
        self._arrived: Counter[_Key] = Counter()
        try:
            with talking():
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        # A broker that stops reading, or answering, ends in an error and not in a wait.
        self._connection.sock.settimeout(self._patience)
        self._connection.on_blocked = lambda _reason: self._block(True)
        self._connection.on_unblocked = lambda: self._block(False)
        self._channel = self._line.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)

    @property
    def idle(self) -> bool:
        return not self._on_their_way

    def _block(self, blocked: bool) -> None:
        self._blocked = blocked

    def send(self, letters: Sequence[Letter]) -> None:
        deadline = time.monotonic() + self._patience
        if not self._published and letters[0].exchange in _EXACT:
            self._publish(Letter(letters[0].exchange, _NOWHERE, b"", {}), None)
        self._await(deadline)
        # py-amqp reads confirms while it publishes: those of this call must not be taken for an earlier one's.
        unconfirmed, arrived = Counter(self._on_their_way.values()), Counter(self._arrived)
        for letter in letters:
            key = _key(letter)
            if arrived[key] > 0:
                arrived[key] -= 1
            elif unconfirmed[key] > 0:
                unconfirmed[key] -= 1
            else:
                self._publish(letter, key)
        self._await(deadline)
        self._arrived.clear()

    def _publish(self, letter: Letter, key: _Key | None) -> None:
        message = amqp.Message(letter.body, **letter.properties)
        self._published += 1
        self._on_their_way[self._published] = key
        self._channel.basic_publish(
            message, exchange=letter.exchange, routing_key=letter.routing_key, mandatory=key is not None
        )

    def _await(self, deadline: float) -> None:
        while self._on_their_way:
            left = deadline - time.monotonic()
            if left <= 0 or (self._blocked and not self._reads(0.05)):
                if self._blocked:
                    raise Blocked("the broker blocks publishers: it is short of memory or disk")
                raise TimeoutError("the broker did not confirm in time")
            self._reads(left)

    def _reads(self, timeout: float) -> bool:
        try:
            self._connection.drain_events(timeout=max(0.01, timeout))
        except TimeoutError:
            return False
        return True

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for each in [known for known in self._on_their_way if known <= tag] if multiple else [tag]:
            key = self._on_their_way.pop(each, None)
            if key is not None:
                self._arrived[key] += 1

    def _on_nack(self, *_which: object) -> None:
        raise NotTaken("the broker refused a letter: its queue is full or without a leader")

    def _on_return(self, _error: Exception, exchange: str, routing_key: str, _message: object) -> None:
        raise _no_queue(exchange, routing_key)

    def close(self) -> None:
        self._line.drop()


def _key(letter: Letter) -> _Key:
    return letter.exchange, letter.routing_key, hashlib.sha256(letter.body).digest()


def _grouped(letters: Sequence[Letter]) -> Iterator[Sequence[Letter]]:
    """Few enough at once that a broker which stops reading still has room for them in its buffers."""
    group: list[Letter] = []
    size = 0
    for letter in letters:
        group.append(letter)
        size += len(letter.body)
        if len(group) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


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
