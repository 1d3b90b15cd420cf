"""What a channel has handed over: delivery tags, and acknowledgements that wait to be written together."""

from __future__ import annotations

import time
from itertools import count
from typing import Final

from amqp.exceptions import PreconditionFailed

from eventbus.transports.sqlite.consumer import Consumer
from eventbus.transports.sqlite.messages import Place

ACK_DELAY: Final = 0.05
"""Seconds that an acknowledgement may wait for others, so that one transaction carries all of a batch."""


class Unsettled:
    """The messages of one channel that are not acknowledged, and the acknowledgements that are not written."""

    def __init__(self) -> None:
        self._tags = count(1)
        self._unacked: dict[int, tuple[Place, Consumer | None]] = {}
        self._acked: list[Place] = []
        self._acked_since = 0.0

    def __bool__(self) -> bool:
        """Whether a message waits to be acknowledged."""
        return bool(self._unacked)

    def add(self, place: Place, consumer: Consumer | None) -> int:
        """The delivery tag of a message that is handed over now."""
        tag = next(self._tags)
        self._unacked[tag] = (place, consumer)
        return tag

    def take(self, tag: int, *, multiple: bool) -> list[Place]:
        """The places of the messages that the tag stands for; from now on they are no longer this channel's."""
        if multiple:
            tags = [held for held in self._unacked if tag == 0 or held <= tag]
        else:
            tags = [tag] if tag in self._unacked else []
        if not tags and tag != 0:
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        return [self._release(held) for held in tags]

    def acknowledge(self, tag: int, *, multiple: bool) -> bool:
        """Note that these are done with; whether the first to be noted has waited for long enough."""
        places, now = self.take(tag, multiple=multiple), time.monotonic()
        if not self._acked:
            self._acked_since = now
        self._acked += places
        return now - self._acked_since > ACK_DELAY

    def take_acknowledged(self) -> list[Place]:
        """What is to be written as acknowledged; the caller writes it."""
        acked, self._acked = self._acked, []
        return acked

    def places(self) -> list[Place]:
        """The places of all that is not acknowledged."""
        return [place for place, _ in self._unacked.values()]

    def clear(self) -> None:
        """Forget all: the channel is closed."""
        self._unacked.clear()
        self._acked.clear()

    def _release(self, tag: int) -> Place:
        place, consumer = self._unacked.pop(tag)
        if consumer is not None:
            consumer.held -= 1
        return place
