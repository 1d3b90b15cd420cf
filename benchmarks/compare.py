"""How fast `eventbus compare` is, and what memory it takes: rows in a database against a mirror's state, all equal.

    python -m benchmarks.compare [--records 1000000] [--database postgresql+psycopg://…] [--writes 200]

The table (13 columns) is filled by Core, the state by the mirror's own code. With `--writes` a thread changes so many
rows a second meanwhile, one a commit, and the mirror takes them in: what counts then is that nothing is told as
different. Printed for each tenth: rows a second and resident memory; at the end the whole, also by processor time,
which is what counts on a busy machine.
"""

from __future__ import annotations

import datetime as dt
import decimal
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import click
import orjson
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import eventbus
from benchmarks import figures
from benchmarks.loaddata import Base, Contact, record
from consumers.json_mirror import filenames
from consumers.json_mirror.compared import in_state
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.state import STATE_FILE, Change, State
from eventbus.bus import Bus
from eventbus.comparison.comparing import compare
from eventbus.comparison.difference import Tally
from eventbus.comparison.doubts import Patience
from eventbus.comparison.mirror import Place
from eventbus.events.envelope import decode
from eventbus.publishers import MemoryPublisher

BATCH = 5000


@click.command()
@click.option("--records", default=1_000_000, show_default=True)
@click.option("--database", metavar="URL", help="Default: an SQLite file. The benchmark's table is made anew.")
@click.option("--writes", default=0, show_default=True, help="Changes a second meanwhile.")
def main(records: int, database: str | None, writes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="eventbus-compare-") as name:
        directory = Path(name)
        engine = sa.create_engine(database or f"sqlite:///{directory / 'bench.sqlite3'}")
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        sessions = sessionmaker(engine)
        publisher = MemoryPublisher()
        with eventbus.install(sessions, service="crm", publisher=publisher) as bus:
            fill(engine, bus, directory, records)
            with writing(sessions, bus, publisher, directory, writes, records):
                measure(engine, bus, directory, records)
        Base.metadata.drop_all(engine)
        engine.dispose()


def fill(engine: sa.Engine, bus: Bus, directory: Path, records: int) -> None:
    """Rows and state, alike."""
    entity = next(iter(bus.entities), None) or bus.entities.for_mapper(sa.inspect(Contact))
    assert entity is not None
    (directory / PRIVATE).mkdir()
    after = entity.serializer(engine.dialect).after
    with State(directory / PRIVATE / STATE_FILE) as state:
        numbers = iter(range(records))
        while some := list(islice(numbers, BATCH)):
            rows = [values(number) for number in some]
            with engine.begin() as connection:
                connection.execute(sa.insert(Contact), rows)
            shown = [orjson.loads(orjson.dumps(after(tuple(row[key] for key in entity.keys)))) for row in rows]
            state.apply([change(each, 10**15) for each in shown])


def values(number: int) -> dict[str, Any]:
    """The row of a record, as Core takes it."""
    found: dict[str, Any] = record(number)["fields"]
    found["balance"] = decimal.Decimal(found["balance"])
    found["born"] = dt.date.fromisoformat(found["born"])
    for name in ("created_at", "updated_at"):
        found[name] = dt.datetime.fromisoformat(found[name])
    return found


def change(shown: dict[str, Any], version: int) -> Change:
    directory, name = filenames.directory("crm", "contact"), filenames.filename(shown["id"])
    return Change(directory, name, "crm.contact", shown["id"], version, shown)


@contextmanager
def writing(
    sessions: Any, bus: Bus, publisher: MemoryPublisher, directory: Path, rate: int, records: int
) -> Iterator[None]:
    """Meanwhile a service that changes rows, and the mirror that takes its events in, twenty times a second."""
    over = threading.Event()

    def run() -> None:
        number, taken = 0, 0
        with State(directory / PRIVATE / STATE_FILE) as state:
            while not over.wait(0.05):
                for _ in range(rate // 20):
                    number += 7919
                    with sessions.begin() as session:
                        session.get_one(Contact, values(number % records)["id"]).phone = f"+{number}"
                messages = publisher.messages[taken:]
                taken += len(messages)
                events = [decode(message.body) for message in messages]
                state.apply([change(dict(event.after or {}), event.version) for event in events])
            print(f"{number // 7919:,} changes meanwhile")

    thread = threading.Thread(target=run)
    if rate:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if rate:
            thread.join()
    bus.flush(30)


def measure(engine: sa.Engine, bus: Bus, directory: Path, records: int) -> None:
    cpu = time.process_time()
    began = last = time.perf_counter()
    next_told = part = max(1, records // 10)

    def tell(tally: Tally) -> None:
        nonlocal last, next_told
        if tally.objects >= next_told:
            now, memory = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{tally.objects:10,} rows   {part / (now - last):8,.0f} a second   {memory:6.1f} MiB", flush=True)
            last, next_told = now, next_told + part

    with in_state(Place(str(directory))) as mirror:
        tally = compare(bus.entities, engine, mirror, models=Base, patience=Patience(3, 60), progress=tell)
    spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"{tally.objects:,} rows in {spent:.1f} s: {tally.objects / spent:,.0f} a second, {tally.found} differences")
    figures.note("compare/rows", tally.objects / spent, "rows/s")
    figures.note("compare/rows by cpu", tally.objects / cpu, "rows/s of CPU")
    if not tally.is_equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
