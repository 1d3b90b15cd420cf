"""The pages of `eventbus web` over many records: `python -m benchmarks.pages`.

    python -m benchmarks.pages [--records 100000] [--viewers 100] [--seconds 20] [--rounds 3]

A state is filled by the mirror's own code, with a history of some transactions, and `eventbus web` is started over it.
Printed are how long each page takes and how large it is, the process's memory before and after 1,000 requests, and
while so many viewers look at live changes. At last a mirror empties its queue, in turns alone and with a page server
beside it that is looked at. The broker is EVENTBUS_URL.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import kombu

from benchmarks import figures, history, places, processes
from benchmarks.chain import mirrors
from benchmarks.chain.events import send
from benchmarks.chain.throughput import ram
from consumers.json_mirror.state import State
from eventbus import transports
from eventbus.events import envelope
from eventbus.events.envelope import Message
from eventbus.publishers.amqp import AmqpPublisher

REQUESTS = 1_000
RATE = 100
"""Changes a second while viewers look on."""
DAY: Final = 24 * 3600 * 1_000_000
"""Microseconds by which the first change is behind the clock: the hours of all changes are over by then."""


def _at(name: str) -> dict[str, str]:
    """The environment of a program at this exchange and queue."""
    return {**os.environ, "EVENTBUS_URL": places.BROKER, "EVENTBUS_EXCHANGE": name, "EVENTBUS_QUEUE": name}


def _mirror(data_dir: Path) -> list[str]:
    """The command of a mirror that empties its queue."""
    return [sys.executable, "-m", "consumers.json_mirror", "--data-dir", str(data_dir), "--drain"]


class Site:
    """`eventbus web` in a process of its own."""

    def __init__(self, data_dir: Path, name: str) -> None:
        command = [sys.executable, "-m", "eventbus", "web", "--data-dir", str(data_dir), "--port", "0"]
        self.process = subprocess.Popen(command, env=_at(name), stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"look at it: (\S+)", line):
                self.host = urlsplit(found[1]).netloc
                break
        else:
            raise SystemExit("eventbus web does not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self._line = http.client.HTTPConnection(self.host)

    def get(self, path: str) -> bytes:
        """A page; it must be there."""
        self._line.request("GET", path)
        answer = self._line.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}")
        return body

    def close(self) -> None:
        """End it."""
        self._line.close()
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def site(data_dir: Path, name: str) -> Iterator[Site]:
    """One that runs."""
    running = Site(data_dir, name)
    try:
        yield running
    finally:
        running.close()


def fill(data_dir: Path, workload: history.Workload) -> None:
    """Records, and a history of some transactions."""
    (data_dir / ".eventbus").mkdir(parents=True)
    with State(data_dir / ".eventbus" / "state.sqlite3") as state:
        history.fill(state, workload.snapshot())
        state.keep_journal(data_dir / ".eventbus" / "history.sqlite3", 1 << 40)
        history.fill(state, (body for bodies in workload.transactions(5_000, 3) for body in bodies))
    history.follow(data_dir, "sqlite")


def addresses(records: int) -> dict[str, str]:
    """One of each kind of page. The search finds few, so that it looks through as much as a page may."""
    middle = f"r{records // 2:08x}"
    some = "/records/crm/contact"
    return {
        "overview": "/",
        "kinds of records": "/records",
        "list": some,
        "list from the middle": f"{some}?after={middle}",
        "search by key": f"{some}?prefix={middle[:-1]}",
        "search for a value": f"{some}?field=city&value=alpha+alpha",
        "search in vain": f"{some}?field=city&value=nowhere",
        "record": f"{some}/{middle}",
        "history": "/history",
        "history of an author": "/history?author=u7",
        "transaction": "/transactions/100",
        "letters": "/letters",
        "live": "/live",
    }


def time_pages(running: Site, records: int) -> None:
    """Median and worst of 20 requests a page, and bytes; then the slowest and the largest of them."""
    medians, sizes = [], []
    for label, path in addresses(records).items():
        sizes.append(len(running.get(path)) / 1000)
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            running.get(path)
            taken.append((time.perf_counter() - began) * 1e3)
        figures.note_median(f"pages/{label}", taken, "ms")
        figures.note(f"pages/{label}/size", sizes[-1], "KB")
        medians.append(statistics.median(taken))
    figures.note("pages/slowest", max(medians), "ms")
    figures.note("pages/largest", max(sizes), "KB")


def keep_asking(running: Site, records: int) -> None:
    """Memory before and after many requests."""
    pages = list(addresses(records).values())
    before = processes.memory(running.process.pid)
    for number in range(REQUESTS):
        running.get(pages[number % len(pages)])
    figures.note("pages/memory", before, "MiB")
    figures.note(f"pages/memory after {REQUESTS:,} requests", processes.memory(running.process.pid), "MiB")


@contextmanager
def changing(name: str, workload: history.Workload) -> Iterator[None]:
    """So many changes a second, straight to the exchange."""
    stop = threading.Event()

    def send() -> None:
        with transports.connection(places.BROKER) as connection, connection.channel() as channel:
            producer = kombu.Producer(channel, kombu.Exchange(name, "topic"))
            while not stop.wait(1 / RATE):
                for (body,) in workload.transactions(1, 1):
                    _send(producer, body)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _send(producer: kombu.Producer, body: bytes) -> None:
    producer.publish(
        body,
        routing_key="crm.contact.updated",
        content_type=envelope.CONTENT_TYPE,
        content_encoding="utf-8",
        delivery_mode=2,
    )


def _publish(name: str, bodies: list[bytes]) -> None:
    publisher = AmqpPublisher(places.BROKER, exchange=name, service="crm")
    send(publisher, [Message("crm.contact.updated", str(number), body, "") for number, body in enumerate(bodies)])
    publisher.close()


async def look_on(host: str, viewers: int, seconds: float) -> int:
    """So many streams for so long; how many changes reached them all together."""
    address, port = host.rsplit(":", 1)

    async def one() -> int:
        reader, writer = await asyncio.open_connection(address, int(port))
        writer.write(f"GET /live/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        seen = 0
        try:
            async with asyncio.timeout(seconds):
                while chunk := await reader.read(1 << 16):
                    seen += chunk.count(b"\ndata: ")
        except TimeoutError:
            pass
        writer.close()
        return seen

    return sum(await asyncio.gather(*(one() for _ in range(viewers))))


def time_viewers(running: Site, name: str, workload: history.Workload, viewers: int, seconds: float) -> None:
    """Memory and processor time of the server while they look on; the first tenth is there to settle."""
    pid = running.process.pid
    with changing(name, workload):
        asyncio.run(look_on(running.host, viewers, max(2.0, seconds / 10)))
        before, spent = processes.memory(pid), processes.cpu(pid)
        seen = asyncio.run(look_on(running.host, viewers, seconds))
    figures.note(f"pages/{viewers} viewers/memory before", before, "MiB")
    figures.note(f"pages/{viewers} viewers/memory after", processes.memory(pid), "MiB")
    figures.note(f"pages/{viewers} viewers/of a core", (processes.cpu(pid) - spent) / seconds, "cores")
    figures.note(f"pages/{viewers} viewers/shown", seen / viewers / seconds, "changes/s each")


def mirror_beside(workload: history.Workload, rounds: int, messages: int) -> None:
    """Messages a second of a mirror that empties its queue, in turns alone and with pages that are looked at.

    More changes come meanwhile, for viewers to see.
    """
    rates: dict[bool, list[float]] = defaultdict(list)
    for number in range(rounds):
        for is_watched in (False, True) if number % 2 else (True, False):
            bodies = [body for bodies in workload.transactions(messages, 1) for body in bodies]
            rates[is_watched].append(_rate(bodies, workload, is_watched=is_watched))
    figures.note_median("pages/mirror alone", rates[False], "messages/s")
    figures.note_ratio("pages/mirror beside pages", rates[True], rates[False])


def _rate(bodies: list[bytes], workload: history.Workload, *, is_watched: bool) -> float:
    """Fill the queue while the mirror is stopped, and let it go on, until the last of these is in its state.

    Its files are on a RAM disk: how long a disk takes to replace a file differs by more than what is asked here.
    """
    last = history.changes_of(bodies[-1:])[0]
    with ExitStack() as stack:
        base, name = stack.enter_context(ram()), stack.enter_context(places.queue())
        (mirror,) = stack.enter_context(mirrors.running(places.BROKER, name, base))
        if is_watched:
            stack.enter_context(_looked_at(mirror.data_dir, name))
        mirror.process.send_signal(signal.SIGSTOP)
        try:
            _publish(name, bodies)
        finally:
            mirror.process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        with changing(name, workload), State(mirror.data_dir / ".eventbus" / "state.sqlite3", read_only=True) as state:

            def is_there() -> bool:
                found = state.get(last.directory, last.filename)
                return found is not None and found.version >= last.version

            mirrors.wait_until(is_there, "the last change")
            return len(bodies) / (time.monotonic() - began)


@contextmanager
def _looked_at(data_dir: Path, name: str) -> Iterator[None]:
    """A page server that shows the overview once a second, and live changes to one viewer."""
    stop = threading.Event()
    with site(data_dir, name) as running:

        def look() -> None:
            while not stop.wait(1.0):
                running.get("/")

        threads = [
            threading.Thread(target=look),
            threading.Thread(target=lambda: asyncio.run(look_on(running.host, 1, 600)), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            threads[0].join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--viewers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20, help="that the viewers look on")
    parser.add_argument("--rounds", type=int, default=3, help="of the mirror beside the pages")
    parser.add_argument("--messages", type=int, default=40_000, help="that the mirror takes in a round")
    options = parser.parse_args()
    workload = history.Workload(options.records, start=time.time_ns() // 1000 - DAY)
    with places.directory() as base, places.queue() as name:
        subprocess.run(_mirror(base / "other"), env=_at(name), check=True, stderr=subprocess.DEVNULL)  # dead letters
        fill(base / "data", workload)
        with site(base / "data", name) as running:
            time_pages(running, options.records)
            keep_asking(running, options.records)
            time_viewers(running, name, workload, options.viewers, options.seconds)
    mirror_beside(workload, options.rounds, options.messages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
