"""What kombu calls the established connection: the broker's file, the channels, and the messages fetched ahead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

from amqp.exceptions import NotFound, RecoverableConnectionError

from eventbus.transports.sqlite.broker import Broker
from eventbus.transports.sqlite.channel import Ahead, Channel
from eventbus.transports.sqlite.consumer import FETCH_BYTES, Consumer
from eventbus.transports.sqlite.messages import Place

POLL: Final = 0.02
"""Seconds after which a sleeping consumer looks at the file though nobody rang."""
WATCH: Final = 0.05
"""Seconds between two looks for consumers whose process is gone."""
TIDY_UP: Final = 0.5
"""Seconds that closing may take to give unused pages back; 100 MB take less."""


class Connection:
    """As with py-amqp, it is for one thread at a time, and for the process that opened it."""

    def __init__(self, client: Any, path: Path) -> None:
        self.client = client
        self.broker = Broker(path)
        self.channels: dict[int, Channel] = {}
        self._channel_ids = count(1)
        self._ahead: deque[Ahead] = deque()
        self._closed = False
        self._untidy = False
        self._next_watch = 0.0
        with self.broker.file.read():
            pass  # opens the file, or says why not

    @property
    def connected(self) -> bool:
        """Whether this process may use the connection."""
        return not self._closed and self.broker.file.usable

    def channel(self) -> Channel:
        """A new channel."""
        self._require_open()
        number = next(self._channel_ids)
        channel = self.channels[number] = Channel(self, number)
        return channel

    def drain_events(self, timeout: float | None = None) -> None:
        """Deliver one message. Raises TimeoutError (socket.timeout) when none comes within `timeout` seconds."""
        self._require_open()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ahead and not self._fetch():
            self._wait(deadline)
        channel, consumer, stored = self._ahead.popleft()
        channel.deliver(consumer, stored)

    def take_back(self, chosen: Callable[[Ahead], bool]) -> list[Place]:
        """The places of the messages fetched ahead for which `chosen` is true; they will not be handed over."""
        back = [ahead for ahead in self._ahead if chosen(ahead)]
        self._ahead = deque(ahead for ahead in self._ahead if not chosen(ahead))
        for ahead in back:
            ahead.consumer.held -= 1
        return [ahead.stored.place for ahead in back]

    def close(self) -> None:
        """Close the channels, end the session. Safe to call twice. In a forked child it leaves all to the parent."""
        if self._closed:
            return
        try:
            for channel in list(self.channels.values()):
                channel.close()
            self._tidy_up()
        finally:
            self._closed = True
            self.broker.close()

    def _require_open(self) -> None:
        if not self.connected:
            raise RecoverableConnectionError("connection is closed, or belongs to the process that forked")

    def _fetch(self) -> bool:
        """Take what the consumers have room for; whether there was anything."""
        channels = list(self.channels.values())
        for channel in channels:
            channel.flush()
        for channel in channels:
            for consumer in list(channel.consumers.values()):
                if consumer.room > 0:
                    self._fetch_for(channel, consumer)
        return bool(self._ahead)

    def _fetch_for(self, channel: Channel, consumer: Consumer) -> None:
        try:
            taken = self.broker.take(consumer.queue, consumer.id, limit=consumer.room, max_bytes=FETCH_BYTES)
        except NotFound:
            channel.cancelled(consumer)
            return
        consumer.held += len(taken)
        self._untidy = self._untidy or bool(taken)
        self._ahead.extend(Ahead(channel, consumer, stored) for stored in taken)

    def _wait(self, deadline: float | None) -> None:
        """Sleep until there may be something to fetch. Raises TimeoutError at the deadline (time.monotonic)."""
        while True:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError("timed out")
            if now >= self._next_watch:
                self._next_watch = now + WATCH
                if self.broker.sessions.recover():
                    return
            rung = self._sleep(POLL if deadline is None else min(POLL, deadline - now))
            if rung or self.broker.file.changed():
                return
            if self._untidy:
                self._untidy = self.broker.file.shrink()

    def _sleep(self, seconds: float) -> bool:
        bell = self.broker.sessions.bell
        if bell is not None:
            return bell.wait(seconds)
        time.sleep(seconds)
        return False

    def _tidy_up(self) -> None:
        """Shrink the file now: a consumer that ends as soon as its queue is empty has no idle moment for it."""
        until = time.monotonic() + TIDY_UP
        while self._untidy and self.connected and time.monotonic() < until:
            self._untidy = self.broker.file.shrink()
