"""How a backlog drains: `python -m benchmarks.backlog [--rows 1000000] [--ordering strict]`.

Fills the outbox with rows of a process that is gone, then lets a relay deliver them to a publisher that confirms
everything, and prints after each tenth the rows a second, the memory of the process and the size of the table; at the
start and half-way the plan by which the next page is read. Then the same with a broker that takes the events.
"""

from __future__ import annotations

import argparse
import resource
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import kombu
from sqlalchemy import URL, Engine, create_engine, func, insert, select, text

from benchmarks import figures, places
from eventbus.delivery.tempo import Tempo
from eventbus.events.envelope import Message, encode
from eventbus.outbox import metadata, tables
from eventbus.outbox.owner import process
from eventbus.publishers import AmqpPublisher, Outcome, Publisher
from eventbus.relay import Progress, Relay

PAGE = 5000


class Nowhere(Publisher):
    """Confirms everything and keeps nothing."""

    def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        return [Outcome.CONFIRMED] * len(messages)

    def close(self) -> None:
        pass


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", help="its outbox is dropped; default: a PostgreSQL database of its own")
    parser.add_argument("--broker", help="an AMQP URL; default: nowhere, then the local one")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ordering", choices=["fast", "strict"], default="fast")
    options = parser.parse_args(argv)
    with places.directory() as base, ExitStack() as stack:
        url = options.database or stack.enter_context(places.database("postgresql", base))
        for broker in [options.broker] if options.broker else ["", places.BROKER]:
            drain(url, broker, options)
    return 0


def drain(url: str | URL, broker: str, options: argparse.Namespace) -> None:
    """Fill the outbox and empty it."""
    engine = create_engine(url)
    metadata.drop_all(engine)
    metadata.create_all(engine)
    for page in _pages(options.rows):
        with engine.begin() as connection:
            connection.execute(insert(tables.outbox), page)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("ANALYZE eventbus_outbox"))
    print(f"{options.rows:,} rows written, {_size(engine):,} MiB; {_plan(engine)}", flush=True)

    name = f"backlog{uuid.uuid4().hex[:8]}"
    if broker:
        with kombu.Connection(broker) as connection:
            exchange = kombu.Exchange(name, type="topic", durable=True)
            limit = {"x-max-length": 10_000}  # what is measured is the way to the queue
            kombu.Queue(name, exchange, routing_key="#", queue_arguments=limit)(connection.default_channel).declare()
    report = _Report(engine, options.rows)
    relay = Relay(
        engine,
        lambda: AmqpPublisher(broker, exchange=name, service="bench") if broker else Nowhere(),
        ordering=options.ordering,
        tempo=Tempo(sweep=0.5),
        on_progress=report,
    )
    start = time.perf_counter()
    relay.run(threading.Event(), once=True)
    seconds = time.perf_counter() - start
    with engine.connect() as connection:
        left = connection.scalar(select(func.count()).select_from(tables.outbox))
    print(f"{left} left, {_size(engine):,} MiB", flush=True)
    where = "to the broker" if broker else "nowhere"
    figures.note(f"backlog/{where}", options.rows / seconds, "events/s")
    figures.note(f"backlog/{where}/memory", _memory(), "MiB")
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM eventbus_outbox"))
        print(f"{_size(engine):,} MiB after a vacuum")
    if broker:
        with kombu.Connection(broker) as connection:
            connection.default_channel.queue_delete(name)
            connection.default_channel.exchange_delete(name)
    metadata.drop_all(engine)
    engine.dispose()


class _Report:
    """A line after each tenth of the work."""

    def __init__(self, engine: Engine, rows: int) -> None:
        self._engine, self._step = engine, rows // 10
        self._tenths, self._since, self._before = 0, time.perf_counter(), 0

    def __call__(self, progress: Progress) -> None:
        if progress.delivered < self._step * (self._tenths + 1):
            return
        now, self._tenths = time.perf_counter(), progress.delivered // self._step
        rate = (progress.delivered - self._before) / (now - self._since)
        plan = f"; {_plan(self._engine)}" if self._tenths == 5 else ""
        print(
            f"{progress.delivered:>9,} delivered, {rate:>7,.0f} a second, memory {_memory()} MiB, "
            f"table {_size(self._engine):,} MiB{plan}",
            flush=True,
        )
        self._since, self._before = time.perf_counter(), progress.delivered


def _memory() -> int:
    """Resident, in MiB: now on Linux, elsewhere the most so far."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() >> 20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _size(engine: Engine) -> int:
    """Of the outbox on disk, in MiB; on SQLite of the file's used pages."""
    sizes = {
        "postgresql": "SELECT pg_total_relation_size('eventbus_outbox')",
        "sqlite": "SELECT (page_count - freelist_count) * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    }
    with engine.connect() as connection:
        return int(connection.scalar(text(sizes.get(engine.dialect.name, "SELECT 0"))) or 0) >> 20


def _pages(rows: int) -> Iterator[list[dict[str, object]]]:
    owner = f"{process.scope}-{2**22 + 1}-dead-0"
    first = time.time_ns() // 1000 - rows
    for start in range(0, rows, PAGE):
        yield [
            {"id": first + number, "owner": owner, "created_at": first, "payload": _event(number)}
            for number in range(start, min(rows, start + PAGE))
        ]


def _event(number: int) -> bytes:
    return encode(
        id=f"tx{number}-0",
        source="/crm",
        type="crm.contact.updated",
        subject=f"contact/{number}",
        time="2026-11-23T08:00:00.000000Z",
        transaction=f"tx{number}",
        data={"op": "u", "model": "crm.contact", "pk": number, "after": {"id": number, "name": "x" * 100}},
    )


def _plan(engine: Engine) -> str:
    """How the database reads the next page."""
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        first = connection.scalar(select(func.min(tables.outbox.c.id)))
        owner = connection.scalar(select(tables.outbox.c.owner).limit(1))
        query = f"SELECT id FROM eventbus_outbox WHERE id > {first} AND owner = '{owner}' ORDER BY id LIMIT 1000"
        rows = connection.execute(text(f"{explain} {query}")).all()
    return " / ".join(str(row[-1] if len(row) < 9 else row[5]).strip() for row in rows)


if __name__ == "__main__":
    raise SystemExit(main())
