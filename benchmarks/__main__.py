"""All benchmarks in a short form, one after another: `make bench`.

Each is a command of its own with `--help` and longer runs. They need RabbitMQ (EVENTBUS_URL, or the local default) and,
for the PostgreSQL figures, a scratch database in BENCH_DATABASE. Every figure is measured beside its peer or limit in
the same run; quote the ratios, since absolute figures are the machine's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def commands(directory: Path) -> list[tuple[str, list[str]]]:
    """What is run: a title, and module and arguments."""
    broker = os.environ.get("EVENTBUS_URL", "amqp://guest:guest@localhost//")
    databases = {"SQLite": f"sqlite:///{directory / 'bench.sqlite3'}"}
    if "BENCH_DATABASE" in os.environ:
        databases["PostgreSQL"] = os.environ["BENCH_DATABASE"]
    listed: list[tuple[str, list[str]]] = []
    for name, url in databases.items():
        for title, options in (
            ("commits of 1 row", ["--turns", "400"]),
            ("commits of 1,000 inserts", ["--rows", "1000", "--turns", "20"]),
            ("commits of 1,000 updates", ["--rows", "1000", "--turns", "20", "--update"]),
        ):
            listed.append((f"capture alone, {title}, {name}", ["benchmarks.capture", "--database", url, *options]))
            whole = ["benchmarks.writer", "--database", url, "--broker", broker, *options]
            listed.append((f"everything on, {title}, {name}", whole))
        listed.append((f"statements, {name}", ["benchmarks.statements", "--database", url, "--turns", "20"]))
    if "PostgreSQL" in databases:
        url = databases["PostgreSQL"]
        listed += [
            ("commits while the broker is in trouble", ["benchmarks.outage", "--database", url, "--seconds", "5"]),
            ("a backlog", ["benchmarks.backlog", "--database", url, "--rows", "100000"]),
        ]
    listed += [
        ("a row to JSON", ["benchmarks.serialization"]),
        ("confirmed publishing", ["benchmarks.publishing"]),
        ("a consumer that only acknowledges", ["benchmarks.consumer"]),
        ("the mirror: throughput", ["benchmarks.mirror", "throughput"]),
        *(
            (f"the mirror: commit to file, {name}", ["benchmarks.mirror", "latency", "--database", url])
            for name, url in databases.items()
        ),
        ("the history", ["benchmarks.history"]),
        ("loaddata", ["benchmarks.loaddata"]),
        ("compare", ["benchmarks.compare", "--records", "100000"]),
    ]
    return listed


def main() -> int:
    """Run all; 1 if one of them failed."""
    failed = []
    with tempfile.TemporaryDirectory() as directory:
        for title, (module, *arguments) in commands(Path(directory)):
            print(f"\n== {time.strftime('%H:%M:%S')} {title}", flush=True)
            if subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode:
                failed.append(title)
    for title in failed:
        print(f"failed: {title}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
