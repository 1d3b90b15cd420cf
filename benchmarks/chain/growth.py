"""What a record costs the mirror where there are few already, and where there are a million."""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Sequence

from benchmarks import figures, places, processes
from benchmarks.chain.events import delivery
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.service import Mirror
from consumers.json_mirror.settings import MirrorSettings

MARKS = (1_000, 10_000, 100_000, 1_000_000)
BATCH = 500
CHANGES = 5_000


def main(options: argparse.Namespace) -> None:
    """Batches straight into the handler; told at each mark: the last new ones, changes of some, memory."""
    chosen = random.Random(7)
    done = 0
    with places.directory() as base, open_mirror(MirrorSettings(data_dir=base)) as mirror:
        for mark in MARKS[:-1] if options.quick else MARKS:
            last = min(CHANGES, (mark - done) // BATCH // 2 * BATCH)
            _apply(mirror, range(done, mark - last), mark)
            figures.note(f"growth/records/{mark}/new", _apply(mirror, range(mark - last, mark), mark), "µs a record")
            some = chosen.sample(range(mark), min(CHANGES, mark))
            figures.note(f"growth/records/{mark}/changed", _apply(mirror, some, 10**9 + mark), "µs a record")
            figures.note(f"growth/records/{mark}/memory", processes.memory(os.getpid()), "MiB")
            done = mark


def _apply(mirror: Mirror, numbers: Sequence[int], version: int) -> float:
    """Microseconds a record; making the deliveries is not counted."""
    spent = 0.0
    for start in range(0, len(numbers), BATCH):
        deliveries = [delivery(number, version + number) for number in numbers[start : start + BATCH]]
        began = time.perf_counter()
        mirror(deliveries)
        mirror.turned()
        spent += time.perf_counter() - began
    return spent / max(1, len(numbers)) * 1e6
