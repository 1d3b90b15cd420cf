"""What a benchmark found: each figure is printed, and kept where `make bench` gathers them.

A figure has a name (`writer/sqlite/insert-1/eventbus/wall`), a value, a unit and, where it is a median, what it lay
between. `BENCH_FIGURES` names the file that takes them, a JSON object a line.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

VARIABLE: Final = "BENCH_FIGURES"
ELSE: Final = "all else"
"""The figure of all that is too little to be told alone."""


@dataclass(frozen=True, slots=True)
class Figure:
    """`low` and `high` are the least and the most of `rounds` values whose median is `value`."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    rounds: int = 1

    def __str__(self) -> str:
        spread = "" if self.low is None or self.high is None else f"  ({shown(self.low)}..{shown(self.high)})"
        return f"{shown(self.value)} {self.unit}{spread}"


def note(name: str, value: float, unit: str) -> None:
    """One value."""
    _keep(name, Figure(rounded(value), unit))


def note_median(name: str, values: Sequence[float], unit: str) -> None:
    """The median of several rounds, with the least and the most of them."""
    low, high = rounded(min(values)), rounded(max(values))
    _keep(name, Figure(rounded(statistics.median(values)), unit, low, high, len(values)))


def note_ratio(name: str, mine: Sequence[float], base: Sequence[float]) -> None:
    """The median of the ratios of each round."""
    note_median(name, [one / other for one, other in zip(mine, base, strict=True)], "ratio")


def rounded(value: float) -> float:
    """To four figures that count: no machine repeats itself more exactly."""
    return float(f"{value:.4g}")


def shown(value: float) -> str:
    """As people write it: 41,800, 127, 12.7, 1.27."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def read(path: Path) -> dict[str, Figure]:
    """What a benchmark left there."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return {each.pop("name"): Figure(**each) for each in map(orjson.loads, lines)}


def _keep(name: str, figure: Figure) -> None:
    print(f"{name:<58} {figure}", flush=True)
    if path := os.environ.get(VARIABLE):
        with open(path, "ab") as file:
            file.write(orjson.dumps({"name": name, **asdict(figure)}) + b"\n")
