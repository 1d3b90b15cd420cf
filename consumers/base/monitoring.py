"""A consumer seen from outside: whether it lives, whether it is at work, what it has done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

from consumers.base.observer import Observer, Observers
from eventbus.monitoring import figures
from eventbus.monitoring.http import serving

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

MAX_AGE: Final = 60.0
"""Seconds without a turn of the loop after which a consumer counts as hung. One batch on a slow disk may take some."""


@final
class Probe(Observer):
    """What `/livez` and `/readyz` answer. A broker that is away makes a consumer unready, not dead."""

    def __init__(self, max_age: float = MAX_AGE) -> None:
        self._max_age = max_age
        self._turned = time.monotonic()
        self._trouble: str | None = "not connected yet"
        self._waits: str | None = None

    def connected(self) -> None:
        self._turned, self._trouble = time.monotonic(), None

    def disconnected(self, reason: str) -> None:
        self._turned, self._trouble = time.monotonic(), reason

    def turned(self) -> None:
        self._turned = time.monotonic()

    def handled(self, count: int, seconds: float) -> None:
        self._turned, self._waits = time.monotonic(), None

    def waiting(self, reason: str, seconds: float) -> None:
        self._waits = f"deliveries wait: {reason}"

    def death(self) -> str | None:
        """Why the process should be started again, or None."""
        age = time.monotonic() - self._turned
        return f"the loop has not turned for {age:.0f} s" if age > self._max_age else None

    def trouble(self) -> str | None:
        """Why it is not at work, or None."""
        return self.death() or self._trouble or self._waits


@final
class Figures(Observer):
    """What `/metrics` shows of a consumer. Counted by the batch, so that a delivery costs nothing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415  an optional package

        self._handled = Counter(
            "eventbus_consumer_events", "Events that the handler has settled for good.", registry=registry
        )
        self._batch = Histogram(
            "eventbus_consumer_batch_seconds",
            "How long the handler took over one batch.",
            registry=registry,
            buckets=figures.LATENCIES,
        )
        self._dead = Counter(
            "eventbus_consumer_dead_letters", "Deliveries put into the dead-letter queue.", registry=registry
        )
        self._waits = Counter(
            "eventbus_consumer_waits",
            "Times the handler could not take deliveries, which then wait.",
            registry=registry,
        )
        self._lost = Counter("eventbus_consumer_disconnects", "Times the broker was lost or away.", registry=registry)
        self._connected = Gauge(
            "eventbus_consumer_connected",
            "1 while the queue is consumed, or waited for behind another consumer; else 0.",
            registry=registry,
        )

    def connected(self) -> None:
        self._connected.set(1)

    def disconnected(self, reason: str) -> None:
        self._connected.set(0)
        self._lost.inc()

    def handled(self, count: int, seconds: float) -> None:
        self._handled.inc(count)
        self._batch.observe(seconds)

    def waiting(self, reason: str, seconds: float) -> None:
        self._waits.inc()

    def dead_lettered(self, reason: str) -> None:
        self._dead.inc()


@contextmanager
def watched(address: str, observer: Observer, *, max_age: float = MAX_AGE) -> Iterator[Observer]:
    """Serve `/livez`, `/readyz` and `/metrics` at this address (EVENTBUS_HTTP); nothing where it is empty.

    Gives what is to be told of each moment: the observer, with probes and figures before it. Raises ConfigurationError
    where nothing can listen there.
    """
    if not address:
        yield observer
        return
    probe, registry = Probe(max_age), figures.new_registry()
    watching: list[Observer] = [probe]
    if registry is not None:
        watching.append(Figures(registry))
        observer.served(registry)
    with serving(address, figures.pages(probe, registry)):
        yield Observers(*watching, observer)
