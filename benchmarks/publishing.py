"""Confirmed publishing: how many messages a second, ours against what is usual, in turns on one broker.

    EVENTBUS_URL=amqp://guest:guest@127.0.0.1:5672// python -m benchmarks.publishing [--messages 5000] [--rounds 5]

Each contender publishes the same persistent, mandatory messages of 700 bytes to a topic exchange with one queue, and is
done when the broker has confirmed every one; connecting is counted, and the queue's messages afterwards. The turns are
interleaved, since the machine and the broker are never equally busy twice: compare ratios, not figures of two runs.
`cpu` is what the publishing process itself spent on a message; a service's threads share the interpreter with it.

* raw: py-amqp `basic_publish`, `confirm_select`, up to 2,000 messages unconfirmed
* kombu: `Producer.publish` on a connection with `confirm_publish`, one message at a time
* pika: `BlockingChannel.basic_publish` with `confirm_delivery`, one message at a time; left out if not installed
* eventbus: `AmqpPublisher.publish` in calls of 1,000 messages
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import amqp
import kombu

from benchmarks import figures
from eventbus.events.envelope import CONTENT_TYPE, Message
from eventbus.publishers.amqp import AmqpPublisher
from eventbus.publishers.base import Outcome

DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672//"
KEY = "bench.contact.updated"
WINDOW = 2_000
CALL = 1_000
SLOW_SHARE = 5  # the one-at-a-time contenders publish this fraction of the messages

Contender = Callable[[str, str, Sequence[Message]], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print. Returns 0, or 1 where a contender lost a message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=5_000, help="a contender and round (default 5000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queue", choices=["classic", "quorum"], default="quorum")
    options = parser.parse_args(argv)
    url = os.environ.get("EVENTBUS_URL", DEFAULT_URL)
    results = run(url, options.messages, options.rounds, options.queue)
    print(f"{options.rounds} rounds of {options.messages} messages, {options.queue} queue")
    report(results)
    return 0 if all(result.complete for result in results) else 1


@dataclass(slots=True)
class Result:
    name: str
    contender: Contender
    share: int = 1
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    complete: bool = True


def contenders() -> list[Result]:
    found = [Result("raw", raw), Result("kombu", with_kombu, SLOW_SHARE), Result("eventbus", ours)]
    try:
        importlib.import_module("pika")
    except ImportError:
        print("pika is not installed: left out", file=sys.stderr)
    else:
        found.insert(2, Result("pika", with_pika, SLOW_SHARE))
    return found


def run(url: str, count: int, rounds: int, queue_type: str) -> list[Result]:
    """All contenders in turns, after one short round that is not counted."""
    results = contenders()
    for result in results:
        one_turn(result.contender, url, messages(count // 10), queue_type)
    for turn in range(rounds):
        for result in results[turn % len(results) :] + results[: turn % len(results)]:
            batch = messages(count // result.share)
            seconds, cpu, arrived = one_turn(result.contender, url, batch, queue_type)
            result.rates.append(len(batch) / seconds)
            result.cpu.append(cpu / len(batch) * 1e6)
            result.complete = result.complete and arrived == len(batch)
    return results


def one_turn(contender: Contender, url: str, batch: Sequence[Message], queue_type: str) -> tuple[float, float, int]:
    """Seconds, seconds of this process's CPU, and messages found in the queue."""
    with topology(url, queue_type) as (name, arrived):
        wall, cpu = time.perf_counter(), time.process_time()
        contender(url, name, batch)
        return time.perf_counter() - wall, time.process_time() - cpu, arrived()


@contextmanager
def topology(url: str, queue_type: str) -> Iterator[tuple[str, Callable[[], int]]]:
    """An exchange and a queue of one turn's own; yields their name and a counter of the queue's messages."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with kombu.Connection(url) as connection:
        channel = connection.channel()
        channel.exchange_declare(name, "topic", durable=True, auto_delete=False)
        channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": queue_type})
        channel.queue_bind(name, name, "#")
        try:
            yield name, lambda: channel.queue_declare(name, passive=True).message_count
        finally:
            channel.queue_delete(name)
            channel.exchange_delete(name)


def messages(count: int) -> list[Message]:
    body = b'{"sequence":"00001763884800123456","x":"' + b"y" * 658 + b'"}'
    transaction = str(uuid.uuid4())
    return [Message(KEY, f"{transaction}-{index}", body, transaction) for index in range(count)]


def report(results: Sequence[Result]) -> None:
    for result in results:
        figures.note_median(f"publishing/{result.name}", result.rates, "messages/s")
        figures.note_median(f"publishing/{result.name}/cpu", result.cpu, "µs a message")
        figures.note_ratio(f"publishing/{result.name}/ratio", result.rates, results[0].rates)
        if not result.complete:
            print(f"MESSAGES OF {result.name} ARE MISSING")


# -- the contenders ---------------------------------------------


@contextmanager
def opened(url: str, **options: Any) -> Iterator[kombu.Connection]:
    with kombu.Connection(url, transport_options=options) as connection:
        yield connection


def properties(message: Message) -> dict[str, Any]:
    return {
        "content_type": CONTENT_TYPE,
        "content_encoding": "utf-8",
        "delivery_mode": 2,
        "message_id": message.id,
        "correlation_id": message.correlation_id,
        "timestamp": int(time.time()),
        "type": message.routing_key,
        "app_id": "bench",
    }


def raw(url: str, exchange: str, batch: Sequence[Message]) -> None:
    with opened(url) as connection:
        channel, unconfirmed, lowest = connection.channel(), set[int](), 1

        def acknowledged(tag: int, multiple: bool) -> None:
            nonlocal lowest
            unconfirmed.difference_update(range(lowest, tag + 1) if multiple else (tag,))
            lowest = tag + 1 if multiple else lowest

        channel.confirm_select()
        channel.events["basic_ack"].add(acknowledged)
        for tag, message in enumerate(batch, 1):
            content = amqp.Message(message.body, **properties(message))
            channel.basic_publish(content, exchange, message.routing_key, mandatory=True)
            unconfirmed.add(tag)
            while len(unconfirmed) >= WINDOW:
                connection.drain_events(timeout=10)
        while unconfirmed:
            connection.drain_events(timeout=10)


def with_kombu(url: str, exchange: str, batch: Sequence[Message]) -> None:
    with opened(url, confirm_publish=True) as connection:
        producer = connection.Producer()
        for message in batch:
            producer.publish(
                message.body,
                exchange=exchange,
                routing_key=message.routing_key,
                mandatory=True,
                serializer=None,
                **properties(message),
            )


def with_pika(url: str, exchange: str, batch: Sequence[Message]) -> None:
    pika = importlib.import_module("pika")
    vhost = kombu.Connection(url).virtual_host
    parameters = pika.URLParameters(url)
    parameters.virtual_host = vhost
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    for message in batch:
        content = pika.BasicProperties(**properties(message))
        channel.basic_publish(exchange, message.routing_key, message.body, content, mandatory=True)
    connection.close()


def ours(url: str, exchange: str, batch: Sequence[Message]) -> None:
    publisher = AmqpPublisher(url, exchange=exchange, service="bench")
    try:
        for start in range(0, len(batch), CALL):
            outcomes = publisher.publish(batch[start : start + CALL])
            assert outcomes == [Outcome.CONFIRMED] * len(outcomes)
    finally:
        publisher.close()


if __name__ == "__main__":
    sys.exit(main())
