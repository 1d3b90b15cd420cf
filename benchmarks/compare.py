"""How fast `eventbus compare` is, and what memory it takes: rows in a database against a mirror's state, all equal.

    python -m benchmarks.compare [--records 1000000] [--database postgresql+psycopg://…] [--writes 200]

The table (13 columns) is filled by Core, the state by the mirror's own code. With `--writes` a process of its own
changes so many rows a second meanwhile, one a commit, and takes the events into the state, with a mirror's signs of
life: what counts then is that nothing is told as different. (`tests.faults.compare_load` does so with the real chain.)
Printed for each tenth: rows a second and resident memory; at the end the whole, also by
processor time, which is what counts on a busy machine.
"""

from __future__ import annotations

import datetime as dt
import decimal
import resource
import subprocess
import sys
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
from consumers.json_mirror.heartbeat import Heartbeat
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
@click.option("--writer", type=click.Path(path_type=Path), hidden=True)
def main(records: int, database: str | None, writes: int, writer: Path | None) -> None:
    if writer is not None:
        write(sa.create_engine(str(database)), writer, writes, records)
        return
    with tempfile.TemporaryDirectory(prefix="eventbus-compare-") as name:
        directory = Path(name)
        url = database or f"sqlite:///{directory / 'bench.sqlite3'}"
        engine = sa.create_engine(url)
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        sessions = sessionmaker(engine)
        with eventbus.install(sessions, service="crm", publisher=MemoryPublisher()) as bus:
            fill(engine, bus, directory, records)
            with writing(url, directory, writes, records):
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
def writing(url: str, directory: Path, rate: int, records: int) -> Iterator[None]:
    """Meanwhile a service that changes rows, and the mirror that takes its events in."""
    if not rate:
        yield
        return
    command = [sys.executable, "-m", __spec__.name, "--writer", str(directory), "--database", url]
    command += ["--writes", str(rate), "--records", str(records)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        began = time.perf_counter()
        yield
        said, _ = process.communicate("")  # the end of its input is its end
        print(f"{int(said) / (time.perf_counter() - began):,.0f} changes a second meanwhile, {int(said):,} in all")


def write(engine: sa.Engine, directory: Path, rate: int, records: int) -> None:
    """Change rows, twenty times a second those that are due, until the input ends; print how many there were."""
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    sessions, publisher = sessionmaker(engine), MemoryPublisher()
    signs = [Heartbeat(directory / PRIVATE / name) for name in ("heartbeat", "caught-up")]
    for sign in signs:
        sign.beat()
    print("begun", flush=True)
    with (
        eventbus.install(sessions, service="crm", publisher=publisher) as bus,
        State(directory / PRIVATE / STATE_FILE) as state,
    ):
        done, began = 0, time.perf_counter()
        while not over.wait(0.05):
            due = int((time.perf_counter() - began) * rate) - done
            for _ in range(min(due, rate // 10)):  # the events go on their way however slow the machine is
                done += 1
                with sessions.begin() as session:
                    session.get_one(Contact, values(done * 7919 % records)["id"]).phone = f"+{done}"
            bus.flush(30)
            events = [decode(message.body) for message in publisher.messages]
            publisher.clear()
            state.apply([change(dict(event.after or {}), event.version) for event in events])
            for sign in signs:  # nothing is on its way at this moment
                sign.beat()
    print(done)


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
