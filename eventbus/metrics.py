"""Figures of a service for Prometheus, in the registry that the application has already.

    from eventbus import metrics
    metrics.register(bus)

Needs prometheus-client (extra `prometheus`). Its multi-process mode works: each worker counts its own events.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from eventbus.bus import Bus
from eventbus.delivery.stats import Stats
from eventbus.errors import ConfigurationError
from eventbus.monitoring.figures import HOW_TO, LATENCIES

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["register"]


def register(bus: Bus, registry: CollectorRegistry | None = None) -> None:
    """Count what the bus publishes in this registry, or in the default one. Call it once, after `install()`.

    The thread that publishes brings the figures up to date, at most twice a second; a commit pays nothing. With
    `delivery="relay"` the age of the oldest row is all that a service knows, every 15 s: the relay has the others.
    Raises ConfigurationError where prometheus-client is not installed.
    """
    try:
        import prometheus_client as prometheus  # noqa: PLC0415  an optional package
    except ImportError as error:
        raise ConfigurationError(f"eventbus.metrics takes prometheus-client: {HOW_TO}") from error
    bus.watch(_Figures(prometheus, registry or prometheus.REGISTRY))


@final
class _Figures:
    """Told of the figures by the thread that publishes."""

    def __init__(self, prometheus: Any, registry: CollectorRegistry) -> None:
        self._published = prometheus.Counter(
            "eventbus_published_events", "Events that the broker has confirmed.", registry=registry
        )
        self._retried = prometheus.Counter(
            "eventbus_retried_events", "Events that had to be sent once more.", registry=registry
        )
        self._dropped = prometheus.Counter("eventbus_dropped_events", "Events that were given up.", registry=registry)
        self._latency = prometheus.Histogram(
            "eventbus_commit_to_confirm_seconds",
            "From a commit to the broker's confirm, of the oldest event in each batch.",
            registry=registry,
            buckets=LATENCIES,
        )

        def gauge(name: str, text: str, mode: str) -> Any:
            return prometheus.Gauge(name, text, registry=registry, multiprocess_mode=mode)

        self._pending = gauge("eventbus_pending_events", "Events in memory that are not confirmed yet.", "livesum")
        self._oldest = gauge("eventbus_pending_oldest_seconds", "How long the oldest of them has waited.", "livemax")
        self._parked = gauge("eventbus_parked_rows", "Outbox rows that the broker did not take.", "livemax")
        self._connected = gauge("eventbus_connected", "1 if the broker took the last batch.", "livemin")
        self._last = Stats()
        self._lock = threading.Lock()

    def __call__(self, stats: Stats, latencies: Sequence[float]) -> None:
        with self._lock:
            last, self._last = self._last, stats
        # A forked child counts from 0 again.
        self._published.inc(max(0, stats.published - last.published))
        self._retried.inc(max(0, stats.retried - last.retried))
        self._dropped.inc(max(0, stats.dropped - last.dropped))
        self._pending.set(stats.pending_events)
        self._oldest.set(stats.oldest_seconds)
        self._parked.set(stats.parked)
        self._connected.set(stats.connected)
        for seconds in latencies:
            self._latency.observe(seconds)
