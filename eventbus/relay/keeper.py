"""One active relay a database: a lease that is shown to be alive, and taken over within seconds when it is not."""

from __future__ import annotations

import logging
import threading
import time
from typing import final

from sqlalchemy import Engine

from eventbus.delivery.news import News
from eventbus.delivery.outboxes.account import DATABASE_ERRORS
from eventbus.delivery.outboxes.liveness import Liveness
from eventbus.outbox.queries import brief
from eventbus.outbox.reading.leases import RELAY
from eventbus.outbox.reading.store import Store

logger = logging.getLogger("eventbus.outbox")


@final
class Keeper:
    """Takes and keeps a lease, in a thread and on a connection of its own, so that slow work never costs it.

    Others take over `patience` seconds after the last sign of life, at once where the holder ended in order or is a
    process of the same machine that is gone. A holder that cannot show life stops believing before others start to.
    """

    def __init__(self, engine: Engine, *, name: str = RELAY, patience: float = 5.0) -> None:
        self._name = name
        self._patience = patience
        self._store = Store(engine)
        self._liveness = Liveness(patience)
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._news = News()
        self._good_until = 0.0
        self._waiting = False
        self._thread = threading.Thread(target=self._run, name=f"eventbus-{name}-lease", daemon=True)

    def start(self) -> None:
        """Begin to try."""
        self._thread.start()

    @property
    def held(self) -> bool:
        """Whether the lease is ours now."""
        return time.monotonic() < self._good_until

    def wait(self, timeout: float) -> bool:
        """Wait until the lease is ours; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.held, timeout)

    def close(self) -> None:
        """Give the lease back, if held, so that the next one need not wait."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._patience)

    def _run(self) -> None:
        failing = False
        while not self._stop.is_set():
            try:
                if failing:
                    self._store.close()  # a server that became a replica stays one
                self._turn()
                failing = False
                self._news.over()
            except DATABASE_ERRORS as error:
                if self._news.is_new(brief(error)):
                    logger.warning("the database cannot be reached: %s", brief(error))
                failing = True
            except Exception:
                # Without this thread there would be no relay, and nobody would know.
                logger.exception("the lease could not be looked after, it is tried again")
            self._stop.wait(self._patience / 5)
        self._release()

    def _turn(self) -> None:
        at = time.monotonic()
        if self.held:
            held = self._store.leases.beat(self._name)
        elif self._store.exists():
            seen = self._store.leases.of([self._name]).get(self._name)
            mine = seen is not None and seen.holder == self._store.owner
            held = (mine or seen is None or self._liveness.is_dead(self._name, seen, at)) and self._store.leases.take(
                self._name, seen
            )
        else:
            held = False
            if not self._waiting:
                self._waiting = True
                logger.info("waiting: this database has no outbox yet; a service's first commit makes it")
        with self._changed:
            self._good_until = at + self._patience * 0.7 if held else 0.0
            self._changed.notify_all()

    def _release(self) -> None:
        self._good_until = 0.0
        try:
            if self._store.exists():
                self._store.leases.release(self._name)
            self._store.close()
        except DATABASE_ERRORS as error:
            logger.warning("the lease could not be given back: %s", brief(error))
