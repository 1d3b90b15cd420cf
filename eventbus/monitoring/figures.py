"""What a process shows of itself: two probes, and figures for Prometheus, made with the extra `prometheus`."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from eventbus.monitoring.http import Answer, Page, verdict

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

HOW_TO: Final = "pip install 'sqlalchemy-eventbus[prometheus]'"
LATENCIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
"""Buckets in seconds, from a change that passes at once to one that waited for two hours."""


class Probe(Protocol):
    """Whether a process lives, and whether it is at work; each in a sentence, or None where all is well."""

    def death(self) -> str | None:
        """Why the process should be started again."""

    def trouble(self) -> str | None:
        """Why it is not at work."""


def pages(probe: Probe, registry: CollectorRegistry | None) -> dict[str, Page]:
    """`/livez`, `/readyz` and `/metrics` of one process."""
    return {
        "/livez": lambda: verdict(probe.death()),
        "/readyz": lambda: verdict(probe.trouble()),
        "/metrics": _exposition(registry),
    }


def new_registry() -> CollectorRegistry | None:
    """A registry with the figures of the process itself; None where prometheus-client is not installed."""
    try:
        import prometheus_client as prometheus  # noqa: PLC0415  an optional package
    except ImportError:
        return None
    registry = prometheus.CollectorRegistry(auto_describe=True)
    prometheus.ProcessCollector(registry=registry)
    prometheus.PlatformCollector(registry=registry)
    return registry


def _exposition(registry: CollectorRegistry | None) -> Page:
    """What is in the registry, or how to get some."""
    if registry is None:
        return lambda: Answer(HTTPStatus.NOT_IMPLEMENTED, f"no figures without prometheus-client: {HOW_TO}\n".encode())

    def exposed() -> Answer:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415  an optional package

        return Answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)

    return exposed
