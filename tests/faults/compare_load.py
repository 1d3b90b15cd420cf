"""`eventbus compare` beside a service that writes: `python -m tests.faults.compare_load --records 1000000`.

The whole chain is real: a service in a process of its own changes, inserts and deletes rows (a quarter of the changes
hit twenty hot rows), RabbitMQ carries the events, a mirror takes them in. Beside it, in this order:

1. `eventbus compare` must find nothing; its rows a second and its memory are told.
2. Differences of each kind are planted where the service does not write: the same command must find exactly those.
3. `--heal` must mend them; and once the service has ended, a last comparison must find both sides equal. That is also
   looked at without `compare`.

The mirror's state is filled by the mirror's own code before it starts. Up to 100,000 records it writes their files too,
which are then compared as well.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import orjson
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import eventbus
from benchmarks.compare import fill, values
from benchmarks.loaddata import Base, Contact
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.state import STATE_FILE, State
from eventbus.publishers import MemoryPublisher
from tests.support.chain import Place, Service
from tests.support.committing import eventually
from tests.support.databases import fresh_postgres

PLANTED: Final = 100
"""Differences of each kind."""
_HOT: Final = 20
_INSERTED: Final = 10_000_000
"""The number of the first row that the service inserts; its keys are even, like those it changes."""
_WITH_FILES: Final = 100_000
_SERVICE: Final = "from tests.faults.compare_load import serve; serve({url!r}, {rate}, {records})"


def serve(url: str, rate: int, records: int) -> None:
    """The service: two threads that commit one change each time, `rate` a second together, until a line comes.

    Prints "begun", and at the end how many it were.
    """
    engine, over = sa.create_engine(url), threading.Event()
    sessions, counts = sessionmaker(engine), [0, 0]
    with eventbus.install(sessions, service="crm"):
        threads = [
            threading.Thread(target=_write, args=(sessions, over, rate / 2, records, counts, index)) for index in (0, 1)
        ]
        for thread in threads:
            thread.start()
        print("begun", flush=True)
        sys.stdin.readline()
        over.set()
        for thread in threads:
            thread.join()
    engine.dispose()
    print(sum(counts), flush=True)


def _write(sessions: Any, over: threading.Event, rate: float, records: int, counts: list[int], index: int) -> None:
    chance, began, inserted = random.Random(index), time.perf_counter(), _INSERTED + index * 2
    alive: list[int] = []
    while not over.is_set():
        if over.wait(max(0.0, began + counts[index] / rate - time.perf_counter())):
            return
        counts[index] += 1
        with sessions.begin() as session:
            match counts[index] % 20:
                case 0:
                    inserted += 4
                    alive.append(inserted)
                    session.add(Contact(**values(inserted)))
                case 10 if len(alive) > 5:
                    session.delete(session.get_one(Contact, values(alive.pop(0))["id"]))
                case step:
                    most = _HOT if step % 4 == 1 else records // 2
                    number = 2 * chance.randrange(most)
                    session.get_one(Contact, values(number)["id"]).phone = f"+{index}{counts[index]}"


@dataclass(slots=True)
class Comparison:
    """One run of the command: its summary, its differences by kind, and what it took. Seconds; memory in MiB."""

    code: int
    summary: dict[str, Any]
    kinds: Counter[str]
    seconds: float
    cpu: float
    memory: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        rows, tenths = self.summary["rows"], len(self.memory) // 10 or 1
        speed, by_cpu = rows / self.seconds, rows / self.cpu
        return (
            f"{rows:,} rows in {self.seconds:.1f} s ({speed:,.0f} a second, {by_cpu:,.0f} by CPU), "
            f"{dict(self.kinds)}, in flight {self.summary['in_flight']}, healed {self.summary['healed']}; "
            f"MiB: {', '.join(f'{each:.0f}' for each in self.memory[::tenths])}"
        )


class Trial:
    """A database, a broker's exchange and queue, a mirror, all of its own."""

    def __init__(self, url: str, place: Place, *, records: int, rate: int) -> None:
        self._url, self._place, self._records, self._rate = url, place, records, rate
        self._engine = sa.create_engine(url)
        self._environment = {
            "DATABASE_URL": url,
            "EVENTBUS_MODELS": "benchmarks.loaddata:Base",
            "EVENTBUS_SERVICE": "crm",
            "DATA_DIR": str(place.data_dir),
        }

    def begin(self) -> Service:
        """Fill both sides, start the mirror and the service."""
        Base.metadata.create_all(self._engine)
        place, state = self._place, self._place.data_dir / PRIVATE / STATE_FILE
        place.data_dir.mkdir()
        with eventbus.install(
            sessionmaker(self._engine), service="crm", publisher=MemoryPublisher(), create_outbox=True
        ) as bus:
            fill(self._engine, bus, place.data_dir, self._records)
        with State(state) as filled:
            filled.settle(filled.last_batch)
        if self._records > _WITH_FILES:
            (place.data_dir / "crm" / "contact").mkdir(parents=True)  # where it is missing, a start writes all files
        place.mirror(**self._environment)
        service = place.start(_SERVICE.format(url=self._url, rate=self._rate, records=self._records))
        assert service.line() == "begun"
        return service

    def compare(self, *options: str) -> Comparison:
        """Run the command; what it found is in what is returned."""
        command = [sys.executable, "-m", "eventbus", "compare", "--json", *options]
        out = self._place.directory / "compare.out"
        before, began, memory = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), []
        with out.open("w") as stream:
            process = subprocess.Popen(command, env=self._place.environment | self._environment, stdout=stream)
            while process.poll() is None:
                memory.append(_resident(process.pid))
                time.sleep(0.1)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        *found, summary = [orjson.loads(line) for line in out.read_bytes().splitlines()]
        kinds = Counter(each["kind"] for each in found)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Comparison(process.returncode, summary, kinds, seconds, cpu, [each for each in memory if each])

    def plant(self) -> None:
        """Differences that no event tells of, at odd numbers, where the service does not write."""
        table = Contact.__table__
        keys = [values(number)["id"] for number in range(1, 4 * PLANTED, 2)]
        with self._engine.begin() as connection:
            connection.execute(sa.delete(table).where(table.c.id.in_(keys[:PLANTED])))
            spoilt = table.c.id.in_(keys[PLANTED : 2 * PLANTED])
            connection.execute(sa.update(table).where(spoilt).values(last_name="Martin", rating=-1.5))
            connection.execute(
                sa.insert(table), [values(self._records + number) for number in range(1, 2 * PLANTED, 2)]
            )

    def is_equal(self) -> bool:
        """The sum of all records is the same on both sides; `compare` has no part in it."""
        return self._sum_of_rows() == self._sum_of_state()

    def _sum_of_rows(self) -> int:
        columns = Contact.id, Contact.phone, Contact.last_name, Contact.rating, Contact.visits
        with self._engine.connect() as connection:
            rows = connection.execution_options(yield_per=5000).execute(sa.select(*columns))
            return sum(hash(tuple(row)) for row in rows)

    def _sum_of_state(self) -> int:
        return sum(hash(each) for each in self._records_of_state())

    def _records_of_state(self) -> Iterator[tuple[Any, ...]]:
        with State(self._place.data_dir / PRIVATE / STATE_FILE, read_only=True) as state:
            for records in state.records():
                for record in records:
                    if record.document is not None:
                        fields = orjson.loads(record.document)["fields"]
                        yield tuple(fields[name] for name in ("id", "phone", "last_name", "rating", "visits"))

    def run(self) -> Iterator[Comparison]:
        """All of it; AssertionError where anything is not as it must be. Yields each comparison."""
        service = self.begin()
        quiet = self.compare()
        yield quiet
        assert (quiet.code, quiet.kinds, quiet.summary["in_flight"]) == (0, {}, 0), quiet
        self.plant()
        kinds = {"missing": PLANTED, "extra": PLANTED, "different": PLANTED}
        found = self.compare()
        yield found
        assert (found.code, found.kinds, found.summary["in_flight"]) == (1, kinds, 0), found
        healed = self.compare("--heal")
        yield healed
        assert (healed.code, healed.kinds, healed.summary["healed"]) == (0, kinds, 3 * PLANTED), healed
        service.say()
        click.echo(f"{int(service.line()):,} changes meanwhile")
        service.end()
        eventually(self.is_equal, 60)
        last = self.compare()
        yield last
        assert (last.code, last.kinds) == (0, {}), last
        if self._records <= _WITH_FILES:
            files = self.compare("--against", "files")
            assert (files.code, files.kinds) == (0, {}), files
        self._engine.dispose()


def _resident(pid: int) -> float:
    """MiB; 0 of a process that is just ending."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


@click.command()
@click.option("--records", default=1_000_000, show_default=True)
@click.option("--writes", default=200, show_default=True, help="A second.")
@click.option("--url", default=lambda: os.environ.get("EVENTBUS_URL", "amqp://guest:guest@localhost//"))
@click.option("--server", default="postgresql+psycopg://postgres@127.0.0.1/postgres", show_default=True)
def main(records: int, writes: int, url: str, server: str) -> None:
    """Compare, plant, compare, heal, compare."""
    name = f"compare-{uuid.uuid4().hex[:9]}"
    with (
        tempfile.TemporaryDirectory(prefix="eventbus-compare-") as directory,
        fresh_postgres(server, name) as database,
        Place(Path(directory), url=url, name=name) as place,
    ):
        began = time.perf_counter()
        for comparison in Trial(database, place, records=records, rate=writes).run():
            click.echo(f"{time.perf_counter() - began:6.0f} s: {comparison}")


if __name__ == "__main__":
    main()
