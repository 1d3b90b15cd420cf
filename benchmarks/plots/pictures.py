"""Which pictures there are, and what they show. A picture without figures is not drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from benchmarks.plots.charts import Line, Row, bars, dots, lines
from benchmarks.plots.svg import THEMES, Canvas, Theme
from benchmarks.results import Results

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"
NAMES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
ROWS: Final = (
    Row("eventbus, no outbox", "eventbus, no outbox", ours=True),
    Row("eventbus, broker away", "eventbus, broker away", ours=True),
    Row("eventbus, relay", "eventbus, relay", ours=True),
    Row("eventbus, publishing", "eventbus", ours=True),
    Row("eventbus, in batches", "eventbus, batches", ours=True),
    Row("crudcdc", "crudcdc"),
    Row("audit-trail", "audit-trail"),
    Row("plain listener, kombu", "plain listener"),
    Row("SQLAlchemy-Continuum", "SQLAlchemy-Continuum"),
)
Draw = Callable[[Theme], Canvas]


def render(folder: Path = FOLDER) -> None:
    """Write all of them."""
    for name, text in drawn(Results.load()):
        (folder / name).write_text(text)


def drawn(results: Results) -> Iterator[tuple[str, str]]:
    """Names of files, and what they hold."""
    for name, draw in _pictures(results):
        for theme, colors in THEMES.items():
            yield f"bench-{name}-{theme}.svg", str(draw(colors))


def names(results: Results) -> list[str]:
    """Those that these results can draw."""
    return [name for name, _ in _pictures(results)]


def _pictures(results: Results) -> Iterator[tuple[str, Draw]]:
    for database in NAMES:
        if _panels(results, database, CELLS):
            yield f"writer-{database}", lambda theme, at=database: _writer(results, theme, at)  # type: ignore[misc]
        if _panels(results, database, CROWDS):
            yield f"crowd-{database}", lambda theme, at=database: _crowd(results, theme, at)  # type: ignore[misc]
    if any(results.under("latency/")):
        yield "latency", lambda theme: _latency(results, theme)
    if any(results.under("chain/")):
        yield "chain", lambda theme: _chain(results, theme)
    if any(results.under("growth/records/")):
        yield "records", lambda theme: _records(results, theme)
    if any(results.under("growth/postgresql/")):
        yield "commits", lambda theme: _commits(results, theme)


CELLS: Final = {
    "insert, 1 row": "insert-1", "insert, 1,000 rows": "insert-1000",
    "update, 1 row": "update-1", "update, 1,000 rows": "update-1000",
}  # fmt: skip
CROWDS: Final = {
    "4 threads": "insert-1-4threads",
    "16 threads": "insert-1-16threads",
    "asyncio, 16 tasks": "insert-1-16tasks",
}


def _panels(results: Results, database: str, cells: dict[str, str]) -> dict[str, dict[str, Figure]]:
    """Wall time by kind of work, as far as it was measured, and contender; who sees nothing of it has no figure."""
    found: dict[str, dict[str, Figure]] = {}
    for label, cell in cells.items():
        if results.get(f"writer/{database}/{cell}/bare/wall") is None:
            continue
        found[label] = {}
        for row in ROWS:
            where = f"writer/{database}/{cell}/{row.name}"
            seen, figure = results.get(f"{where}/seen"), results.get(f"{where}/wall")
            if figure and (seen is None or seen.value > 0.5):
                found[label][row.name] = figure
    return found


def _writer(results: Results, theme: Theme, database: str) -> Canvas:
    panels = _panels(results, database, CELLS)
    rows = [row for row in ROWS if any(row.name in panel for panel in panels.values())]
    title = f"What a commit costs on {NAMES[database]}, in times of bare SQLAlchemy"
    says = "Time until commit() has returned, publishing going on meanwhile. Further left is better; 1 is bare."
    return dots(theme, title, says, rows, panels)


def _crowd(results: Results, theme: Theme, database: str) -> Canvas:
    panels = _panels(results, database, CROWDS)
    rows = [row for row in ROWS if any(row.name in panel for panel in panels.values())]
    title = f"Many commits at once on {NAMES[database]}, in times of bare SQLAlchemy"
    says = "Time of a commit of one new row, where several threads or tasks of one process commit. 1 is bare."
    return dots(theme, title, says, rows, panels)


def _points(results: Results, beginning: str, end: str) -> dict[float, Figure]:
    """Figures by the number in their name: `latency/postgresql/200/p50` at 200."""
    names = (name for name in results.under(beginning) if name.endswith(f"/{end}"))
    return {float(name.split("/")[2]): results[name] for name in names}


def _latency(results: Results, theme: Theme) -> Canvas:
    several = []
    for series, percentile in enumerate(("p50", "p99", "p99.9")):
        several.append(Line(percentile, _points(results, "latency/postgresql/", percentile), series))
    title = "From a commit to its file, at rising load"
    says = "Service, PostgreSQL, RabbitMQ and mirror share two cores. A commit that comes late counts as late."
    return lines(
        theme,
        title,
        says,
        several,
        ("changes a second, one a commit", "ms"),
        marks={10: "goal of p50", 50: "goal of p99"},
    )


def _chain(results: Results, theme: Theme) -> Canvas:
    labels = {
        "bare": Row("the service alone, bare", ""),
        "ram": Row("to a file on a RAM disk", "", ours=True),
        "redis": Row("there and to Redis", "", ours=True),
        "disk": Row("to a file on the disk", "", ours=True),
    }
    groups = {
        f"{size} {'change' if size == 1 else 'changes'} a transaction": [
            (row, results[f"chain/{target}/{size}"]) for target, row in labels.items()
        ]
        for size in (1, 100)
    }
    groups["For comparison"] = [(Row("a loop that only creates files", ""), results["chain/files alone"])]
    title = "Changes a second, sustained from commit to durable file"
    says = "One service of four threads, one mirror, PostgreSQL and RabbitMQ on the same two cores."
    return bars(theme, title, says, groups, "changes a second")


def _records(results: Results, theme: Theme) -> Canvas:
    several = []
    for series, kind in enumerate(("new", "changed")):
        several.append(Line(kind, _points(results, "growth/records/", kind), series))
    title = "What a record costs the mirror, by how many there are"
    says = "Batches of 500 into state and files on the disk; flushes that the disk makes meanwhile included."
    return lines(theme, title, says, several, ("records in the mirror", "µs a record"), zero=True)


def _commits(results: Results, theme: Theme) -> Canvas:
    wanted = {
        "bare": ("bare/wall", 3), "eventbus": ("eventbus/wall", 0), "until confirmed": ("eventbus/wall_confirmed", 1),
    }  # fmt: skip
    several = []
    for label, (end, series) in wanted.items():
        points = _points(results, "growth/postgresql/", end)
        several.append(Line(label, points, series, dash="5 4" if label == "bare" else ""))
    title = "What a row costs, by how many a commit has"
    says = "New rows on PostgreSQL, bare and with eventbus, until commit() returned and until the broker confirmed all."
    return lines(theme, title, says, several, ("rows a commit", "µs a row"))
