"""How fast the mirror is: against a raw consumer, from commit to visible file, and over a million records.

    python -m benchmarks.mirror [--url amqp://…] throughput [--rounds 5] [--messages 20000]
    python -m benchmarks.mirror [--url amqp://…] latency [--seconds 20] [--rate 200] [--database postgresql+psycopg://…]
    python -m benchmarks.mirror scale [--records 1000000]

*throughput*: two quorum queues are filled with the same messages, one record each, bodies of 500 bytes or a little
more; a kombu consumer with the same prefetch that does nothing but acknowledge empties one, the mirror the other, in
turns, so that a noisy machine slows both. The mirror's time ends when every file is written, flushed to the disk, and
noted so in the state. Printed: each round, and the median of the rounds' ratios.
*latency*: a service with the bus installed commits one row at a time, by turns a new one and a change of the one made a
second ago; the mirror is a second process; a third watches its directory. From just before `commit()`, and from its
return, until the file is there or has changed. The database is SQLite, beside the files, or the one that is named.
*scale*: batches of 500 straight into the handler; cost a record and resident memory for each tenth.

Files are made in `--dir` (default: the system's temporary directory), which should lie on the disk that counts. They
are removed at the end only: some file systems (ext4 without a journal) search long for an inode after many removals.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import click
import kombu
from sqlalchemy import String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus
from consumers.base import ConsumerSettings, Delivery, run
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.settings import MirrorSettings
from eventbus import transports
from eventbus.events import envelope
from eventbus.events.naming import dead_letter_queue
from eventbus.settings import Settings
from eventbus.transports.mirror_queue import queue_arguments

PREFETCH = 1000
KEY = "crm.contact.created"

_INOTIFY = Struct("iIII")
_CREATED, _MOVED_HERE = 0x100, 0x80


@click.group()
@click.option("--url", default=lambda: os.environ.get("EVENTBUS_URL", "amqp://guest:guest@localhost//"))
@click.option("--dir", "base", type=click.Path(path_type=Path), default=None)
@click.pass_context
def main(context: click.Context, url: str, base: Path | None) -> None:
    context.obj = url
    directory = Path(tempfile.mkdtemp(prefix="eventbus-mirror-", dir=base))
    context.meta["directory"] = directory
    context.call_on_close(lambda: shutil.rmtree(directory))


@main.command()
@click.option("--rounds", default=5)
@click.option("--messages", default=20_000)
@click.pass_context
def throughput(context: click.Context, rounds: int, messages: int) -> None:
    url, directory = context.obj, context.meta["directory"]
    ratios = []
    for number in range(rounds):
        # Whoever goes second may meet a warmer or a busier broker: take turns.
        rates = {}
        for who in (("raw", "mirror"), ("mirror", "raw"))[number % 2]:
            with filled_queue(url, messages) as settings:
                if who == "raw":
                    rates[who] = messages / raw_consumer(settings, messages)
                else:
                    rates[who] = messages / mirror_consumer(settings, directory / str(number), messages)
        ratios.append(rates["mirror"] / rates["raw"])
        print(f"raw {rates['raw']:8,.0f}/s   mirror {rates['mirror']:8,.0f}/s   ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f} of {rounds} rounds, {len(event(0, 1))} bytes a message")


def raw_consumer(settings: ConsumerSettings, messages: int) -> float:
    """Seconds until all are acknowledged."""
    seen = 0

    def on_message(message: kombu.Message) -> None:
        nonlocal seen
        seen += 1
        message.ack()

    with kombu.Connection(settings.url) as connection, connection.channel() as channel:
        queue = kombu.Queue(settings.queue, channel=channel, no_declare=True)
        consumer = kombu.Consumer(channel, [queue], on_message=on_message, prefetch_count=PREFETCH, auto_declare=False)
        started = time.perf_counter()
        with consumer:
            while seen < messages:
                connection.drain_events(timeout=30)
        return time.perf_counter() - started


def mirror_consumer(settings: ConsumerSettings, data_dir: Path, messages: int) -> float:
    """Seconds until all are applied, on the disk, and noted so."""
    started = time.perf_counter()
    with open_mirror(MirrorSettings(data_dir=data_dir, consumer=settings)) as mirror:
        assert run(settings, mirror, drain=True, observer=mirror) == 0
    seconds = time.perf_counter() - started
    assert mirror.applied == messages == sum(1 for _ in data_dir.glob("crm/contact/*.json"))
    return seconds


@main.command()
@click.option("--seconds", default=20)
@click.option("--rate", default=200)
@click.option("--database", help="A table `contact` in it is dropped.  [default: SQLite, beside the files]")
@click.pass_context
def latency(context: click.Context, seconds: int, rate: int, database: str | None) -> None:
    url, directory = context.obj, context.meta["directory"]
    name = f"bench{uuid.uuid4().hex[:9]}"
    environment = {**os.environ, "EVENTBUS_URL": url, "EVENTBUS_EXCHANGE": name, "EVENTBUS_QUEUE": name}
    command = [sys.executable, "-m", "consumers.json_mirror", "--data-dir", str(directory)]
    settings = Settings(url=url, service=name, exchange=name, queue=name)
    with watching(directory / name / "contact") as sightings, subprocess.Popen(command, env=environment) as mirror:
        try:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as service:
                where = database or f"sqlite:///{directory / 'service.sqlite3'}"
                commits = service.submit(commit_rows, settings, where, directory, seconds * rate, rate).result()
            wait_until(lambda: len(sightings) > len(commits), "the last files")
        finally:
            mirror.terminate()
            mirror.wait()
            remove(url, name)
    report(commits, sightings)


class Base(DeclarativeBase):
    """The service's models."""


class Contact(Base):
    """Its one model."""

    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(50))
    phone: Mapped[str | None] = mapped_column(String(50))


class Commit(NamedTuple):
    """Of which record, and when it was called and returned, on the clock that all processes share."""

    record: int
    called: float
    returned: float


def commit_rows(settings: Settings, database: str, directory: Path, count: int, rate: int) -> list[Commit]:
    """The service, in a process of its own. It begins once a first record, -1, has gone all the way."""
    engine = create_engine(database)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    span = rate | 1
    commits = []
    with eventbus.install(sessions := sessionmaker(engine), settings=settings, auto_fields=False) as bus:
        with sessions.begin() as session:
            session.add(Contact(id=-1, name="warm"))
        wait_until((directory / settings.service / "contact/-1.json").exists, "the first file")
        due = time.perf_counter()
        for number in range(count):
            with sessions() as session:
                if number % 2 and number > span:
                    contact = session.get_one(Contact, number - span)
                    contact.phone = f"+32 {number}"
                else:
                    contact = Contact(id=number, name=f"Contact {number}", phone="+32 2 555 01 23")
                    session.add(contact)
                record = contact.id
                called = time.monotonic()
                session.commit()
                commits.append(Commit(record, called, time.monotonic()))
            due += 1 / rate
            time.sleep(max(0.0, due - time.perf_counter()))
        bus.flush()
    Base.metadata.drop_all(engine)
    engine.dispose()
    return commits


@contextmanager
def watching(directory: Path) -> Iterator[list[tuple[str, float]]]:
    """A growing list: which file of the directory appeared or was replaced, and when. Linux only (inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    directory.mkdir(parents=True)
    seen: list[tuple[str, float]] = []
    over = threading.Event()
    with open(libc.inotify_init1(os.O_CLOEXEC), "rb", buffering=0) as events:
        assert libc.inotify_add_watch(events.fileno(), os.fsencode(directory), _CREATED | _MOVED_HERE) >= 0

        def read() -> None:
            while not over.is_set():
                if not select.select([events], [], [], 0.1)[0]:
                    continue
                data, now, at = events.read(1 << 16), time.monotonic(), 0
                while at < len(data):
                    *_, length = _INOTIFY.unpack_from(data, at)
                    at += _INOTIFY.size + length
                    seen.append((os.fsdecode(data[at - length : at].rstrip(b"\0")), now))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield seen
        finally:
            over.set()
            reader.join()


def report(commits: Sequence[Commit], sightings: Sequence[tuple[str, float]]) -> None:
    seen: dict[str, deque[float]] = defaultdict(deque)
    for name, at in sightings:
        seen[name].append(at)
    pairs = [(commit, seen[f"{commit.record}.json"].popleft()) for commit in commits]
    spent = commits[-1].returned - commits[0].called
    print(f"{len(commits):,} commits, {len(commits) / spent:.0f} a second; from each to its file, in ms")
    for label, delays in (
        ("call", sorted((at - commit.called) * 1000 for commit, at in pairs)),
        ("return", sorted((at - commit.returned) * 1000 for commit, at in pairs)),
    ):
        p50, p99 = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
        print(f"from its {label:6}  p50 {p50:5.1f}   p99 {p99:5.1f}   max {delays[-1]:5.1f}")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


@main.command()
@click.option("--records", default=1_000_000)
@click.pass_context
def scale(context: click.Context, records: int) -> None:
    batch = 500
    part = records // 10
    with open_mirror(MirrorSettings(data_dir=context.meta["directory"])) as mirror:
        for tenth in range(10):
            spent = 0.0
            for start in range(tenth * part, (tenth + 1) * part, batch):
                deliveries = [delivery(number) for number in range(start, start + batch)]
                started = time.perf_counter()
                mirror(deliveries)
                mirror.turned()
                spent += time.perf_counter() - started
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{(tenth + 1) * part:10,} records   {spent / part * 1e6:6.1f} µs each   {memory:6.1f} MiB", flush=True
            )


def delivery(number: int) -> Delivery:
    made = Delivery(event(number, number + 1))
    made.event = envelope.decode(made.body)
    return made


@contextmanager
def filled_queue(url: str, messages: int) -> Iterator[ConsumerSettings]:
    """A queue of its own, as the mirror declares it, with so many messages in it; removed afterwards."""
    name = f"bench-{uuid.uuid4().hex[:9]}"
    settings = replace(ConsumerSettings(), url=url, exchange=name, queue=name, prefetch=PREFETCH)
    with transports.connection(url) as connection, connection.channel() as channel:
        exchange = kombu.Exchange(name, "topic", durable=True, channel=channel)
        exchange.declare()
        arguments = queue_arguments(name, settings.delivery_limit)
        queue = kombu.Queue(name, exchange, "#", durable=True, queue_arguments=arguments, channel=channel)
        queue.declare()
        try:
            producer = kombu.Producer(channel)
            for number in range(messages):
                publish(producer, settings, event(number, number + 1))
            while channel.queue_declare(name, passive=True).message_count < messages:
                time.sleep(0.05)
            time.sleep(0.5)  # the broker finishes writing before the clock starts
            yield settings
        finally:
            remove(url, name)


def remove(url: str, name: str) -> None:
    """Queue, dead letters and exchange of this name."""
    with transports.connection(url) as connection, connection.channel() as channel:
        for doomed in (name, dead_letter_queue(name)):
            channel.queue_delete(doomed)
        channel.exchange_delete(name)


def publish(producer: kombu.Producer, settings: ConsumerSettings, body: bytes) -> None:
    producer.publish(
        body,
        exchange=settings.exchange,
        routing_key=KEY,
        content_type=envelope.CONTENT_TYPE,
        content_encoding="utf-8",
        delivery_mode=2,
    )


def event(number: int, version: int) -> bytes:
    pk = f"record{number:07d}"
    after = {"id": pk, "name": f"Contact {number}", "phone": "+32 2 555 01 23", "active": True}
    transaction = f"0193-{number:012d}"
    data: dict[str, object] = {
        "op": "c",
        "model": "crm.contact",
        "pk": pk,
        "before": None,
        "after": after,
        "changed": [],
        "author": None,
    }
    data |= {"transaction": {"id": transaction, "index": 0, "size": 1}}
    body = envelope.encode(
        id=f"{transaction}-0",
        source="/crm",
        type=KEY,
        subject=f"contact/{pk}",
        time="2026-11-23T08:00:00.123456Z",
        transaction=transaction,
        data=data,
    )
    return envelope.seal(body, version)


if __name__ == "__main__":
    main()
