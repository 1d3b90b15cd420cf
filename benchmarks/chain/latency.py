"""From the moment a commit is due to the visible file, at rising load, until it breaks."""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks import figures, places
from benchmarks.chain import mirrors, service
from benchmarks.chain.sightings import Sightings, watching
from eventbus.settings import Settings

RATES: Final = (100, 200, 400, 800, 1200, 1600, 2400, 3200, 4800, 6400)
BROKEN: Final = 1000.0
"""Milliseconds of p99."""


def main(options: argparse.Namespace) -> None:
    """One service, one mirror, everything on this machine; each rate for some seconds."""
    seconds = 2.0 if options.quick else options.seconds
    with ExitStack() as stack:
        base = stack.enter_context(places.directory())
        url = stack.enter_context(places.database(options.database, base))
        name = stack.enter_context(places.queue())
        (mirror,) = stack.enter_context(mirrors.running(places.BROKER, name, base / "data", history=options.history))
        seen = stack.enter_context(watching(mirror.data_dir / name / "contact"))
        settings = Settings(url=places.BROKER, service=name, exchange=name, queue=name)
        writer = stack.enter_context(service.running(url, settings))
        writer.work(service.Burst(-200, 200, 1))
        mirrors.wait_until(lambda: len(seen) >= 200, "the first files")
        for step, rate in enumerate(RATES[1::2] if options.quick else RATES):
            first = step * 1_000_000
            answer = writer.work(service.Pace(first, rate, seconds))
            writer.work(service.Burst(last := first + 999_999, 1, 1))
            mirrors.wait_until(lambda: f"{last}.json" in seen, "the last file")
            mirrors.wait_until(lambda: mirror.durable() > 0, "files on the disk")
            title = options.database if options.history == "off" else f"{options.database}, history {options.history}"
            broken = _report(f"latency/{title}/{rate}", rate, answer.commits, seen)
            seen.clear()
            if broken:
                return


def _report(title: str, rate: int, commits: Sequence[service.Commit], seen: Sightings) -> str:
    """What broke, if something did."""
    delays = sorted(_delays(commits, seen))
    reached = len(commits) / (max(each.returned for each in commits) - min(each.due for each in commits))
    cuts = statistics.quantiles(delays, n=1000)
    for label, value in (("p50", cuts[499]), ("p99", cuts[989]), ("p99.9", cuts[998])):
        figures.note(f"{title}/{label}", value * 1000, "ms")
    figures.note(f"{title}/reached", reached, "commits/s")
    if reached < 0.9 * rate:
        print(f"broken: the service does not commit {rate:,} times a second")
        return "service"
    if cuts[989] * 1000 > BROKEN:
        print(f"broken: files come later than {BROKEN:,.0f} ms after the commit")
        return "chain"
    return ""


def _delays(commits: Sequence[service.Commit], seen: Sightings) -> list[float]:
    """Seconds. Changes of one record that came close together may be one write: all are seen by the last then."""
    by_record: dict[int, list[service.Commit]] = defaultdict(list)
    for commit in sorted(commits, key=lambda each: each.returned):
        by_record[commit.record].append(commit)
    found = []
    for record, changes in by_record.items():
        times = seen[f"{record}.json"]
        if len(times) != len(changes):
            times = [times[-1]] * len(changes)
        found += [at - change.due for change, at in zip(changes, times, strict=True)]
    return found
