"""The look through one outbox for rows that nobody delivers: strays of our own, and those of ended processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final, final

from eventbus.delivery.outboxes.liveness import Liveness
from eventbus.delivery.outboxes.sources import Sources
from eventbus.delivery.tempo import Tempo, Timer
from eventbus.outbox.owner import is_for_relay
from eventbus.outbox.reading.leases import ABANDONED
from eventbus.outbox.reading.store import Store

_PAGES: Final = 10
"""Looked at in one sweep."""

logger = logging.getLogger("eventbus.outbox")


@final
class Sweep:
    """Looks every `tempo.sweep` seconds; what it finds goes to the sources. Rows for the relay are not looked at.

    `undecided`: whether rows are there of which it is not known yet whether their owner lives.
    """

    def __init__(
        self,
        store: Store,
        lock: AbstractContextManager[object],
        known: Mapping[int, float],
        sources: Sources,
        tempo: Tempo,
    ) -> None:
        self.done = False
        self._store = store
        self._lock = lock
        self._known = known
        self._sources = sources
        self._timer = Timer(tempo.sweep)
        self._liveness = Liveness(tempo.grace)
        self._strays: set[int] = set()
        self._names: set[str] = set()
        self._page = 0

    @property
    def due(self) -> float:
        """When to look, by the monotonic clock."""
        return self._timer.due

    @property
    def undecided(self) -> bool:
        """Whether there are rows whose owner may live or not."""
        return bool(self._liveness.undecided)

    @property
    def has_strays(self) -> bool:
        """Whether rows of ours were seen once that nobody handed over."""
        return bool(self._strays)

    def soon(self, at: float) -> None:
        """Rows of ours may have been committed without our knowing."""
        self.done = False
        self._timer.due = min(self._timer.due, at)

    def work(self, at: float) -> bool:
        """Look, if it is time. Whether rows were taken over."""
        if not self._timer.ready(at) or not self._store.exists():
            return False
        self.done = False  # until all is looked through: whom it takes over is not among the sources at once
        before = len(self._sources.adopted)
        self._look_at_own(at)
        self._adopt(at)
        return len(self._sources.adopted) > before

    def _look_at_own(self, at: float) -> None:
        """Find rows of ours that nobody handed over: the session was part of a transaction that others committed.

        A row is one of these if it is unknown at two looks; one seen once may be on its way from its writer.
        """
        ids = self._store.ids(self._store.owner)
        with self._lock:
            known, behind = self._known, self._sources.own is not None
            strays = set() if behind else {row_id for row_id in ids if row_id not in known}
            again = strays & self._strays
            if again:
                self._sources.leave(min(again))
        self._strays = strays - again
        if self._strays:
            self.soon(at + 1.0)

    def _adopt(self, at: float) -> None:
        for _ in range(_PAGES):
            owners, onward = self._store.owners(after=self._page)
            # Of a name seen before, this is not the lowest id.
            ours = {self._store.owner, *self._sources.adopted, *self._names}
            strangers = {
                owner: lowest for owner, lowest in owners.items() if owner not in ours and not is_for_relay(owner)
            }
            self._names.update(strangers)
            if strangers:
                self._adopt_dead(strangers, at)
            self._page = onward or 0
            if onward is None:
                self._liveness.keep(self._names)
                self._names.clear()
                self.done = True
                return

    def _adopt_dead(self, owners: Mapping[str, int], at: float) -> None:
        leases = self._store.leases.of(owners)
        for owner, lowest in owners.items():
            lease = leases.get(owner)
            # Ours already, where the database's answer to our taking it was lost.
            mine = lease is not None and lease.holder == self._store.owner and lease.beat != ABANDONED
            dead = mine or self._liveness.is_dead(owner, lease, at, lowest=lowest)
            if mine or (dead and self._store.leases.take(owner, lease)):
                self._sources.adopt(owner)
                logger.info("taking over events of an ended process", extra={"owner": owner})
