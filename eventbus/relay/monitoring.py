"""The relay seen from outside: whether it lives, whether it delivers, and what waits in its whole database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from eventbus.monitoring import figures
from eventbus.monitoring.http import Page, serving
from eventbus.outbox.reading.census import Census, take_census
from eventbus.relay.service import Progress

_MAX_AGE: Final = 60.0
"""Seconds without a turn of the loop after which the relay counts as hung."""
_KEPT: Final = 5.0
"""Seconds a count of the outbox is good for, however often somebody asks."""


@final
class Probe:
    """Told of each step of the relay; answers what probes ask."""

    def __init__(self) -> None:
        self._turned = time.monotonic()
        self.progress = Progress(active=False, delivered=0, parked=0)

    def show(self, progress: Progress) -> None:
        """The loop went round."""
        self._turned, self.progress = time.monotonic(), progress

    def death(self) -> str | None:
        """Why the process should be started again, or None."""
        age = time.monotonic() - self._turned
        return f"the loop has not turned for {age:.0f} s" if age > _MAX_AGE else None

    def trouble(self) -> str | None:
        """Why it does not deliver, or None. One that stands by behind another is ready."""
        return self.death() or self.progress.trouble


@contextmanager
def watched(address: str, engine: Engine, show: Callable[[Progress], None]) -> Iterator[Callable[[Progress], None]]:
    """Serve `/livez`, `/readyz` and `/metrics` at this address (EVENTBUS_HTTP); nothing where it is empty.

    Gives what is to be told of the relay's progress. Raises ConfigurationError where nothing can listen there.
    """
    if not address:
        yield show
        return
    probe = Probe()

    def told(progress: Progress) -> None:
        probe.show(progress)
        show(progress)

    with serving(address, pages(probe, engine)):
        yield told


def pages(probe: Probe, engine: Engine) -> dict[str, Page]:
    """What a relay shows of itself and of the outbox it looks after."""
    registry = figures.new_registry()
    if registry is not None:
        registry.register(_Collector(probe, engine))
    return figures.pages(probe, registry)


@final
class _Collector:
    """Counts at the moment somebody asks, so that an idle relay asks its database nothing."""

    def __init__(self, probe: Probe, engine: Engine) -> None:
        self._probe = probe
        self._engine = engine
        self._lock = threading.Lock()
        self._counted: tuple[float, Census | None] = (-_KEPT, None)

    def describe(self) -> list[Any]:
        """Nothing: to be registered must not ask the database."""
        return []

    def collect(self) -> Iterator[Any]:
        """The figures of this moment. Those of the outbox are left out while the database does not answer."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415  optional

        progress = self._probe.progress
        yield GaugeMetricFamily("eventbus_relay_active", "1 if this relay is the one at work.", value=progress.active)
        yield GaugeMetricFamily(
            "eventbus_relay_connected", "1 unless the broker keeps it waiting.", value=progress.trouble is None
        )
        yield CounterMetricFamily("eventbus_relay_events", "Events that it delivered.", value=progress.delivered)
        census = self._census()
        yield GaugeMetricFamily("eventbus_outbox_up", "1 if the database answered.", value=census is not None)
        if census is None:
            return
        yield GaugeMetricFamily("eventbus_outbox_rows", "Rows that wait in the outbox.", value=census.rows)
        yield GaugeMetricFamily(
            "eventbus_outbox_oldest_seconds", "How long the oldest of them has waited.", value=census.oldest
        )
        yield GaugeMetricFamily(
            "eventbus_outbox_parked_rows", "Rows that the broker would not take.", value=census.parked
        )

    def _census(self) -> Census | None:
        with self._lock:
            at, census = self._counted
            if time.monotonic() - at >= _KEPT:
                census = self._ask()
                self._counted = time.monotonic(), census
            return census

    def _ask(self) -> Census | None:
        try:
            return take_census(self._engine)
        except SQLAlchemyError:
            return None  # which `eventbus_outbox_up` says
