"""What being observed costs a commit of one row: `python -m benchmarks.observing`.

Commits with `eventbus.metrics` registered and a tracer of OpenTelemetry's SDK set take turns with commits without, each
on an SQLite file of its own, in one process. Told is processor time a commit: of the thread that commits, and of the
whole process, which publishes to a publisher in memory. A tracer samples all, and exports nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from benchmarks import figures
from eventbus import metrics
from eventbus.publishers.memory import MemoryPublisher

_MODULE = "opentelemetry.trace"
"""What eventbus looks for to know whether somebody traces."""


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    phone: Mapped[str | None]


class Side:
    """One of the two: its Sessions, and what its turns took."""

    def __init__(self, directory: Path, name: str) -> None:
        engine = create_engine(f"sqlite:///{directory / name}.sqlite3")
        Base.metadata.create_all(engine)
        self.observed = name == "observed"
        self.sessions: sessionmaker[Session] = sessionmaker(engine)
        self.publisher = MemoryPublisher()
        self.bus = eventbus.install(self.sessions, service="bench", publisher=self.publisher)
        if self.observed:
            metrics.register(self.bus, CollectorRegistry())
        self.thread: list[float] = []
        self.process: list[float] = []

    def turn(self, commits: int) -> None:
        """Some commits, and the publishing of them."""
        sys.modules.pop(_MODULE, None)
        if self.observed:
            sys.modules[_MODULE] = trace
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
    trace.set_tracer_provider(TracerProvider())
    with tempfile.TemporaryDirectory() as directory:
        plain, observed = (Side(Path(directory), name) for name in ("plain", "observed"))
        for number in range(options.turns):
            for side in (plain, observed) if number % 2 else (observed, plain):
                side.turn(options.commits)
        for name in ("thread", "process"):
            without, having = getattr(plain, name), getattr(observed, name)
            for label, taken in (("without", without), ("with", having)):
                figures.note_median(f"observing/{name}/{label}", [seconds * 1e6 for seconds in taken], "µs a commit")
            figures.note_ratio(f"observing/{name}/ratio", having, without)
        for side in (plain, observed):
            side.bus.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
