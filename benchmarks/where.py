"""Where the time of a commit and of an event goes: `python -m benchmarks.where [--seconds 3]`.

Processor time interrupts the work a thousand times a second (SIGPROF), and each time the stack says which room is at
work: that of the innermost frame of eventbus or consumers. What SQLAlchemy, a driver, SQLite or orjson do for that room
counts with it as *for …*; what they do for the program itself is *the program*. Nothing is put into the code, so the
shares are those of a run that nobody looks at.

* writer: commits with the outbox and a broker that cannot be reached, as `eventbus, broker away` of
  `benchmarks.writer`.
* mirror: messages that are read, judged, taken into the state and written as files on a RAM disk, in batches.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

import consumers
import eventbus
from benchmarks import figures, places
from benchmarks.chain import events
from benchmarks.chain.throughput import ram
from benchmarks.writer.contenders import OutboxOnly, Stand
from benchmarks.writer.work import KINDS, Cell, Columns, committing, prepare
from consumers.base import Delivery
from consumers.base.reading.screen import Screen
from consumers.base.settings import ConsumerSettings
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.settings import MirrorSettings

CELLS: Final = (Cell("insert", 1), Cell("update", 1), Cell("insert", 1000), Cell("update", 1000))
BATCH: Final = 500
TICK: Final = 0.001
LEAST: Final = 0.01
"""The share below which rooms are told together."""
ROOTS: Final = {Path(package.__path__[0]): package.__name__ for package in (eventbus, consumers)}
PROGRAM: Final = "the program"


class Base(DeclarativeBase):
    """The model of this process."""


class Contact(Columns, Base):
    """Eight columns."""

    __tablename__ = "contact"


class Rooms:
    """Counts the ticks of processor time by the room that was at work."""

    def __init__(self) -> None:
        self.ticks: Counter[str] = Counter()
        self.cpu = 0.0
        self._names: dict[str, str] = {}

    def __enter__(self) -> Self:
        signal.signal(signal.SIGPROF, self._note)
        self.cpu -= time.process_time()
        signal.setitimer(signal.ITIMER_PROF, TICK, TICK)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.cpu += time.process_time()

    def _note(self, _number: int, frame: FrameType | None) -> None:
        innermost = frame
        while frame is not None:
            if room := self._room(frame.f_code.co_filename):
                self.ticks[room if frame is innermost else f"for {room}"] += 1
                return
            frame = frame.f_back
        self.ticks[PROGRAM] += 1

    def _room(self, filename: str) -> str:
        """`listeners/recording` of a file there, "" of a file that is not ours."""
        if filename not in self._names:
            path = Path(filename)
            root = next((root for root in ROOTS if path.is_relative_to(root)), None)
            parts = path.with_suffix("").relative_to(root).parts if root else ()
            self._names[filename] = "/".join(parts[:2])
        return self._names[filename]

    def tell(self, where: str, count: int, unit: str) -> None:
        """Microseconds of each room, the costliest first."""
        total = self.ticks.total()
        each = self.cpu / count * 1e6 / total
        figures.note(f"where/{where}", self.cpu / count * 1e6, unit)
        small = sum(ticks for ticks in self.ticks.values() if ticks < LEAST * total)
        for room, ticks in self.ticks.most_common():
            if ticks >= LEAST * total:
                figures.note(f"where/{where}/{room}", ticks * each, unit)
        figures.note(f"where/{where}/{figures.ELSE}", small * each, unit)


def writer(database: str, seconds: float) -> None:
    """Commits of each cell, one after another."""
    with ExitStack() as stack:
        base = stack.enter_context(places.directory())
        engine = places.pooled(stack.enter_context(places.database(database, base)))
        stack.callback(engine.dispose)
        Base.metadata.create_all(engine)
        sessions: Any = sessionmaker(engine, class_=type("AppSession", (Session,), {}))
        contender = OutboxOnly()
        contender.install(Stand(engine, sessions, Contact, Base, places.NOBODY, places.name()))
        stack.callback(contender.close)
        for cell in CELLS:
            rooms, commits, most = Rooms(), 0, 2000 // cell.rows or 2
            commit = committing(sessions, Contact, KINDS[cell.kind])
            end = time.monotonic() + seconds
            while time.monotonic() < end or not commits:
                with engine.begin() as connection:
                    keys = prepare(connection, Contact, cell, most + 1)
                commit(keys.pop())
                with rooms:
                    for each in keys:
                        commit(each)
                commits += most
                contender.captured(0)
            rooms.tell(f"{database}/{cell.name}", commits * cell.rows, "µs a row")


def mirror(seconds: float) -> None:
    """New records, in batches."""
    screen = Screen.of(ConsumerSettings(queue="bench"))
    rooms, done = Rooms(), 0
    with ram() as base, open_mirror(MirrorSettings(data_dir=base)) as handler:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = time.time_ns() // 1000
            numbers = range(done, done + BATCH)
            batch = [Delivery(events.event(number, now), events.KEY, standard=True) for number in numbers]
            with rooms:
                for each in batch:
                    assert screen.sift(each).good
                handler(batch)
                handler.turned()
                batch.clear()
            done += BATCH
    rooms.tell("mirror", done, "µs an event")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="of each line")
    options = parser.parse_args()
    logging.getLogger("eventbus").setLevel(logging.ERROR)  # that the broker is away is meant
    for database in ("sqlite", "postgresql"):
        writer(database, options.seconds)
    mirror(options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
