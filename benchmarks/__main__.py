"""All benchmarks, one after another: `make bench`, or `python -m benchmarks`.

    python -m benchmarks [--quick] [--only writer-sqlite] [--missing] [--list] [--render]

Each part is a command of its own with `--help`. What it finds goes into `benchmarks/results.json` as soon as it is
done, in the place of what was there, so that a run that was stopped goes on with `--missing`. At the end the tables of
docs/benchmarks.md, the numbers of README and the plots are made from that file; `--render` does only this.

RabbitMQ must answer at `EVENTBUS_URL`; servers that do not answer are left out (see `benchmarks.places`). Databases,
queues, keys and directories have names of their own and are removed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import figures, places, plots, tables
from benchmarks.results import FILE, Results, machine

LONGEST: Final = 900.0
"""Seconds of one part."""
NEEDS: Final = {
    **dict.fromkeys(
        (
            "writer-postgresql",
            "growth-commits",
            "chain",
            "latency",
            "backlog",
            "wire",
            "outage",
            "statements",
            "doorbell",
            "where",
        ),
        "postgresql",
    ),
    "writer-mariadb": "mariadb",
}
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "writer-sqlite": ("benchmarks.writer", "--database", "sqlite"),
    "writer-postgresql": ("benchmarks.writer", "--database", "postgresql"),
    "writer-mariadb": ("benchmarks.writer", "--database", "mariadb", "--rounds", "3"),
    "growth-commits": ("benchmarks.writer", "--database", "postgresql", "--growth", "--rounds", "3"),
    "chain": ("benchmarks.chain", "throughput"),
    "latency": ("benchmarks.chain", "latency"),
    "shards": ("benchmarks.chain", "shards"),
    "growth-records": ("benchmarks.chain", "growth"),
    "serialization": ("benchmarks.serialization",),
    "publishing": ("benchmarks.publishing",),
    "consumer": ("benchmarks.consumer",),
    "loaddata": ("benchmarks.loaddata",),
    "loaddata-large": ("benchmarks.loaddata", "--megabytes", "100"),
    "backlog": ("benchmarks.backlog", "--rows", "100000"),
    "wire": ("benchmarks.wire",),
    "outage": ("benchmarks.outage", "--seconds", "5"),
    "statements": ("benchmarks.statements", "--turns", "15"),
    "doorbell": ("benchmarks.doorbell", "--rounds", "3", "--seconds", "2"),
    "compare": ("benchmarks.compare", "--records", "100000"),
    "history": ("benchmarks.history",),
    "histories": ("benchmarks.chain", "histories"),
    "pages": ("benchmarks.pages",),
    "observing": ("benchmarks.observing",),
    "where": ("benchmarks.where",),
}
QUICK: Final[dict[str, tuple[str, ...]]] = {
    "serialization": ("--rounds", "30"),
    "publishing": ("--rounds", "2", "--messages", "1000"),
    "consumer": ("--rounds", "1", "--messages", "2000"),
    "loaddata": ("--rounds", "1", "--rows", "2000"),
    "loaddata-large": ("--megabytes", "10"),
    "backlog": ("--rows", "10000"),
    "wire": ("--rounds", "1", "--events", "10000"),
    "outage": ("--seconds", "1"),
    "statements": ("--turns", "3"),
    "doorbell": ("--rounds", "1", "--seconds", "0.5"),
    "compare": ("--records", "5000"),
    "history": ("--records", "1000", "--transactions", "500"),
    "pages": ("--records", "1000", "--viewers", "10", "--seconds", "2", "--rounds", "1", "--messages", "1000"),
    "observing": ("--turns", "20"),
    "where": ("--seconds", "0.2"),
}
"""Options of the short form; the others have `--quick`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help="only this one; repeatable")
    parser.add_argument("--missing", action="store_true", help="only what results.json lacks")
    parser.add_argument("--quick", action="store_true", help="a short form, which results.json does not keep")
    parser.add_argument("--list", action="store_true", help="name the parts with their commands, and end")
    parser.add_argument("--render", action="store_true", help="make tables and plots, and end")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.list:
        for name, command in PARTS.items():
            print(f"{name:<18} python -m {' '.join(command)}")
        return 0
    failed = [] if options.render else _run_all(options)
    if not options.quick:
        _render()
    for name in failed:
        print(f"failed: {name}")
    return 1 if failed else 0


def _render() -> None:
    plots.render()
    try:
        tables.render()
    except KeyError as missing:
        print(f"the pages are as they were: {missing} was not measured")


def _run_all(options: argparse.Namespace) -> list[str]:
    """The names of those that failed."""
    servers = places.available()
    results = Results.load()
    here = machine(servers)
    if results.parts and any(results.machine.get(key) != here[key] for key in ("processor", "cores", "memory")):
        raise SystemExit(f"{FILE.name} is of another machine: remove it, and measure all parts")
    results.machine = here
    names = [name for name in options.only or PARTS if NEEDS.get(name, "rabbitmq") in servers]
    if options.missing:
        names = [name for name in names if not results.has(name)]
    failed = []
    for number, name in enumerate(names, 1):
        print(f"\n== {time.strftime('%H:%M:%S')} {number} of {len(names)}: {name}", flush=True)
        if not _run(name, results, quick=options.quick):
            failed.append(name)
    return failed


def _run(name: str, results: Results, *, quick: bool) -> bool:
    """Whether it went well. What was found before a failure is kept where there is nothing better."""
    command = PARTS[name] + (QUICK.get(name, ("--quick",)) if quick else ())
    date = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    about: dict[str, Any] = {
        "date": date,
        "command": f"python -m {' '.join(command)}",
        "load": round(os.getloadavg()[0], 1),
    }
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        gathered = Path(directory) / "figures"
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, figures.VARIABLE: str(gathered)},
            start_new_session=True,  # it is told to end by us, who keep what it has found first
        )
        is_done = False
        try:
            is_done = process.wait(LONGEST) == 0
        except subprocess.TimeoutExpired:
            print(f"it took more than {LONGEST:.0f} s")
        finally:
            found, seconds = figures.read(gathered), round(time.monotonic() - began)
            print(f"-- {name}: {len(found)} figures in {seconds} s", flush=True)
            if found and not quick and (is_done or not results.has(name)):
                found[f"load/{name}"] = figures.Figure(about["load"], "processes")
                results.put(name, found, **about, seconds=seconds, is_complete=is_done)
                results.save()
            _end(process)
    return is_done


def _end(process: subprocess.Popen[bytes]) -> None:
    """It has time to remove what it made."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
