"""What capturing and serialising alone cost: every event is made, and dropped where it would enter the outbox.

    python -m benchmarks.capture --database sqlite:////tmp/bench.sqlite3 [--rows 1] [--update]

Bare SQLAlchemy and SQLAlchemy with the listeners take turns, as in `benchmarks.writer`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, create_engine
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.writer import BareContact, Base, BusContact, measure, report, turn
from eventbus.entities import Entities
from eventbus.envelope import Batch
from eventbus.listeners.base import register
from eventbus.listeners.bulk import Bulk
from eventbus.listeners.capture import Capture
from eventbus.listeners.encoding import Encoder
from eventbus.listeners.targets import resolve
from eventbus.listeners.transaction import Transactions


class _Nowhere:
    """A sink that forgets, so that neither outbox nor dispatcher is measured."""

    def __init__(self) -> None:
        self.events = 0

    def write(self, connection: Connection, batch: Batch) -> Sequence[object]:
        self.events += len(batch.bodies)
        return ()

    def doubt(self, entries: Sequence[object]) -> None:
        pass

    def submit(self, entries: Sequence[object]) -> None:
        pass


def captured(sessions: sessionmaker[Session], sink: _Nowhere) -> Callable[[], None]:
    """Install the listeners alone; returns what takes them away."""
    capture = Capture(Entities("bench", include=[BusContact]))
    return register(
        resolve(sessions).session_class,
        auto_fields=None,
        capture=capture,
        bulk=Bulk(capture),
        transaction=Transactions(capture, Encoder("bench"), sink),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True)
    parser.add_argument("--rows", type=int, default=1, help="rows a commit")
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args(argv)
    engine = create_engine(options.database)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    sink = _Nowhere()
    remove = captured(sessions := sessionmaker(engine), sink)
    try:
        turns = {
            "bare": turn(sessionmaker(engine), BareContact, options.rows, update=options.update),
            "captured": turn(sessions, BusContact, options.rows, update=options.update),
        }
        report(measure(turns, options.turns, pause=0.0), options.rows)
        print(f"{sink.events} events made")
    finally:
        remove()
        Base.metadata.drop_all(engine)
        engine.dispose()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
