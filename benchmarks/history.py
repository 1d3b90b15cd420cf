"""The history: from a filled journal to a published tip, its size, and how long answers take.

    python -m benchmarks.history [--records 100000] [--transactions 10000]

A state is filled with records, then a journal with transactions of one to three changes each, then with large ones of
1,000, by the mirror's own code. The historian and the git follower then run as they do in production, two processes,
until the branch leads to the last transaction. Printed are the rates of that, bytes a change in SQLite and in git, the
time of a `--at` half way as a dump, and of one `why`. The mirror's own cost is the difference of `State.apply` with and
without a journal, in turns; `python -m benchmarks.chain histories` has it as a whole.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import figures
from consumers.history.git.repository import Repository
from consumers.history.reading import past
from consumers.history.reading.history import History
from consumers.history.reading.why import causes
from consumers.json_mirror.handling.intake import change
from consumers.json_mirror.state import Change, State
from eventbus.events import envelope

FIELDS = ("city", "country", "email", "first_name", "last_name", "notes", "phone", "score", "state", "street", "zip")
WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett", "kilo", "lima")
START = 1_763_884_800_000_000
BATCH = 500
SMALL, LARGE = 3, 1_000
"""The most changes of a small transaction; all of a large one."""


class Workload:
    """Records of 13 fields, some 600 bytes a file; transactions change one to three fields of each record.

    `start` is the first version, in microseconds since 1970; a mirror takes unknown records of the last days alone.
    """

    def __init__(self, records: int, start: int = START) -> None:
        self._random = random.Random(7)
        self._start = self._version = start
        self.rows = [{"id": f"r{n:08x}", **{name: self._value(name) for name in FIELDS}} for n in range(records)]

    def _value(self, name: str) -> str:
        return " ".join(self._random.choices(WORDS, k=18 if name == "notes" else 2))

    def snapshot(self) -> Iterator[bytes]:
        for n, row in enumerate(self.rows):
            yield self._body(f"s{n}", row, "r", (), {}, size=1, version=self._start)

    def transactions(self, count: int, most: int, least: int = 1) -> Iterator[list[bytes]]:
        for number in range(count):
            self._version += self._random.randint(200, 2000)
            rows = self._random.sample(self.rows, self._random.randint(least, most))
            yield [self._change(f"t{number}", row, len(rows)) for row in rows]

    def _change(self, transaction: str, row: dict[str, str], size: int) -> bytes:
        changed = self._random.sample(FIELDS, self._random.randint(1, 3))
        before = {name: row[name] for name in changed}
        row.update({name: self._value(name) for name in changed})
        return self._body(transaction, row, "u", changed, before, size=size, version=self._version)

    def _body(
        self, transaction: str, row: Any, op: str, changed: Any, before: Any, *, size: int, version: int
    ) -> bytes:
        data = {
            "op": op, "model": "crm.contact", "pk": row["id"], "before": before, "after": row, "changed": changed,
            "author": f"u{version % 40}", "transaction": {"id": transaction, "index": 0, "size": size},
        }  # fmt: skip
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(version // 10**6))
        made = envelope.encode(
            id=f"{transaction}-0", source="/crm", type="crm.contact.updated", subject=f"contact/{row['id']}",
            time=f"{moment}.{version % 10**6:06d}Z", transaction=transaction, data=data,
        )  # fmt: skip
        return envelope.seal(made, version)


def changes_of(bodies: list[bytes]) -> list[Change]:
    return [change(envelope.decode(body)) for body in bodies]


def fill(state: State, bodies: Iterator[bytes]) -> int:
    """Apply them in batches, as the mirror does; how many it were."""
    batch: list[bytes] = []
    count = 0
    for body in bodies:
        batch.append(body)
        if len(batch) == BATCH:
            count += len(batch)
            state.apply(changes_of(batch), events=batch if state.journal else ())
            batch = []
    state.apply(changes_of(batch), events=batch if state.journal else ())
    return count + len(batch)


def follow(data_dir: Path, kind: str = "git") -> tuple[float, float]:
    """The processes of this kind of history, until they have done all; seconds, and seconds of CPU."""
    environment = {**os.environ, "EVENTBUS_HISTORY": kind, "DATA_DIR": str(data_dir)}
    before, started = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "consumers.history", "follow", "--watched"]
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, cpu


def sizes(data_dir: Path) -> tuple[int, int]:
    private = data_dir / ".eventbus"
    git = sum(each.stat().st_size for each in (private / "history.git").rglob("*") if each.is_file())
    return (private / "history.sqlite3").stat().st_size, git


def journal_cost(directory: Path, workload: Workload) -> None:
    """`State.apply` with a journal and without one, in turns, by CPU."""
    spent = {True: 0.0, False: 0.0}
    states = {kept: State(directory / f"cost-{kept}.sqlite3") for kept in spent}
    states[True].keep_journal(directory / "none.sqlite3", 1 << 40)
    events = 0
    for _ in range(60):
        batch = [body for bodies in workload.transactions(250, 3) for body in bodies]
        changes = changes_of(batch)
        events += len(batch)
        for kept in (True, False):
            began = time.process_time()
            states[kept].apply(changes, events=batch if kept else ())
            spent[kept] += time.process_time() - began
    for state in states.values():
        state.close()
    without, with_ = (spent[kept] / events * 1e6 for kept in (False, True))
    figures.note("history/commit", without, "µs an event")
    figures.note("history/commit with journal", with_, "µs an event")


def measure(data_dir: Path, records: int, transactions: int) -> None:
    (data_dir / ".eventbus").mkdir()
    workload = Workload(records)
    with State(data_dir / ".eventbus" / "state.sqlite3") as state:
        fill(state, workload.snapshot())
        state.keep_journal(data_dir / ".eventbus" / "history.sqlite3", 1 << 40)
    seconds, _ = follow(data_dir)
    print(f"baseline of {records:,} records: {seconds:.1f} s")
    repository = Repository(data_dir / ".eventbus" / "history.git")
    repository.repack_all()
    sqlite, git = sizes(data_dir)
    changes, seconds, cpu = journalled(data_dir, workload.transactions(transactions, SMALL))
    figures.note("history/small/commits", transactions / seconds, "commits/s")
    figures.note("history/small/cpu", cpu / transactions * 1e6, "µs a commit")
    large = min(LARGE, records)
    more, seconds, cpu = journalled(data_dir, workload.transactions(max(transactions // 100, 1), large, large))
    figures.note("history/large/changes", more / seconds, "changes/s")
    figures.note("history/large/cpu", cpu / more * 1e6, "µs a change")
    changes += more
    more_sqlite, more_git = (now - then for now, then in zip(sizes(data_dir), (sqlite, git), strict=True))
    figures.note("history/SQLite", more_sqlite / changes, "bytes a change")
    figures.note("history/git as written", more_git / changes, "bytes a change")
    ask(data_dir)
    repository.repack_all()
    figures.note("history/git in one pack", (sizes(data_dir)[1] - git) / changes, "bytes a change")


def journalled(data_dir: Path, transactions: Iterator[list[bytes]]) -> tuple[int, float, float]:
    """How many changes that were, and the seconds from a full journal to the tip; also of processor time."""
    with State(data_dir / ".eventbus" / "state.sqlite3") as state:
        state.keep_journal(data_dir / ".eventbus" / "history.sqlite3", 1 << 40)
        changes = fill(state, (body for bodies in transactions for body in bodies))
    idle, idle_cpu = follow_nothing()
    seconds, cpu = follow(data_dir)
    # Starting, and waiting for what may still come, is no part of the rate.
    return changes, max(seconds - idle, 0.001), cpu - idle_cpu


def follow_nothing() -> tuple[float, float]:
    """What the processes take where there is nothing to do."""
    with tempfile.TemporaryDirectory() as other:
        (Path(other) / ".eventbus").mkdir()
        with State(Path(other) / ".eventbus" / "state.sqlite3") as state:
            state.keep_journal(Path(other) / ".eventbus" / "history.sqlite3", 1 << 30)
        return follow(Path(other))


def ask(data_dir: Path) -> None:
    with History(data_dir / ".eventbus" / "history.sqlite3") as history:
        began = time.perf_counter()
        count = sum(1 for _ in past.records(history, history.notes.position // 2))
        print(f"all {count:,} records half way back:")
        figures.note("history/at", time.perf_counter() - began, "s")
        began = time.perf_counter()
        for number in range(100):
            next(causes(history, f"crm/contact/r{number:08x}.json", "phone"))
        figures.note("history/why", (time.perf_counter() - began) * 10, "ms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--transactions", type=int, default=10_000, help="small ones; of large ones a hundredth")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        journal_cost(Path(directory), Workload(20_000))
        home = Path(directory) / "data"
        home.mkdir()
        measure(home, options.records, options.transactions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
