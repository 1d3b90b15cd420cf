"""A sign of life in one outbox."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import final

from eventbus.delivery.outboxes.sources import Sources
from eventbus.outbox.reading.store import Store


@final
class SignOfLife:
    """Shows life where rows stay for longer than a moment: others see the same lowest id again and again.

    `store`: for the pulse's thread alone. `given`: whether a sign was ever needed, so that there is a lease.
    """

    def __init__(
        self, store: Store, lock: AbstractContextManager[object], known: Mapping[int, float], sources: Sources
    ) -> None:
        self.store = store.copy()
        self.given = False
        self._lock = lock
        self._known = known
        self._sources = sources
        self._lowest: int | None = None

    def give(self) -> None:
        """Where it is needed; else let go of the database."""
        with self._lock:
            lowest, before = min(self._known, default=None), self._lowest
            self._lowest = lowest
            adopted = list(self._sources.adopted)
            stays = self._sources or (lowest is not None and lowest == before)
        if stays:
            self._beat(adopted)
        else:
            self.store.close()

    def _beat(self, adopted: list[str]) -> None:
        own = self.store.owner
        self.given = True
        if not self.store.leases.beat(own):
            # The first time; or we stood still for so long that we were taken for dead.
            self.store.leases.take(own, self.store.leases.of([own]).get(own))
        lost = [owner for owner in adopted if not self.store.leases.beat(owner)]
        with self._lock:
            for owner in lost:
                self._sources.adopted.pop(owner, None)
