"""The way out: the publisher, and whether the broker can be reached."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, final

from eventbus.backoff import Backoff
from eventbus.delivery.news import News
from eventbus.delivery.parcel import Parcel, deliver, insist
from eventbus.errors import BrokerUnavailable
from eventbus.publishers.base import Publisher
from eventbus.redaction import redact

_TICK: Final = 1.0
_FAR: Final = 60.0

logger = logging.getLogger(__name__)


@final
class Outlet:
    """Sends parcels, and notes how that went. For the dispatcher's thread.

    `connected`: whether the last try came through. `last_error`: why the last one did not. `retry_at`: not before that
    time of the monotonic clock is another try worth it.
    """

    def __init__(self, make_publisher: Callable[[], Publisher], *, backoff_limit: float) -> None:
        self.connected = False
        self.last_error: str | None = None
        self.retry_at = 0.0
        self._make = make_publisher
        self._publisher: Publisher | None = None
        self._backoff = Backoff(first=0.1, limit=backoff_limit)
        self._news = News()
        self._tick_at = 0.0

    @property
    def is_down(self) -> bool:
        """Whether the broker was tried, and cannot be reached."""
        return self._backoff.failures > 0 and not self.connected

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Try once; what became of each stands in the parcel."""
        self._try(deliver, parcels)

    def insist(self, parcels: Sequence[Parcel]) -> None:
        """The same for what was refused before; see `parcel.insist`."""
        self._try(insist, parcels)

    def _try(self, way: Callable[[Publisher, Sequence[Parcel]], None], parcels: Sequence[Parcel]) -> None:
        if self._publisher is None:
            self._publisher = self._make()
        try:
            way(self._publisher, parcels)
        except BrokerUnavailable as error:
            self.stand_back(error)
        else:
            self._came_through()

    def _came_through(self) -> None:
        if self._news.over():
            logger.info("the broker can be reached again")
        self._backoff.reset()
        self.connected = True
        self.retry_at = 0.0
        self._tick_at = time.monotonic() + _TICK

    def stand_back(self, error: BaseException) -> None:
        """Nothing is tried for a while."""
        delay = self._backoff.next()
        self.connected = False
        self.last_error = redact(str(error) or type(error).__name__)
        self.retry_at = time.monotonic() + delay
        trouble = getattr(error, "trouble", BrokerUnavailable.trouble)
        if self._news.is_new(f"{trouble}: {self.last_error}"):
            logger.warning("the broker %s, events wait: %s", trouble, self.last_error)

    def due(self, at: float) -> float:
        """When `tick` has something to do, by the monotonic clock."""
        return self._tick_at if self.connected else at + _FAR

    def tick(self, at: float) -> None:
        """Keep an idle connection alive."""
        if self.connected and self._publisher is not None and at >= self._tick_at:
            self._publisher.tick()
            self._tick_at = at + _TICK

    def close(self) -> None:
        """Let go of the broker."""
        if self._publisher is not None:
            self._publisher.close()

    def abandon(self) -> object:
        """In a child: the connection is the parent's. The caller keeps the result, so nothing closes it."""
        if self._publisher is not None:
            self._publisher.abandon()
        return self._publisher
