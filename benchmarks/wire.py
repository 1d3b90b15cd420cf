"""What batches on the wire bring: `python -m benchmarks.wire [--rounds 3] [--events 100000]`.

The same events in single messages and in batches, in turns. They are of transactions of a thousand new records each, as
the writer puts them into outbox rows.

* drain: an outbox full of a dead process's rows, and a relay that takes them to the broker until none is left.
* mirror: a full queue, and a mirror of its own process that has it all in Redis; its files are on a RAM disk. The clock
  starts as the mirror is let go on, and stops with the last record in Redis. Until all of its files are on the disk too
  is a figure of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from sqlalchemy import Engine, create_engine, func, insert, select, text

from benchmarks import figures, places, processes
from benchmarks.chain import mirrors
from benchmarks.chain.throughput import empty_redis, ram, records_in, url_of
from eventbus.delivery.tempo import Tempo
from eventbus.events.envelope import Batch, encode
from eventbus.outbox import metadata, tables
from eventbus.outbox.owner import process
from eventbus.publishers import publisher_for
from eventbus.relay import Relay
from eventbus.settings import Settings

WIRES: Final = ("single", "batch")
TRANSACTION: Final = 1000
ROW: Final = 256
"""Events of a transaction; of one row of the outbox."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--only", choices=["drain", "mirror"])
    options = parser.parse_args(argv)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for wire in WIRES:
            if options.only != "mirror":
                drain(wire, options.events, found)
            if options.only != "drain":
                mirror(wire, options.events, found)
    for name, values in found.items():
        unit = "MiB" if name.endswith("memory") else "µs an event" if name.endswith("cpu") else "events/s"
        figures.note_median(name, values, unit)
    return 0


def settings_of(name: str, wire: str) -> Settings:
    """Those of whoever publishes to that queue."""
    return replace(Settings(url=places.BROKER, service="crm", exchange=name, queue=name), wire=wire)  # type: ignore[arg-type]


def drain(wire: str, events: int, found: dict[str, list[float]]) -> None:
    """Fill the outbox and empty it."""
    with places.directory() as base, places.database("postgresql", base) as url, places.queue() as name:
        engine = create_engine(url)
        fill(engine, events)
        settings = settings_of(name, wire)
        relay = Relay(engine, lambda: publisher_for(settings), tempo=Tempo(sweep=0.5))
        began, before = time.perf_counter(), time.process_time()
        relay.run(threading.Event(), once=True)
        seconds, cpu = time.perf_counter() - began, time.process_time() - before
        with engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(tables.outbox)) == 0
        engine.dispose()
    found[f"wire/drain/{wire}"].append(events / seconds)
    found[f"wire/drain/{wire}/cpu"].append(cpu / events * 1e6)


def fill(engine: Engine, events: int) -> None:
    """The outbox of a process that is gone."""
    metadata.create_all(engine)
    owner = f"{process.scope}-{2**22 + 1}-dead-0"
    rows = [
        {"id": each.version, "owner": owner, "created_at": each.version, "payload": b"\n".join(each.bodies)}
        for each in batches(events)
    ]
    with engine.begin() as connection:
        connection.execute(insert(tables.outbox), rows)
        connection.execute(text("ANALYZE eventbus_outbox"))


def batches(events: int) -> Iterator[Batch]:
    """What the writer would make of so many new records."""
    version = time.time_ns() // 1000 - 2 * events
    for start in range(0, events, TRANSACTION):
        stop = min(events, start + TRANSACTION)
        for first in range(start, stop, ROW):
            numbers = range(first, min(stop, first + ROW))
            version += 1
            bodies = [event(number, f"0193-{start:09d}", number - start) for number in numbers]
            yield Batch(version, f"0193-{start:09d}", ["crm.contact.created"] * len(bodies), bodies, first - start)


def event(number: int, transaction: str, index: int) -> bytes:
    """A record of a few columns, whole as a service tells it."""
    after = {
        "id": number,
        "name": f"Contact {number}",
        "phone": f"+32 2 {number}",
        "email": f"contact{number}@example.org",
    }
    return encode(
        id=f"{transaction}-{index}",
        source="/crm",
        type="crm.contact.created",
        subject=f"contact/{number}",
        time="2026-11-23T08:00:00.000000Z",
        transaction=transaction,
        data={
            "op": "c",
            "model": "crm.contact",
            "pk": number,
            "before": None,
            "after": after,
            "changed": [],
            "author": "u1",
            "transaction": {"id": transaction, "index": index, "size": TRANSACTION},
        },
    )


def mirror(wire: str, events: int, found: dict[str, list[float]]) -> None:
    """Fill the queue while the mirror is stopped, and let it go on."""
    with ExitStack() as stack:
        name = stack.enter_context(places.queue())
        base = stack.enter_context(ram())
        cache = stack.enter_context(empty_redis())
        (running,) = stack.enter_context(mirrors.running(places.BROKER, name, base, cache=url_of(cache)))
        pid = running.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            publish(name, wire, events)
            before = processes.cpu(pid)
        finally:
            os.kill(pid, signal.SIGCONT)
        began = time.monotonic()
        mirrors.wait_until(lambda: cache.dbsize() >= events and records_in(cache) >= events, "the last record in Redis")
        found[f"wire/mirror/{wire}/Redis"].append(events / (time.monotonic() - began))
        mirrors.wait_for([running], events)
        found[f"wire/mirror/{wire}/files"].append(events / (time.monotonic() - began))
        found[f"wire/mirror/{wire}/cpu"].append((processes.cpu(pid) - before) / events * 1e6)
        found[f"wire/mirror/{wire}/memory"].append(processes.memory(pid))


def publish(name: str, wire: str, events: int) -> None:
    """Into the queue."""
    publisher = publisher_for(settings_of(name, wire))
    try:
        for each in batches(events):
            publisher.publish(each.messages())
    finally:
        publisher.close()


if __name__ == "__main__":
    raise SystemExit(main())
