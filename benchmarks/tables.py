"""The numbers of the pages, put in from results.json.

`<!-- figure NAME -->1.12<!-- end -->` in a page is one figure, `<!-- table NAME -->` to `<!-- end -->` a whole table,
`<!-- picture NAME: what it shows -->` a plot for light and dark pages. Where a table's or plot's part was not measured,
nothing stands there.
Rendering again changes nothing: `tests/unit/test_benchmarks.py` holds the pages against the results in this way.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import ELSE, Figure, shown
from benchmarks.goals import GOALS, Goal
from benchmarks.plots.pictures import FOLDER, NAMES, ROWS, names
from benchmarks.results import PEERS, Results

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (ROOT / "README.md", ROOT / "docs/benchmarks.md")
CELLS: Final = tuple(f"{kind}-{rows}" for kind in ("insert", "update", "delete", "statement") for rows in (1, 1000))
CROWDS: Final = ("insert-1-4threads", "insert-1-16threads", "insert-1-16tasks")
_SAMPLED: Final = ("insert-1", "update-1", "insert-1000", "update-1000")
_MARKED: Final = re.compile(r"(<!-- (table|figure|picture) ([^>\n]+?) -->)(.*?)(<!-- end -->)", re.DOTALL)


def render(pages: Sequence[Path] = PAGES) -> None:
    """Write the pages anew, where something differs."""
    results = Results.load()
    for page in pages:
        text = page.read_text()
        if (new := filled(text, results, images(page))) != text:
            page.write_text(new)


def filled(page: str, results: Results, path: str = "docs/images") -> str:
    """The page, from which the images are at `path`, with the numbers of these results.

    Raises KeyError for a figure that was not measured.
    """

    def fill(found: re.Match[str]) -> str:
        begin, kind, name, _, end = found.groups()
        return f"{begin}{inside(kind, name)}{end}"

    def inside(kind: str, name: str) -> str:
        if kind == "figure":
            return shown(results[name].value)
        lines = _TABLES[name](results) if kind == "table" else _picture(name, results, path)
        return "".join(f"{line}\n" for line in ("", *lines))

    return _MARKED.sub(fill, page)


def without_figures(page: str) -> str:
    """What people wrote: the page without all that stands between markers."""
    return _MARKED.sub("", page)


def images(page: Path) -> str:
    """Where the images are, from a page."""
    return "images" if page.parent == FOLDER.parent else "docs/images"


def _picture(name: str, results: Results, path: str) -> Iterator[str]:
    plot, _, shows = name.partition(": ")
    if plot in names(results):
        yield "<picture>"
        yield f'  <source media="(prefers-color-scheme: dark)" srcset="{path}/bench-{plot}-dark.svg">'
        yield f'  <img src="{path}/bench-{plot}-light.svg" width="880" alt="{shows}">'
        yield "</picture>"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    if found := list(rows):
        yield f"| {' | '.join(head)} |"
        yield f"|{'---|' * len(head)}"
        yield from (f"| {' | '.join(row)} |" for row in found)


def _cell(figure: Figure | None, *, spread: bool = True) -> str:
    if figure is None:
        return "-"
    if not spread or figure.low is None or figure.high is None or figure.rounds < 2:
        return shown(figure.value)
    return f"{shown(figure.value)} ({shown(figure.low)} to {shown(figure.high)})"


def _machine(results: Results) -> Iterator[str]:
    about = results.machine
    servers = ", ".join(f"{_SERVERS[name]} {version}" for name, version in about["servers"].items())
    stands_on, peers = (
        ", ".join(f"{name} {version}" for name, version in about["packages"].items() if (name in PEERS) == wanted)
        for wanted in (False, True)
    )
    dates = sorted(part["date"] for part in results.parts.values())
    yield from _rows(
        ("", ""),
        (
            ("machine", f"{about['cores']} cores, {about['processor']}, {about['memory']}, {about['system']}"),
            ("servers", servers),
            ("with", f"Python {about['Python']}, {stands_on}"),
            ("peers", peers),
            ("measured", f"{dates[0]} to {dates[-1]}"),
        ),
    )


_SERVERS: Final = {"rabbitmq": "RabbitMQ", **NAMES}


def _writer(cells: Sequence[str], database: str, measure: str, results: Results) -> Iterator[str]:
    """Ratios to bare, whose own microseconds stand in the first row."""
    cells = [cell for cell in cells if results.get(f"writer/{database}/{cell}/bare/wall")]
    head = (NAMES[database], *(cell.replace("-", " ").replace("1000", "1,000") for cell in cells))
    yield from _rows(head, _contenders(cells, database, measure, results))


def _contenders(cells: Sequence[str], database: str, measure: str, results: Results) -> Iterator[Sequence[str]]:
    if not cells:
        return
    bare = [results.get(f"writer/{database}/{cell}/bare/{measure.partition('_')[0]}") for cell in cells]
    yield ("bare, µs a row", *(_cell(figure, spread=False) for figure in bare))
    for row in ROWS:
        found = [_seen(results, f"writer/{database}/{cell}/{row.name}", measure) for cell in cells]
        if any(found):
            name = f"**{row.label}**" if row.ours else row.label
            yield (name, *(_cell(figure) for figure in found))


def _seen(results: Results, where: str, measure: str) -> Figure | None:
    """Until confirmed, where the contender publishes. None where it does not see what it should."""
    seen = results.get(f"{where}/seen")
    if seen and seen.value <= 0.5:
        return None
    return results.get(f"{where}/{measure}") or results.get(f"{where}/{measure.partition('_')[0]}")


def _goals(results: Results) -> Iterator[str]:
    head = ("figure", "goal", *NAMES.values())
    rows = (_goal(goal, results) for goal in GOALS)
    yield from _rows(head, (row for row in rows if any(cell not in ("", "-") for cell in row[2:])))


def _goal(goal: Goal, results: Results) -> Sequence[str]:
    judged = [_judged(goal, results.get(goal.name.format(database=database))) for database in NAMES]
    if "{database}" not in goal.name:
        judged[1:] = ["", ""]
    return (goal.label, goal.text, *judged)


def _judged(goal: Goal, figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{shown(figure.value)}, met" if goal.is_met(figure.value) else f"**{shown(figure.value)}, missed**"


def _latency(results: Results) -> Iterator[str]:
    rates = sorted({int(name.split("/")[2]) for name in results.under("latency/postgresql/")})
    labels = ("reached", "p50", "p99", "p99.9")
    rows = (
        (f"{rate:,}", *(_cell(results.get(f"latency/postgresql/{rate}/{label}")) for label in labels)) for rate in rates
    )
    yield from _rows(("commits a second, asked for", "reached", "p50, ms", "p99, ms", "p99.9, ms"), rows)


def _growth(results: Results) -> Iterator[str]:
    sizes = sorted({int(name.split("/")[2]) for name in results.under("growth/postgresql/")})
    ends = ("bare/wall", "eventbus/wall", "eventbus/wall_confirmed", "bare/memory", "eventbus/memory")
    rows = ((f"{size:,}", *(_cell(results.get(f"growth/postgresql/{size}/{end}")) for end in ends)) for size in sizes)
    head = ("rows a commit", "bare, µs a row", "eventbus", "until confirmed", "bare, peak MiB", "eventbus, peak MiB")
    yield from _rows(head, rows)


def _records(results: Results) -> Iterator[str]:
    marks = sorted({int(name.split("/")[2]) for name in results.under("growth/records/")})
    ends = ("new", "changed", "memory")
    rows = ((f"{mark:,}", *(_cell(results.get(f"growth/records/{mark}/{end}")) for end in ends)) for mark in marks)
    yield from _rows(("records", "a new one, µs", "a changed one, µs", "memory, MiB"), rows)


def _listed(beginnings: Sequence[str], results: Results) -> Iterator[str]:
    """A line for each figure whose name begins so."""
    names = [name for beginning in beginnings for name in results.under(beginning)]
    rows = ((name.replace("/", ": ", 1).replace("/", ", "), _cell(results[name]), results[name].unit) for name in names)
    yield from _rows(("figure", "median", "unit"), rows)


def _where(cells: Mapping[str, str], results: Results) -> Iterator[str]:
    """Rooms, the costliest first, and what each took; `cells` are the titles of the columns by the figures' names."""
    found: dict[str, dict[str, Figure]] = defaultdict(dict)
    for cell in cells:
        for name in results.under(f"where/{cell}/"):
            found[name.removeprefix(f"where/{cell}/")][cell] = results[name]
    others = found.pop(ELSE, {})
    rooms = sorted(found, key=lambda room: -sum(figure.value for figure in found[room].values()))
    found[ELSE] = others
    rows = ((room, *(_cell(found[room].get(cell)) for cell in cells)) for room in (*rooms, ELSE))
    if rooms:
        yield from _rows(("room", *cells.values()), rows)


def _commands(results: Results) -> Iterator[str]:
    rows = (
        (f"`{name}`", f"`{part['command']}`", part["date"], _seconds(part), f"{part['load']:g}")
        for name, part in results.parts.items()
    )
    yield from _rows(("part", "command", "measured", "seconds", "load before"), rows)


def _seconds(part: Mapping[str, Any]) -> str:
    return f"{part['seconds']:,}" if part["is_complete"] else f"{part['seconds']:,}, stopped before its end"


_TABLES: Final[dict[str, Callable[[Results], Iterator[str]]]] = {
    "machine": _machine,
    "goals": _goals,
    "latency": _latency,
    "growth": _growth,
    "records": _records,
    "commands": _commands,
    "chain": partial(_listed, ("chain/", "shards/", "memory/")),
    "publishing": partial(_listed, ("publishing/", "consumer/", "backlog/", "serialization/")),
    "wire": partial(_listed, ("wire/",)),
    "outage": partial(_listed, ("outage/",)),
    "dumps": partial(_listed, ("loaddata/", "compare/", "history/", "histories/")),
    "observing": partial(_listed, ("observing/",)),
    "doorbell": partial(_listed, ("doorbell/",)),
    "statements": partial(_listed, ("statements/",)),
    **{
        f"writer-{database}-{measure}": partial(_writer, CELLS, database, measure)
        for database in NAMES
        for measure in ("wall", "cpu_confirmed")
    },
    **{
        f"where-{database}": partial(
            _where, {f"{database}/{cell}": cell.replace("-", " ").replace("1000", "1,000") for cell in _SAMPLED}
        )
        for database in ("sqlite", "postgresql")
    },
    "where-mirror": partial(_where, {"mirror": "µs an event"}),
    **{f"crowd-{database}": partial(_writer, CROWDS, database, "wall") for database in NAMES},
}
