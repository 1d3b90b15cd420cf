"""Three kinds of charts: dots with their spread, bars, and lines. Axes are linear from 0, or logarithmic and say so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Figure, shown
from benchmarks.plots.svg import Canvas, Theme

WIDTH: Final = 880
TOP: Final = 76
"""Where a chart begins, below its title and what it says."""
ROW: Final = 26
LABELS: Final = 186
SPREAD: Final = "logarithmic; a dot is the median of the rounds, the bar through it their least and most"

Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Row:
    """A contender: `ours` says in which colour."""

    label: str
    name: str
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """Points, `x` to a figure; the label stands at its end. `series` is the number of its colour."""

    label: str
    points: Mapping[float, Figure]
    series: int = 0
    dash: str = ""


def begun(theme: Theme, height: float, title: str, says: str) -> Canvas:
    """A canvas with its headline, and below it how to read it."""
    canvas = Canvas(WIDTH, height, theme, title)
    canvas.text(16, 28, title, size=16, bold=True)
    canvas.text(16, 48, says, color=theme.faint)
    return canvas


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """From values to pixels."""
    span = math.log(high / low)
    return lambda value: start + math.log(value / low) / span * (end - start)


def linear(high: float, start: float, end: float) -> Scale:
    """From 0."""
    return lambda value: start + value / high * (end - start)


def powers(low: float, high: float, steps: Sequence[float] = (1,)) -> list[float]:
    """Ticks: these times each power of ten, within the bounds."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)


def dots(
    theme: Theme, title: str, says: str, rows: Sequence[Row], panels: Mapping[str, Mapping[str, Figure]]
) -> Canvas:
    """Ratios to bare, a panel for each kind of work: a dot is a median, the bar through it the rounds."""
    height = TOP + 22 + ROW * len(rows) + 54
    canvas = begun(theme, height, title, says)
    found = [figure for panel in panels.values() for figure in panel.values()]
    high = round_up(max(figure.high or figure.value for figure in found) * 1.3)
    low = min(0.8, *(figure.low or figure.value for figure in found))
    width = (WIDTH - LABELS - 12) / len(panels)
    bottom = TOP + 22 + ROW * len(rows)
    for number, row in enumerate(rows):
        y = TOP + 22 + ROW * (number + 0.5)
        color = theme.ours if row.ours else theme.text
        canvas.text(LABELS - 10, y + 4, row.label, anchor="end", color=color, bold=row.ours)
    for place, (label, figures) in enumerate(panels.items()):
        left = LABELS + place * width
        scale = logarithmic(low, high, left + 6, left + width - 14)
        canvas.text(left + 6, TOP + 12, label, bold=True)
        for tick in powers(1, high, (1, 2, 5)) if high <= 20 else powers(1, high, (1, 3)):
            reference = tick == 1
            color = theme.faint if reference else theme.grid
            canvas.line((scale(tick), TOP + 20), (scale(tick), bottom), color=color, dash="" if reference else "2 3")
            canvas.text(scale(tick), bottom + 16, f"{tick:g}", size=11, anchor="middle", color=theme.faint)
        for number, row in enumerate(rows):
            y = TOP + 22 + ROW * (number + 0.5)
            figure = figures.get(row.name)
            if figure is None:
                canvas.text(scale(1) + 6, y + 4, "sees none", size=11, color=theme.faint)
            else:
                color = theme.ours if row.ours else theme.others
                _dot(canvas, scale, y, figure, color=color, end=left + width - 10)
    canvas.text(LABELS + 6, bottom + 36, SPREAD, size=11, color=theme.faint)
    return canvas


def _dot(canvas: Canvas, scale: Scale, y: float, figure: Figure, *, color: str, end: float) -> None:
    low, high = figure.low or figure.value, figure.high or figure.value
    canvas.line((scale(low), y), (scale(high), y), color=color, width=2)
    canvas.dot(scale(figure.value), y, color=color)
    text = shown(figure.value)
    after = max(scale(high), scale(figure.value) + 4) + 6
    if after + 7 * len(text) < end:
        canvas.text(after, y + 4, text, size=11)
    else:
        canvas.text(min(scale(low), scale(figure.value) - 4) - 6, y + 4, text, size=11, anchor="end")


def bars(theme: Theme, title: str, says: str, groups: Mapping[str, Sequence[tuple[Row, Figure]]], unit: str) -> Canvas:
    """Lengths from 0, in groups."""
    count = sum(len(group) + 1 for group in groups.values())
    canvas = begun(theme, TOP + ROW * count + 44, title, says)
    high = max((each.high or each.value) for group in groups.values() for _, each in group)
    left, right = LABELS + 90, WIDTH - 90
    scale, bottom = linear(high, left, right), TOP + ROW * count
    step = round_up(high / 5)
    for tick in range(int(high / step) + 1):
        x = scale(tick * step)
        canvas.line((x, TOP), (x, bottom), dash="" if tick == 0 else "2 3", color=theme.faint if tick == 0 else "")
        canvas.text(x, bottom + 16, f"{tick * step:,g}", size=11, anchor="middle", color=theme.faint)
    canvas.text((left + right) / 2, bottom + 36, unit, size=11, anchor="middle", color=theme.faint)
    y = float(TOP)
    for label, group in groups.items():
        canvas.text(16, y + ROW * 0.7, label, bold=True)
        y += ROW
        for row, figure in group:
            color = theme.ours if row.ours else theme.others
            canvas.text(left - 10, y + ROW * 0.66, row.label, anchor="end")
            canvas.box(left, y + 5, scale(figure.value) - left, ROW - 10, color=color)
            end = scale(figure.value)
            if figure.low is not None and figure.high is not None:
                canvas.line((scale(figure.low), y + ROW / 2), (scale(figure.high), y + ROW / 2), color=theme.text)
                end = max(end, scale(figure.high))
            canvas.text(end + 8, y + ROW * 0.66, shown(figure.value), size=11)
            y += ROW
    return canvas


def lines(
    theme: Theme,
    title: str,
    says: str,
    several: Sequence[Line],
    axes: tuple[str, str],
    *,
    marks: Mapping[float, str] = {},
    zero: bool = False,
) -> Canvas:
    """Both axes logarithmic, or with `zero` the upright one from 0; `marks` are values of `y` drawn across."""
    several = [line for line in several if line.points]
    height, left, right, bottom = 410, 70, WIDTH - 160, 410 - 52
    canvas = begun(theme, height, title, says)
    xs = sorted({x for line in several for x in line.points})
    ys = [
        value
        for line in several
        for each in line.points.values()
        for value in (each.low, each.value, each.high)
        if value
    ]
    ys += marks
    low, high = min(ys) / 1.2, max(ys) * 1.2
    across = logarithmic(xs[0], xs[-1], left + 8, right)
    if zero:
        up, step = linear(high, bottom, TOP), round_up(high / 6)
        ticks = [step * number for number in range(int(high / step) + 1)]
    else:
        up = logarithmic(low, high, bottom, TOP)
        ticks = powers(low, high, (1,) if high / low > 500 else (1, 2, 5))
    for tick in ticks:
        canvas.line((left, up(tick)), (right, up(tick)), dash="2 3")
        canvas.text(left - 8, up(tick) + 4, f"{tick:,g}", size=11, anchor="end", color=theme.faint)
    for x in xs:
        canvas.line((across(x), bottom), (across(x), bottom + 4), color=theme.faint)
        canvas.text(across(x), bottom + 18, f"{x:,.0f}", size=11, anchor="middle", color=theme.faint)
    canvas.line((left, bottom), (right, bottom), color=theme.faint)
    canvas.text((left + right) / 2, bottom + 40, axes[0], size=11, anchor="middle", color=theme.faint)
    canvas.text(
        16,
        TOP - 6,
        f"{axes[1]} ({'from 0, records logarithmic' if zero else 'both axes logarithmic'})",
        size=11,
        color=theme.faint,
    )
    for value, label in marks.items():
        canvas.line((left, up(value)), (right, up(value)), color=theme.faint, dash="6 4")
        canvas.text(right - 6, up(value) - 5, label, size=11, anchor="end", color=theme.faint)
    ends = _apart([(up(line.points[max(line.points)].value), line) for line in several])
    for y, line in ends:
        color = theme.series[line.series]
        points = [(across(x), up(figure.value)) for x, figure in sorted(line.points.items())]
        canvas.path(points, color=color, dash=line.dash)
        for x, figure in line.points.items():
            canvas.dot(across(x), up(figure.value), color=color, radius=3)
            if figure.low and figure.high:
                canvas.line((across(x), up(figure.low)), (across(x), up(figure.high)), color=color)
        last = line.points[max(line.points)]
        canvas.text(points[-1][0] + 12, y + 4, f"{line.label} {shown(last.value)}", color=color, bold=True)
    return canvas


def _apart(ends: list[tuple[float, Line]]) -> list[tuple[float, Line]]:
    """Labels at the ends of lines, moved so that none covers another."""
    placed: list[tuple[float, Line]] = []
    for y, line in sorted(ends, key=lambda end: end[0]):
        placed.append((max(y, placed[-1][0] + 16) if placed else y, line))
    return placed
