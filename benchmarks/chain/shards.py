"""One, two and four mirrors that share the records, on a private broker with the plugin for that."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence

from benchmarks import figures, places
from benchmarks.chain import mirrors
from benchmarks.chain.events import message, send
from eventbus.publishers.amqp import AmqpPublisher
from tests.support.nodes.rabbitmq import RabbitNode

SHARDS = (1, 2, 4)


def main(options: argparse.Namespace) -> None:
    """From the first message sent until all records are durable."""
    count = 4_000 if options.quick else 20_000
    rounds = 1 if options.quick else options.rounds
    rates: dict[int, list[float]] = defaultdict(list)
    messages = [message(number) for number in range(count)]
    with RabbitNode(plugins=["rabbitmq_consistent_hash_exchange"]) as node:
        for turn in range(rounds):
            for shards in SHARDS[turn % 3 :] + SHARDS[: turn % 3]:
                rates[shards].append(count / _seconds(node.url, shards, messages))
    for shards in SHARDS:
        figures.note_median(f"shards/{shards}", rates[shards], "changes/s")


def _seconds(url: str, shards: int, messages: Sequence) -> float:  # type: ignore[type-arg]
    name = places.name()
    with places.directory() as base, mirrors.running(url, name, base, shards=shards) as running:
        publisher = AmqpPublisher(url, exchange=name, service="crm")
        began = time.monotonic()
        send(publisher, messages)
        publisher.close()
        mirrors.wait_for(running, len(messages))
        return time.monotonic() - began
