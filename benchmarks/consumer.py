"""What the base of consumers costs: against a kombu consumer that does nothing but acknowledge.

    python -m benchmarks.consumer [--rounds 3] [--messages 20000] [--url amqp://…]

One quorum queue is filled and emptied in turns, by kombu (acknowledging each message, as its consumers do) and by
`consumers.base` with a handler that says Done: events read and checked, acknowledged in batches. Both have the same
prefetch. Printed: messages a second, the process's own time for each message, and the ratio: medians of the rounds.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence

import click
import kombu

from benchmarks import figures
from consumers.base import DONE, ConsumerSettings, Delivery, Outcome, run
from consumers.base.broker import topology
from consumers.base.broker.line import Line
from eventbus.events.naming import dead_letter_queue
from tests.support.consuming import event_body, publish

PREFETCH = 1000


class Clock:
    """Started by the first message, so that connecting does not count."""

    def __init__(self, messages: int) -> None:
        self.left = self.messages = messages

    def count(self, arrived: int) -> bool:
        """Whether all have arrived."""
        if self.left == self.messages:
            self.wall, self.own = time.perf_counter(), time.process_time()
        self.left -= arrived
        return self.left <= 0

    def result(self) -> tuple[float, float]:
        """Messages a second; microseconds of this process for each."""
        wall, own = time.perf_counter() - self.wall, time.process_time() - self.own
        return self.messages / wall, own / self.messages * 1e6


def with_kombu(settings: ConsumerSettings, messages: int) -> tuple[float, float]:
    clock, done = Clock(messages), threading.Event()

    def on_message(message: kombu.Message) -> None:
        message.ack()
        if clock.count(1):
            done.set()

    with kombu.Connection(settings.url) as connection:
        channel = connection.channel()
        consumer = kombu.Consumer(channel, [kombu.Queue(settings.queue, no_declare=True)], on_message=on_message)
        consumer.qos(prefetch_count=PREFETCH)
        consumer.consume()
        while not done.is_set():
            connection.drain_events(timeout=10)
        return clock.result()


def with_base(settings: ConsumerSettings, messages: int) -> tuple[float, float]:
    clock, done = Clock(messages), threading.Event()

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        if clock.count(len(batch)):
            done.set()
        return [DONE] * len(batch)

    run(settings, handler, stop=done)
    return clock.result()


@click.command()
@click.option("--url", default=lambda: os.environ.get("EVENTBUS_URL", "amqp://guest:guest@localhost//"))
@click.option("--rounds", default=3)
@click.option("--messages", default=20_000)
def main(url: str, rounds: int, messages: int) -> None:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    settings = ConsumerSettings(url=url, exchange=name, queue=name, prefetch=PREFETCH)
    line = Line(settings)
    topology.declare(line, settings)
    bodies = [event_body(f"r{number}", number) for number in range(1, messages + 1)]
    rates: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    try:
        for _ in range(rounds):
            for label, consume in (("kombu", with_kombu), ("base", with_base)):
                publish(settings, bodies)
                rate, own = consume(settings, messages)
                rates[label].append(rate)
                cpu[label].append(own)
        for label, found in rates.items():
            figures.note_median(f"consumer/{label}", found, "messages/s")
            figures.note_median(f"consumer/{label}/cpu", cpu[label], "µs a message")
        figures.note_ratio("consumer/ratio", rates["base"], rates["kombu"])
    finally:
        channel = line.channel()
        channel.queue_delete(name)
        channel.queue_delete(dead_letter_queue(name))
        channel.exchange_delete(name)
        line.close()


if __name__ == "__main__":
    main()
