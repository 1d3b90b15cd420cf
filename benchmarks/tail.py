"""How soon `eventbus tail` shows a commit: `python -m benchmarks.tail`.

A service commits one row after another; the clock runs from before the commit to when a reader has the line that the
command prints. The broker is EVENTBUS_URL; by default the local RabbitMQ, and the embedded broker with `--embedded`.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import kombu
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import eventbus


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=300)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two commits")
    parser.add_argument("--embedded", action="store_true", help="the embedded broker")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        url = os.environ.get("EVENTBUS_URL", "amqp://guest:guest@localhost//")
        url = f"sqlite:///{directory}/broker.sqlite3" if options.embedded else url
        exchange = f"bench-{secrets.token_hex(4)}"
        taken = measure(Path(directory), url, exchange, options.commits, options.pause)
        if url.startswith("amqp"):
            with kombu.Connection(url) as connection:
                connection.channel().exchange_delete(exchange)
    p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
    print(f"commit to line of {len(taken)} commits: p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms")
    return 0


def measure(directory: Path, url: str, exchange: str, commits: int, pause: float) -> list[float]:
    """Seconds from commit to line, of each commit but the first."""
    engine = create_engine(f"sqlite:///{directory}/app.sqlite3")
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    settings = eventbus.Settings(url=url, exchange=exchange, service="bench")
    environment = {**os.environ, "EVENTBUS_URL": url, "EVENTBUS_EXCHANGE": exchange}
    command = [sys.executable, "-u", "-m", "eventbus", "tail", "--json", "bench.#"]
    shown: dict[str, float] = {}
    with (
        eventbus.install(sessions, settings=settings) as bus,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as tail,
    ):
        assert tail.stdout is not None
        reader = threading.Thread(target=_read, args=(tail.stdout, shown))
        reader.start()
        _commit(sessions, "first")  # waits in the outbox until the queue is there
        while "first" not in shown:
            time.sleep(0.05)
        began = {}
        for number in range(commits):
            began[str(number)] = time.monotonic()
            _commit(sessions, str(number))
            time.sleep(pause)
        bus.flush()
        while len(shown) <= commits:
            time.sleep(0.05)
        tail.terminate()
        reader.join()
    return [shown[key] - at for key, at in began.items()]


def _commit(sessions: sessionmaker[Session], key: str) -> None:
    with sessions.begin() as session:
        session.add(Contact(id=key))


def _read(lines: IO[str], shown: dict[str, float]) -> None:
    for line in lines:
        shown[json.loads(line)["data"]["pk"]] = time.monotonic()


if __name__ == "__main__":
    raise SystemExit(main())
