"""Delivers what no process does itself, or, with strict ordering, everything.

By default each process publishes its own events, and the relay takes over those of processes that are gone. Rows of
services with `delivery="relay"` it takes at once, whoever lives, and the events of each record leave in commit order.
With `ordering="strict"` it does so with all rows there are. Any number of relays may run; one is active for a database,
and another takes over within seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol, final

from sqlalchemy import Engine, func, select

from eventbus.delivery.dispatcher import Dispatcher
from eventbus.delivery.outboxes.account import DATABASE_ERRORS
from eventbus.delivery.tempo import Tempo
from eventbus.errors import BrokerUnavailable, ConfigurationError, EventBusError
from eventbus.outbox import Owner, Store
from eventbus.outbox.reading.leases import RELAY
from eventbus.outbox.side import side_connection
from eventbus.outbox.tables import outbox
from eventbus.publishers.base import Publisher
from eventbus.relay.in_order import InOrder
from eventbus.relay.keeper import Keeper

_POLL: Final = 0.05
_PATIENCE: Final = 30.0
_MOMENT: Final = 0.5
_FORBIDDEN: Final = "(403)"
"""The reply code in what a broker says to a login without permission; trying again soon is of no use."""

logger = logging.getLogger(__name__)

Ordering = Literal["fast", "strict"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a relay has done so far: events delivered and rows parked; `active`: whether it is the one at work.

    `waiting`: rows that were left in the outbox when it stopped working, those of living processes too. `trouble`: why
    nothing can be delivered now.
    """

    active: bool
    delivered: int
    parked: int
    waiting: int = 0
    trouble: str | None = None


class _Worker(Protocol):
    """What an active relay does."""

    @property
    def trouble(self) -> str | None: ...

    @property
    def delivered(self) -> int: ...

    @property
    def parked(self) -> int: ...

    def work(self) -> bool:
        """One step; whether nothing is left to do for now."""

    def close(self) -> None: ...


@final
class Relay:
    """Delivers the outbox of one database, while it holds the lease for it."""

    def __init__(
        self,
        engine: Engine,
        make_publisher: Callable[[], Publisher],
        *,
        ordering: Ordering = "fast",
        tempo: Tempo = Tempo(sweep=2.0),
        unroutable: Literal["keep", "drop"] = "keep",
        patience: float = 5.0,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._make_publisher = make_publisher
        self._ordering = ordering
        self._tempo = tempo
        self._unroutable = unroutable
        self._patience = patience
        self._on_progress = on_progress
        self._progress = Progress(active=False, delivered=0, parked=0)

    def run(self, stop: threading.Event, *, once: bool = False) -> Progress:
        """Work until `stop` is set; with `once`, until nothing is left that can be delivered now.

        Whether a process of another machine is gone takes `tempo.grace` seconds to tell; `once` waits for that. It does
        not wait for ever: it raises BrokerUnavailable when nothing could be delivered for `_PATIENCE` seconds,
        ConfigurationError when the login may not publish, and EventBusError when another relay is active.
        """
        keeper = Keeper(self._engine, patience=self._patience)
        keeper.start()
        waiting_since, told = time.monotonic(), False
        try:
            while not stop.is_set():
                if keeper.wait(_MOMENT):
                    if self._work_while_held(keeper, stop, once=once) and once:
                        break
                    waiting_since, told = time.monotonic(), False
                else:
                    self._report(active=False)
                    if once and not told and not keeper.held:
                        told = self._tell_of_another()
                    if once and time.monotonic() - waiting_since > 2 * self._patience:
                        raise EventBusError("another relay is active for this database, and does the work")
        finally:
            keeper.close()
        return self._progress

    def _work_while_held(self, keeper: Keeper, stop: threading.Event, *, once: bool) -> bool:
        """Whether there is nothing left to do."""
        logger.info("this relay is the active one, ordering %s", self._ordering, extra={"ordering": self._ordering})
        worker = self._worker(lambda: keeper.held and not stop.is_set())
        before = self._progress
        try:
            done, seen, moved = False, -1, time.monotonic()
            while keeper.held and not stop.is_set() and not (done and once):
                done = worker.work()
                self._report(
                    active=True,
                    delivered=before.delivered + worker.delivered,
                    parked=worker.parked,
                    trouble=worker.trouble,
                )
                if worker.delivered != seen or worker.trouble is None:
                    seen, moved = worker.delivered, time.monotonic()
                elif once and _FORBIDDEN in worker.trouble:
                    raise ConfigurationError(worker.trouble)
                elif once and time.monotonic() - moved > _PATIENCE:
                    raise BrokerUnavailable(worker.trouble)
            return done
        finally:
            worker.close()
            self._report(active=False, delivered=before.delivered + worker.delivered, parked=worker.parked)
            if keeper.held:  # so the database answers
                self._progress = replace(self._progress, waiting=self._count_waiting())

    def _tell_of_another(self) -> bool:
        """Whether somebody has the lease, which is told in the log."""
        store = Store(self._engine)
        try:
            taken = store.exists() and RELAY in store.leases.of([RELAY])
        except DATABASE_ERRORS:
            return False  # which the keeper tells
        finally:
            store.close()
        if taken:
            logger.info(
                "waiting: another relay is active for this database, %r", store, extra={"database": repr(store)}
            )
        return taken

    def _count_waiting(self) -> int:
        try:
            with side_connection(self._engine) as connection:
                return connection.scalar(select(func.count()).select_from(outbox)) or 0
        except DATABASE_ERRORS:
            return 0

    def _worker(self, active: Callable[[], bool]) -> _Worker:
        store = Store(self._engine, Owner())
        everything = self._ordering == "strict"
        in_order = InOrder(
            store.copy(),
            self._make_publisher(),
            self._tempo,
            everything=everything,
            active=active,
            unroutable=self._unroutable,
        )
        if everything:
            return in_order
        dispatcher = Dispatcher(self._make_publisher, tempo=self._tempo, unroutable=self._unroutable)
        return _Both(in_order, _LeftBehind(store, dispatcher))

    def _report(
        self, *, active: bool, delivered: int | None = None, parked: int | None = None, trouble: str | None = None
    ) -> None:
        before = self._progress
        self._progress = Progress(
            active,
            before.delivered if delivered is None else delivered,
            before.parked if parked is None else parked,
            trouble=trouble,
        )
        self._on_progress(self._progress)


@final
class _Both:
    """What services leave to the relay, in order; and what the dead left, by a dispatcher in a thread of its own."""

    def __init__(self, in_order: InOrder, left_behind: _LeftBehind) -> None:
        self._in_order = in_order
        self._left_behind = left_behind
        self._look_at = 0.0
        self._quiet = False

    @property
    def trouble(self) -> str | None:
        return self._in_order.trouble or self._left_behind.trouble

    @property
    def delivered(self) -> int:
        return self._in_order.delivered + self._left_behind.delivered

    @property
    def parked(self) -> int:
        return max(self._in_order.parked, self._left_behind.parked)  # the second counts all, now and then

    def work(self) -> bool:
        done = self._in_order.work()
        if (at := time.monotonic()) >= self._look_at:
            self._look_at = at + _POLL
            self._quiet = self._left_behind.look()
        return done and self._quiet

    def close(self) -> None:
        self._in_order.close()
        self._left_behind.close()


@final
class _LeftBehind:
    """A dispatcher that writes nothing itself, and so has only the rows of the dead to deliver."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._dispatcher.look_after(store)
        self.delivered = self.parked = 0
        self.trouble: str | None = None

    def look(self) -> bool:
        """See how far it is; whether nothing is left to do for now."""
        stats = self._dispatcher.stats()
        self.trouble = None if stats.connected else stats.last_error
        self.delivered, self.parked = stats.published, stats.parked
        return self._dispatcher.is_quiet(self._store)

    def close(self) -> None:
        self._dispatcher.close()
        stats = self._dispatcher.stats()
        self.delivered, self.parked = stats.published, stats.parked
