"""How the mirror is, told to whoever asks: probes, `--status`, metrics, a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

from consumers.base import Delivery
from consumers.base.progress import Progress
from consumers.base.reading.moments import moment
from consumers.json_mirror.heartbeat import Heartbeat
from consumers.json_mirror.lateness import Lateness
from eventbus.monitoring.figures import LATENCIES


@final
class Standing:
    """Signs of life, troubles by what they are of, and figures. `applied` counts the records that were written; `more`
    tells of troubles that last."""

    def __init__(
        self,
        more: Callable[[], Iterable[str]],
        heartbeat: Heartbeat | None = None,
        idle: Heartbeat | None = None,
        progress: Progress | None = None,
        lateness: Lateness | None = None,
    ) -> None:
        self.applied = 0
        self._more = more
        self._heartbeat = heartbeat
        self._idle = idle
        self._is_idle = False
        self._progress = progress
        self._lateness = lateness
        self._troubles: dict[str, str] = {}
        self._ages: Any = None

    def served(self, registry: Any) -> None:
        """The figures that the mirror adds to those of any consumer."""
        from prometheus_client import Gauge, Histogram  # noqa: PLC0415  an optional package

        self._ages = Histogram(
            "eventbus_mirror_commit_to_file_seconds",
            "From a commit to its file, of the first event in each batch, by the clocks of both sides.",
            registry=registry,
            buckets=LATENCIES,
        )
        trouble = Gauge("eventbus_mirror_troubles", "Troubles the mirror waits for; 0: all is well.", registry=registry)
        trouble.set_function(lambda: len(self.troubles()))

    def trouble(self, of: str, what: str) -> None:
        """Something is wrong; with "" it is well again."""
        self._troubles[of] = what

    def troubles(self) -> list[str]:
        """What is wrong now."""
        return [*filter(None, list(self._troubles.values())), *self._more()]

    def busy(self) -> None:
        """A batch has come."""
        self._is_idle = False

    def caught_up(self) -> None:
        """Nothing waits in the queue."""
        self._is_idle = True

    def beat(self) -> None:
        """Tell of it all."""
        if self._heartbeat:
            self._heartbeat.beat("; ".join(self.troubles()))
        self._beat_idle()
        if self._lateness:
            self._lateness.turn()
        if self._progress:
            self._progress.show(self.applied)

    def written(self, batch: Sequence[Delivery]) -> None:
        """The files of a batch are written."""
        if not batch:
            return
        age = _age(batch[0].event.time)
        if self._ages is not None:
            self._ages.observe(age)
        if self._lateness:
            self._lateness.add(age)

    def end(self) -> None:
        """The last word."""
        self._beat_idle()
        if self._progress:
            self._progress.show(self.applied)
            self._progress.end()

    def _beat_idle(self) -> None:
        if self._idle and self._is_idle:
            self._idle.beat()


def _age(time_text: str) -> float:
    then = moment(time_text)
    return max(0.0, time.time() - then.timestamp()) if then else 0.0
