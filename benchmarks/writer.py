"""What a commit costs with eventbus, against bare SQLAlchemy and what people write first.

* plain listener: publishes after the commit with kombu, one confirmed message a change; loses events
* row by hand: nothing is captured or published, one more row of a known text is inserted with Core in the same
  transaction; what any outbox costs at least that is written in this way
* outbox row: the same known text in eventbus's own outbox, as eventbus writes it

    python -m benchmarks.writer --database sqlite:////tmp/bench.sqlite3 --broker amqp://localhost// [--rows 1]

They take turns, one commit each, in one process, in an order that changes every turn; a ratio is that of medians
over all turns, and the spread shown is that of the ratios of ten stretches of the run. Publishing is on: the broker is
written to while the next commits run. `--update` changes rows instead of inserting them.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import kombu
from sqlalchemy import Engine, String, create_engine, event, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus
from eventbus.events.envelope import Batch
from eventbus.outbox import Outbox, Store
from eventbus.settings import Settings

EVENT_BYTES = 760


class Base(DeclarativeBase):
    pass


class _Columns:
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(50))
    mail: Mapped[str] = mapped_column(String(80))
    phone: Mapped[str | None] = mapped_column(String(30))
    city: Mapped[str] = mapped_column(String(50))
    street: Mapped[str] = mapped_column(String(80))
    number: Mapped[int]
    active: Mapped[bool]


class BareContact(_Columns, Base):
    __tablename__ = "bench_bare"


class BusContact(_Columns, Base):
    __tablename__ = "bench_bus"


class PlainContact(_Columns, Base):
    __tablename__ = "bench_plain"


class HandContact(_Columns, Base):
    __tablename__ = "bench_hand"


class OutboxContact(_Columns, Base):
    __tablename__ = "bench_outbox"


class LeastContact(_Columns, Base):
    __tablename__ = "bench_least"


class HandOutbox(Base):
    __tablename__ = "bench_hand_outbox"

    id: Mapped[int] = mapped_column(primary_key=True)
    payload: Mapped[str]


Turn = Callable[[], None]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True)
    parser.add_argument("--broker", default="amqp://guest:guest@localhost//")
    parser.add_argument("--rows", type=int, default=1, help="rows a commit")
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0, help="milliseconds between two commits")
    parser.add_argument("--no-peer", action="store_true", help="leave the peers out")
    options = parser.parse_args(argv)

    name = f"bench{uuid.uuid4().hex[:8]}"
    engine = create_engine(options.database)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    queue = _declare(options.broker, name)
    try:
        with eventbus.install(
            bus_sessions := sessionmaker(engine),
            settings=Settings(url=options.broker, service="bench", exchange=name, queue=name),
            include=[BusContact],
            auto_fields=False,
        ) as bus:
            bare = turn(sessionmaker(engine), BareContact, options.rows, update=options.update)
            with_bus = turn(bus_sessions, BusContact, options.rows, update=options.update)
            turns = {"bare": bare, "eventbus": with_bus}
            if not options.no_peer:
                turns["plain listener"] = turn(
                    _plain(engine, options.broker, name), PlainContact, options.rows, update=options.update
                )
                turns["row by hand"] = turn(_by_hand(engine), HandContact, options.rows, update=options.update)
                alone = turn(_row_alone(engine, row := Outbox()), OutboxContact, options.rows, update=options.update)
                turns["outbox row"] = alone
            times = measure(turns, options.turns, options.pause / 1000)
            bus.flush(60)
            print(bus.stats())
            if not options.no_peer:
                _clear(row.store(engine))
        report(times, options.rows)
    finally:
        _remove(options.broker, queue, name)
        Base.metadata.drop_all(engine)
        engine.dispose()
    return 0


def turn(sessions: Callable[[], Session], model: type[Any], rows: int, *, update: bool) -> Turn:
    ids = itertools.count(1)

    def contact(number: int) -> Any:
        return model(
            id=number, name=f"Contact {number}", mail=f"c{number}@example.org", phone=None, city="Brussels",
            street="Rue de la Loi", number=number, active=True,
        )  # fmt: skip

    def insert() -> None:
        with sessions() as session:
            session.add_all([contact(next(ids)) for _ in range(rows)])
            session.commit()

    if not update:
        return insert
    insert()

    def change() -> None:
        number = next(ids)
        with sessions() as session:
            for row in session.scalars(select(model).limit(rows)):
                row.phone = f"+32 {number}"
            session.commit()

    return change


def _plain(engine: Engine, broker: str, exchange: str) -> Callable[[], Session]:
    """What people write first: a listener that publishes after the commit, one confirmed message a change."""
    connection = kombu.Connection(broker, transport_options={"confirm_publish": True})
    producer = kombu.Producer(connection.channel(), exchange=kombu.Exchange(exchange, type="topic"))
    sessions = sessionmaker(engine)

    def after_flush(session: Session, _context: object) -> None:
        changed = [*session.new, *session.dirty]
        session.info.setdefault("changed", []).extend(
            {column.key: getattr(row, column.key) for column in row.__table__.columns} for row in changed
        )

    def after_commit(session: Session) -> None:
        for row in session.info.pop("changed", []):
            producer.publish(json.dumps(row), routing_key="bench.plain.updated", delivery_mode=2, timeout=10)

    event.listen(sessions, "after_flush", after_flush)
    event.listen(sessions, "after_commit", after_commit)
    return sessions


def _by_hand(engine: Engine) -> Callable[[], Session]:
    """As many bytes a row as an event has, into a table of its own."""
    sessions = sessionmaker(engine)
    statement = insert(HandOutbox.__table__)  # type: ignore[arg-type]

    def before_commit(session: Session) -> None:
        changed = len(session.new) + len(session.dirty)
        session.flush()
        session.connection().execute(statement, {"payload": "x" * EVENT_BYTES * changed})

    event.listen(sessions, "before_commit", before_commit)
    return sessions


def _row_alone(engine: Engine, outbox: Outbox) -> Callable[[], Session]:
    """As many bytes a row as an event has, into eventbus's outbox."""
    sessions = sessionmaker(engine)

    def before_commit(session: Session) -> None:
        changed = len(session.new) + len(session.dirty)
        session.flush()
        batch = Batch(0, "bench", ["bench.outbox.created"] * changed, [b"x" * EVENT_BYTES] * changed)
        outbox.write(session.connection(), batch, committing=True)

    event.listen(sessions, "before_commit", before_commit)
    return sessions


def _clear(store: Store | None) -> None:
    """Nobody could publish these rows."""
    assert store is not None
    while ids := store.ids(store.owner):
        store.delete(ids)


def measure(turns: dict[str, Turn], count: int, pause: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in turns}
    orders = itertools.cycle(itertools.permutations(turns))
    for _ in range(min(20, count)):
        for turn in turns.values():
            turn()
    gc.collect()
    for order in itertools.islice(orders, count):
        for name in order:
            if pause:
                time.sleep(pause)
            start = time.perf_counter()
            turns[name]()
            times[name].append(time.perf_counter() - start)
    return times


def report(times: dict[str, list[float]], rows: int) -> None:
    bare = times["bare"]
    for name, mine in times.items():
        median = statistics.median(mine)
        size = max(1, len(mine) // 10)
        ratios = sorted(
            statistics.median(mine[at : at + size]) / statistics.median(bare[at : at + size])
            for at in range(0, len(mine) - size + 1, size)
        )
        ratio = median / statistics.median(bare)
        p99 = statistics.quantiles(mine, n=100)[98] if len(mine) > 1 else median
        print(
            f"{name:<16} median {median * 1e6:9.0f} us  p99 {p99 * 1e6:9.0f} us  a row {median / rows * 1e6:8.1f} us  "
            f"ratio {ratio:5.3f}  ({ratios[0]:.3f}..{ratios[-1]:.3f})"
        )


def _declare(broker: str, name: str) -> str:
    if broker.startswith("amqp"):
        with kombu.Connection(broker) as connection:
            exchange = kombu.Exchange(name, type="topic", durable=True)
            arguments = {"x-queue-type": "quorum"}
            kombu.Queue(name, exchange, routing_key="#", durable=True, queue_arguments=arguments)(connection).declare()
    return name


def _remove(broker: str, queue: str, exchange: str) -> None:
    if broker.startswith("amqp"):
        with kombu.Connection(broker) as connection:
            connection.default_channel.queue_delete(queue)
            connection.default_channel.exchange_delete(exchange)


if __name__ == "__main__":
    raise SystemExit(main())
