"""Sustained changes a second: a service that commits as fast as it can, the broker, one mirror."""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import redis

from benchmarks import figures, places, processes
from benchmarks.chain import mirrors, service
from consumers.json_mirror.disk import documents
from eventbus.settings import Settings

REDIS: Final = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379")
RAM: Final = Path("/dev/shm")
TARGETS: Final = ("disk", "ram", "redis")
COUNTS: Final = {1: 4_000, 100: 20_000}
"""Changes of a run, by changes a transaction."""


def main(options: argparse.Namespace) -> None:
    """For each size of transaction and each target; beside them the service alone, and files alone."""
    counts = {size: count // 10 for size, count in COUNTS.items()} if options.quick else COUNTS
    rounds = 1 if options.quick else options.rounds
    rates: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[float]] = defaultdict(list)
    runs = [(size, target) for size in counts for target in (*TARGETS, "bare")]
    for _ in range(rounds):
        random.shuffle(runs)
        for size, target in runs:
            rate = _run(options.database, size, counts[size], target, memory)
            print(f"   {size} a transaction, {target}: {figures.shown(rate)} changes/s", flush=True)
            rates[f"chain/{target}/{size}"].append(rate)
        rates["chain/files alone"].append(_files(max(counts.values())))
    for name, values in rates.items():
        figures.note_median(name, values, "changes/s")
    for name, values in memory.items():
        figures.note_median(name, values, "MiB")


def _run(database: str, size: int, count: int, target: str, memory: dict[str, list[float]]) -> float:
    """Changes a second from the first commit's call until the last change is durable at its target."""
    with ExitStack() as stack:
        base = stack.enter_context(places.directory())
        url = stack.enter_context(places.database(database, base))
        if target == "bare":
            writer = stack.enter_context(service.running(url, None))
            writer.work(service.Burst(-200, 200, size))
            answer = writer.work(service.Burst(0, count, size))
            memory["memory/service, bare"].append(answer.memory)
            return count / (answer.ended - answer.began)
        name = stack.enter_context(places.queue())
        where = base if target == "disk" else stack.enter_context(ram())
        cache = stack.enter_context(empty_redis()) if target == "redis" else None
        started = mirrors.running(places.BROKER, name, where / "data", cache=url_of(cache))
        (mirror,) = stack.enter_context(started)
        settings = Settings(url=places.BROKER, service=name, exchange=name, queue=name)
        writer = stack.enter_context(service.running(url, settings))
        writer.work(service.Burst(-200, 200, size))
        mirrors.wait_for([mirror], 200)
        answer = writer.work(service.Burst(0, count, size))
        if cache:
            mirrors.wait_until(lambda: records_in(cache) >= count + 200, "the last record in Redis")
        else:
            mirrors.wait_for([mirror], count + 200)
        seconds = time.monotonic() - answer.began
        memory["memory/service, eventbus"].append(answer.memory)
        memory[f"memory/mirror{', Redis' if cache else ''}"].append(processes.memory(mirror.process.pid))
        return count / seconds


def _files(count: int) -> float:
    """Files a second of a loop that only creates such files, until they are on the disk."""
    libc = ctypes.CDLL(None, use_errno=True)
    contents = [
        documents.encode("bench.contact", str(key), key, {"id": key, "name": f"Contact {key}", "phone": "+32 2"})
        for key in range(count)
    ]
    with places.directory() as base:
        handle = os.open(base, os.O_RDONLY)
        began = time.monotonic()
        for key, content in enumerate(contents):
            file = os.open(f"{key}.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=handle)
            os.write(file, content)
            os.close(file)
        libc.syncfs(handle)
        seconds = time.monotonic() - began
        os.close(handle)
    return count / seconds


@contextmanager
def ram() -> Iterator[Path]:
    """A directory that no disk slows down."""
    before = os.environ.get("BENCH_DIR")
    os.environ["BENCH_DIR"] = str(RAM)
    try:
        with places.directory() as path:
            yield path
    finally:
        os.environ.pop("BENCH_DIR")
        if before:
            os.environ["BENCH_DIR"] = before


@contextmanager
def empty_redis() -> Iterator[redis.Redis]:
    """A database of Redis that nobody uses; emptied afterwards."""
    for number in range(15, 0, -1):
        client = redis.Redis.from_url(f"{REDIS}/{number}")
        if client.dbsize() == 0:
            break
        client.close()
    else:
        raise SystemExit(f"no empty database at {REDIS}")
    try:
        yield client
    finally:
        client.flushdb()
        client.close()


def url_of(cache: redis.Redis | None) -> str:
    return f"{REDIS}/{cache.connection_pool.connection_kwargs['db']}" if cache else ""


def records_in(cache: redis.Redis) -> int:
    """Keys of the records; the mirror's marks are a few more."""
    size = int(cache.dbsize())
    return size - sum(1 for _ in cache.scan_iter("eventbus:complete*")) if size else 0
