"""How fast the mirror is: against a raw consumer, from publish to visible file, and over a million records.

    python -m benchmarks.mirror throughput [--rounds 5] [--messages 20000] [--url amqp://…]
    python -m benchmarks.mirror latency [--seconds 20] [--rate 200]
    python -m benchmarks.mirror scale [--records 1000000]

*throughput*: two quorum queues are filled with the same messages, one record each, bodies of 500 bytes or a little
more; a kombu consumer with the same prefetch that does nothing but acknowledge empties one, the mirror the other, in
turns, so that a noisy machine slows both. The mirror's time ends when every file is written, flushed to the disk, and
noted so in the state. Printed: each round, and the median of the rounds' ratios.
*latency*: a mirror in a process of its own; from before a message is published until its file can be read.
*scale*: batches of 500 straight into the handler; cost a record and resident memory for each tenth.

Files are made in `--dir` (default: the system's temporary directory), which should lie on the disk that counts. They
are removed at the end only: some file systems (ext4 without a journal) search long for an inode after many removals.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import kombu

from consumers.base import ConsumerSettings, Delivery, run
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.settings import MirrorSettings
from eventbus import envelope, transports
from eventbus.naming import dead_letter_queue
from eventbus.transports.mirror_queue import queue_arguments

PREFETCH = 1000
KEY = "crm.contact.created"


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
@click.pass_context
def latency(context: click.Context, seconds: int, rate: int) -> None:
    url, directory = context.obj, context.meta["directory"]
    with filled_queue(url, 0) as settings:
        environment = {**os.environ, "EVENTBUS_URL": url, "DATA_DIR": str(directory)}
        environment |= {"EVENTBUS_EXCHANGE": settings.exchange, "EVENTBUS_QUEUE": settings.queue}
        command = [sys.executable, "-m", "consumers.json_mirror"]
        with subprocess.Popen(command, env=environment) as mirror:
            try:
                delays = sorted(measure_latency(settings, directory, seconds * rate, 1 / rate))
            finally:
                mirror.terminate()
    p50, p99 = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    print(f"{rate} a second for {seconds} s: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {delays[-1]:.1f} ms")


def measure_latency(settings: ConsumerSettings, directory: Path, messages: int, pause: float) -> list[float]:
    """Milliseconds from just before each publish until its file is seen, to some 0.3 ms."""
    delays: list[float] = []
    sent: dict[Path, float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() or sent:
            for path, at in list(sent.items()):
                if path.exists():
                    delays.append((time.perf_counter() - at) * 1000)
                    del sent[path]
            time.sleep(0.0003)

    watcher = threading.Thread(target=watch)
    with transports.connection(settings.url) as connection, connection.channel() as channel:
        producer = kombu.Producer(channel)
        warm = directory / "crm/contact/warm.json"
        publish(producer, settings, event(0, 1, pk="warm"))
        while not warm.exists():
            time.sleep(0.05)
        watcher.start()
        due = time.perf_counter()
        for number in range(messages):
            body = event(number, 2 + number)
            sent[directory / f"crm/contact/record{number:07d}.json"] = time.perf_counter()
            publish(producer, settings, body)
            due += pause
            time.sleep(max(0.0, due - time.perf_counter()))
        over.set()
        watcher.join()
    return delays


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
            with connection.channel() as last:
                for doomed in (name, dead_letter_queue(name)):
                    last.queue_delete(doomed)
                last.exchange_delete(name)


def publish(producer: kombu.Producer, settings: ConsumerSettings, body: bytes) -> None:
    producer.publish(
        body,
        exchange=settings.exchange,
        routing_key=KEY,
        content_type=envelope.CONTENT_TYPE,
        content_encoding="utf-8",
        delivery_mode=2,
    )


def event(number: int, version: int, pk: str | None = None) -> bytes:
    pk = pk or f"record{number:07d}"
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
