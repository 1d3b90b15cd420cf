"""What a history costs the mirror: one full queue after the other is drained, without one and with each kind of it."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from benchmarks import figures, history, places, processes
from benchmarks.chain import mirrors, throughput
from consumers.base import ConsumerSettings
from tests.support.consuming import publish

KINDS: Final = ("off", "sqlite", "git")
_RECORDS: Final = 5_000


def main(options: argparse.Namespace) -> None:
    """Rates and processor time of the mirror, in turns; its files are on a RAM disk, so that no disk levels them."""
    count = 6_000 if options.quick else 60_000
    rounds = 1 if options.quick else options.rounds
    idle = {kind: _drain(kind, [])[0] for kind in KINDS}
    bodies = _events(count)
    rates: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds):
        for kind in KINDS[turn % 3 :] + KINDS[: turn % 3]:
            seconds, spent = _drain(kind, bodies)
            rates[kind].append(count / (seconds - idle[kind]))
            cpu[kind].append(spent / count * 1e6)
            print(f"   {kind}: {figures.shown(rates[kind][-1])} events/s", flush=True)
    for kind in KINDS:
        figures.note_median(f"histories/{kind}", rates[kind], "events/s")
        figures.note_median(f"histories/{kind}/cpu", cpu[kind], "µs an event")
    for kind in KINDS[1:]:
        figures.note_ratio(f"histories/{kind}/ratio", rates[kind], rates["off"])


def _events(count: int) -> list[bytes]:
    """Snapshots of records of 13 fields, then transactions that change some; of the last hour, or they are refused."""
    workload = history.Workload(_RECORDS, int((time.time() - 3600) * 1e6))
    bodies = list(workload.snapshot())
    for transaction in workload.transactions(count, 3):
        bodies += transaction
        if len(bodies) >= count:
            break
    return bodies[:count]


def _drain(kind: str, bodies: Sequence[bytes]) -> tuple[float, float]:
    """Seconds from the mirror's start until it has written them all, and seconds of its own processor time."""
    with places.queue() as name, throughput.ram() as base:
        publish(ConsumerSettings(url=places.BROKER, exchange=name, queue=name), bodies)
        began = time.monotonic()
        with mirrors.running(places.BROKER, name, base / "data", history=kind) as (mirror,):
            return time.monotonic() - began, processes.own_cpu(mirror.process.pid)
