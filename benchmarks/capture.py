"""What capturing and serialising alone cost: every event is made, and dropped where it would enter the outbox.

    python -m benchmarks.capture --database sqlite:////tmp/bench.sqlite3 [--rows 1] [--update]

Bare SQLAlchemy and SQLAlchemy with the listeners take turns, as in `benchmarks.writer`, and with them the least that
any listener does: it reads the values off the objects after the flush and makes JSON of each, with an id and the time,
before the commit. It knows nothing of savepoints, failed flushes, statements, deletions, links, old values or schemas.
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import orjson
from sqlalchemy import Connection, create_engine
from sqlalchemy.event import listen
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.writer import BareContact, Base, BusContact, LeastContact, measure, report, turn
from eventbus.events.envelope import Batch
from eventbus.listeners.base import register
from eventbus.listeners.capture import Capture
from eventbus.listeners.committing.encoding import Encoder
from eventbus.listeners.committing.transaction import Transactions
from eventbus.listeners.statements.bulk import Bulk
from eventbus.listeners.targets import resolve
from eventbus.records.entities import Entities

_CONSTANT: Final = {
    "specversion": "1.0", "source": "/bench", "type": "bench.contact.created",
    "datacontenttype": "application/json",
}  # fmt: skip


class _Nowhere:
    """A sink that forgets, so that neither outbox nor dispatcher is measured."""

    def __init__(self) -> None:
        self.events = 0

    def write(self, connection: Connection, batch: Batch, *, committing: bool) -> Sequence[object]:
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


def least(sessions: sessionmaker[Session]) -> None:
    """The shortest listener that makes an event a row."""
    keys = [column.key for column in LeastContact.__table__.columns]

    def after_flush(session: Session, _context: object) -> None:
        changed = [*session.new, *session.dirty]
        rows = session.info.setdefault("changed", [])
        rows.extend({key: row.__dict__[key] for key in keys} for row in changed)

    def before_commit(session: Session) -> None:
        session.flush()
        rows = session.info.pop("changed")
        transaction, time = str(uuid.uuid4()), datetime.now(UTC)
        for index, row in enumerate(rows):
            event = {"id": f"{transaction}-{index}", "subject": f"contact/{row['id']}", "time": time}
            about = {"op": "c", "pk": row["id"], "transaction": {"id": transaction, "index": index, "size": len(rows)}}
            orjson.dumps(_CONSTANT | event | {"data": about | {"before": None, "after": row}})

    listen(sessions, "after_flush", after_flush)
    listen(sessions, "before_commit", before_commit)


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
    least(simple := sessionmaker(engine))
    try:
        turns = {
            "bare": turn(sessionmaker(engine), BareContact, options.rows, update=options.update),
            "captured": turn(sessions, BusContact, options.rows, update=options.update),
            "least": turn(simple, LeastContact, options.rows, update=options.update),
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
