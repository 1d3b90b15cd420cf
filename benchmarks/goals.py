"""What the project wants to reach, by the name of the figure that tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.figures import shown


@dataclass(frozen=True, slots=True)
class Goal:
    """At most `limit`, or with `least` at least that. `{database}` in the name stands for each of them."""

    label: str
    name: str
    limit: float
    unit: str = ""
    least: bool = False

    @property
    def text(self) -> str:
        """As the table shows it."""
        return f"{'≥' if self.least else '≤'} {shown(self.limit)} {self.unit}".strip()

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit


def _writer(cell: str, contender: str, measure: str) -> str:
    return f"writer/{{database}}/{cell}/{contender}/{measure}"


def _cost(label: str, contender: str, cells: dict[str, float], cpu: str, most_cpu: float | None) -> list[Goal]:
    """Wall and processor time of one contender; `most_cpu` where that has a limit of its own."""
    goals = []
    for cell, most in cells.items():
        work = cell.replace("-", " of ").replace("1000", "1,000")
        goals.append(Goal(f"{work}: {label}, wall", _writer(cell, contender, "wall"), most))
        goals.append(Goal(f"{work}: {label}, CPU", _writer(cell, contender, cpu), most_cpu or most))
    return goals


_ALONE: Final = {"insert-1": 1.10, "update-1": 1.10, "insert-1000": 1.25, "update-1000": 1.35}
_PUBLISHING: Final = {"insert-1": 1.20, "update-1": 1.20, "insert-1000": 1.5, "update-1000": 1.5}
_BATCHES: Final = {"insert-1000": 1.5, "update-1000": 1.5}

GOALS: Final = (
    *_cost("capture and outbox alone", "eventbus, broker away", _ALONE, "cpu", None),
    *_cost('`delivery="relay"`', "eventbus, relay", _ALONE, "cpu_own", None),
    *_cost("publishing meanwhile", "eventbus", _PUBLISHING, "cpu_confirmed", 1.4),
    *_cost('the same with `wire="batch"`', "eventbus, batches", _BATCHES, "cpu_confirmed", 1.4),
    Goal("200 commits a second: commit to file, p50", "latency/postgresql/200/p50", 10, "ms"),
    Goal("the same, p99", "latency/postgresql/200/p99", 50, "ms"),
    Goal("13 columns to JSON", "serialization/eventbus", 2, "µs"),
    Goal("confirmed publishing, against raw", "publishing/eventbus/ratio", 0.9, "", least=True),
    Goal("in batches: draining the outbox into the broker", "wire/drain/batch", 50_000, "events/s", least=True),
    Goal("in batches: to Redis, files on a RAM disk", "wire/mirror/batch/Redis", 25_000, "events/s", least=True),
    Goal("metrics and traces on, one of 100 sampled: commit of 1 row", "observing/thread/one in 100", 1.02),
    Goal("the same, all sampled", "observing/thread/every trace", 1.02),
    Goal("loaddata, SQLite", "loaddata/eventbus", 40_000, "rows/s", least=True),
    Goal("compare, SQLite", "compare/rows", 50_000, "rows/s", least=True),
    Goal("history in git: transactions of 1 to 3 changes", "history/small/commits", 2_000, "commits/s", least=True),
    Goal("the same, of 1,000 changes", "history/large/changes", 10_000, "changes/s", least=True),
    Goal("a mirror with a history in git, against without", "histories/git/ratio", 0.92, "", least=True),
    Goal("slowest page of `eventbus web`", "pages/slowest", 100, "ms"),
    Goal("largest page", "pages/largest", 100, "KB"),
    Goal("a mirror beside pages that are looked at, against alone", "pages/mirror beside pages", 0.95, "", least=True),
    *(
        Goal(f"broker {state}: commit of 1 row, PostgreSQL", f"outage/{state}/ratio", 1.10)
        for state in ("down", "blocked", "black hole", "silent", "resetting")
    ),
)
