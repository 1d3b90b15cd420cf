"""How a backlog drains: `python -m benchmarks.backlog --database URL [--rows 1000000] [--ordering strict]`.

Fills the outbox with rows of a process that is gone, then lets a relay deliver them to a publisher that confirms
everything, and prints rows a second, the growth of memory, and what is left. With `--broker` they go to that broker.
"""

from __future__ import annotations

import argparse
import resource
import threading
import time
import uuid
from collections.abc import Iterator, Sequence

import kombu
from sqlalchemy import create_engine, func, insert, select, text

from eventbus.envelope import Message, encode
from eventbus.outbox import metadata, tables
from eventbus.outbox.account import Tempo
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
    parser.add_argument("--database", required=True, help="its outbox is dropped")
    parser.add_argument("--broker", help="an AMQP URL; default: nowhere")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ordering", choices=["fast", "strict"], default="fast")
    options = parser.parse_args(argv)
    engine = create_engine(options.database)
    metadata.drop_all(engine)
    metadata.create_all(engine)
    for page in _pages(options.rows):
        with engine.begin() as connection:
            connection.execute(insert(tables.outbox), page)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("ANALYZE eventbus_outbox"))
        print(f"{options.rows} rows written; {_plan(connection)}")

    name = f"backlog{uuid.uuid4().hex[:8]}"
    if options.broker:
        with kombu.Connection(options.broker) as broker:
            exchange = kombu.Exchange(name, type="topic", durable=True)
            limit = {"x-max-length": 10_000}  # what is measured is the way to the queue
            kombu.Queue(name, exchange, routing_key="#", queue_arguments=limit)(broker.default_channel).declare()
    report = _Report(options.rows)
    relay = Relay(
        engine,
        lambda: AmqpPublisher(options.broker, exchange=name, service="bench") if options.broker else Nowhere(),
        ordering=options.ordering,
        tempo=Tempo(sweep=0.5),
        on_progress=report,
    )
    start = time.perf_counter()
    relay.run(threading.Event(), once=True)
    seconds = time.perf_counter() - start
    with engine.connect() as connection:
        left = connection.scalar(select(func.count()).select_from(tables.outbox))
    print(f"{options.rows / seconds:,.0f} rows a second; {left} left; memory {report.memory}")
    if options.broker:
        with kombu.Connection(options.broker) as broker:
            broker.default_channel.queue_delete(name)
            broker.default_channel.exchange_delete(name)
    metadata.drop_all(engine)
    engine.dispose()
    return 0


class _Report:
    """Peak memory after each tenth of the work, in MiB."""

    def __init__(self, rows: int) -> None:
        self._step, self._next = rows // 10, 1000
        self.memory: list[int] = []

    def __call__(self, progress: Progress) -> None:
        if progress.delivered >= self._next:
            self._next = progress.delivered + self._step
            self.memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


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


def _plan(connection: object) -> str:
    """How the database reads the next page."""
    owner = connection.scalar(select(tables.outbox.c.owner).limit(1))  # type: ignore[attr-defined]
    store_query = f"SELECT id FROM eventbus_outbox WHERE id > 5 AND owner = '{owner}' ORDER BY id LIMIT 1000"
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"  # type: ignore[attr-defined]
    rows = connection.execute(text(f"{explain} {store_query}")).all()  # type: ignore[attr-defined]
    return " / ".join(str(row[-1] if len(row) < 9 else row[5]).strip() for row in rows)


if __name__ == "__main__":
    raise SystemExit(main())
