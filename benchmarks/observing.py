"""What being observed costs a commit of one row: `python -m benchmarks.observing`.

Commits with `eventbus.metrics` registered, and below a request's span of OpenTelemetry's SDK besides, take turns with
commits without, each on an SQLite file of its own, in one process. Told is processor time a commit: of the thread that
commits, and of the whole process, which publishes to a publisher in memory. Spans are exported nowhere.

* metrics: no tracer.
* one in 100: the application's sampler keeps one trace of a hundred.
* every trace: it keeps all; then the SDK makes a span in each commit.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from benchmarks import figures
from eventbus import metrics
from eventbus.publishers.memory import MemoryPublisher

_MODULE = "opentelemetry.trace"
"""What eventbus looks for to know whether somebody traces."""
BARE: Final = "not observed"
KEPT: Final = {BARE: 0.0, "metrics": 0.0, "one in 100": 0.01, "every trace": 1.0}
"""The share of traces that each side's sampler keeps; 0: there is no tracer."""


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    phone: Mapped[str | None]


class Side:
    """One of them: its Sessions, its tracer, and what its turns took."""

    def __init__(self, directory: Path, name: str) -> None:
        engine = create_engine(f"sqlite:///{directory / name.replace(' ', '-')}.sqlite3")
        Base.metadata.create_all(engine)
        self.sessions: sessionmaker[Session] = sessionmaker(engine)
        self.publisher = MemoryPublisher()
        self.bus = eventbus.install(self.sessions, service="bench", publisher=self.publisher)
        if name != BARE:
            metrics.register(self.bus, CollectorRegistry())
        self.provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(kept))) if (kept := KEPT[name]) else None
        self.thread: list[float] = []
        self.process: list[float] = []

    def turn(self, commits: int) -> None:
        """Some commits, and the publishing of them."""
        sys.modules.pop(_MODULE, None)
        if self.provider:
            sys.modules[_MODULE] = trace
            trace.get_tracer_provider = lambda: self.provider  # type: ignore[assignment,return-value]
        with trace.get_tracer("app").start_as_current_span("request") if self.provider else nullcontext():
            thread, process = time.thread_time(), time.process_time()
            for _ in range(commits):
                with self.sessions.begin() as session:
                    session.add(Contact(name="n", phone="+32"))
            self.thread.append((time.thread_time() - thread) / commits)
            self.bus.flush()
            self.process.append((time.process_time() - process) / commits)
        self.publisher.clear()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--commits", type=int, default=20, help="in each turn")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        sides = {name: Side(Path(directory), name) for name in KEPT}
        order = list(sides.values())
        for _ in range(options.turns):
            random.shuffle(order)
            for side in order:
                side.turn(options.commits)
        for what in ("thread", "process"):
            bare = getattr(sides[BARE], what)
            figures.note_median(f"observing/{what}/{BARE}", [seconds * 1e6 for seconds in bare], "µs a commit")
            for name in KEPT:
                if name != BARE:
                    figures.note_ratio(f"observing/{what}/{name}", getattr(sides[name], what), bare)
        for side in order:
            side.bus.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
