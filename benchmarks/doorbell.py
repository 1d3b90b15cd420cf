"""How a relay may learn of a commit on PostgreSQL, and at what cost: `python -m benchmarks.doorbell`.

Writers commit one changed row and one outbox row each, in four processes of four threads, in turns:

* nothing: the relay polls
* notify: `NOTIFY` in the writer's transaction
* side: a thread of each process sends `NOTIFY` over a connection of its own, at most once in 5 ms

Printed are commits a second and the writers' CPU a commit; then what a poll costs that finds nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import threading
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from sqlalchemy import URL, create_engine

from benchmarks import figures, places
from eventbus.outbox import Owner, Store, metadata
from eventbus.relay.readers import reader_of

PROCESSES = THREADS = 4
WAYS = ("nothing", "notify", "side")
PAYLOAD = b"x" * 760


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args(argv)
    with places.directory() as base, places.database("postgresql", base) as database:
        measure(database, options.rounds, options.seconds)
    return 0


def measure(database: URL, rounds: int, seconds: float) -> None:
    """In a database without an outbox."""
    engine = create_engine(database)
    metadata.create_all(engine)
    url = database.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE bench_doorbell (id int PRIMARY KEY, value int)")
        connection.execute("INSERT INTO bench_doorbell SELECT n, 0 FROM generate_series(0, 15) n")
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(writing(url, way, seconds))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("TRUNCATE eventbus_outbox")
    for way, measured in found.items():
        figures.note_median(f"doorbell/{way}", [commits for commits, _ in measured], "commits/s")
        figures.note_median(f"doorbell/{way}/cpu", [cpu * 1e6 for _, cpu in measured], "µs a commit")
    store = Store(engine, Owner())
    reader = reader_of(store, everything=False)
    figures.note("doorbell/a look that finds nothing", cost(lambda: reader.read(0, sure=True)) * 1e6, "µs")
    reader.close()
    store.close()
    engine.dispose()


def writing(url: str, way: str, seconds: float) -> tuple[float, float]:
    """Commits a second of all writers, and seconds of their CPU a commit."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        counted = pool.starmap(_process, [(url, way, seconds, number) for number in range(PROCESSES)])
    commits = sum(each[0] for each in counted)
    return commits / seconds, sum(each[1] for each in counted) / commits


def _process(url: str, way: str, seconds: float, number: int) -> tuple[int, float]:
    counts = [0] * THREADS
    rung, over = threading.Event(), threading.Event()
    threads = [
        threading.Thread(target=_write, args=(url, way, seconds, number * THREADS + each, counts, rung))
        for each in range(THREADS)
    ]
    if way == "side":
        threading.Thread(target=_ring, args=(url, rung, over), daemon=True).start()
    before = _cpu()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    return sum(counts), _cpu() - before


def _write(url: str, way: str, seconds: float, row: int, counts: list[int], rung: threading.Event) -> None:
    with psycopg.connect(url) as connection:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.execute("UPDATE bench_doorbell SET value = value + 1 WHERE id = %s", (row,))
            connection.execute(
                "INSERT INTO eventbus_outbox (owner, created_at, payload) VALUES ('bench', 0, %s)", (PAYLOAD,)
            )
            if way == "notify":
                connection.execute("NOTIFY eventbus")
            connection.commit()
            counts[row % THREADS] += 1
            if way == "side":
                rung.set()


def _ring(url: str, rung: threading.Event, over: threading.Event) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        while not over.is_set():
            if rung.wait(0.1):
                rung.clear()
                connection.execute("NOTIFY eventbus")
                time.sleep(0.005)


def cost(work: Any, times: int = 300) -> float:
    """Seconds of CPU."""
    work()
    before = _cpu()
    for _ in range(times):
        work()
    return (_cpu() - before) / times


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    raise SystemExit(main())
