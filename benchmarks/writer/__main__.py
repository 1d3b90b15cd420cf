"""What a commit costs with eventbus, against bare SQLAlchemy and against what others use to see changes.

    python -m benchmarks.writer --database postgresql [--quick]
    python -m benchmarks.writer --database postgresql --growth

Each contender is a process of its own with a database of its own. They take turns, one at a time, in an order that
changes each round; every round gives one ratio to bare, and what is told is the median of these, with the least and the
most. `wall` and `cpu` are a row's share until the last commit has returned, publishing going on meanwhile;
`wall_confirmed` and `cpu_confirmed` until all is confirmed. Processor time is that of the process with all its
children; the database's and the broker's is not in it. `cpu_own` is that of a service without its relay. Each
turn is as many commits as fill about `--seconds`, after some that do not count. `--growth` has commits of 1 to 100,000
rows instead, bare and with eventbus, and tells the memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from benchmarks import figures, places
from benchmarks.writer import contenders
from benchmarks.writer.child import Failure, Turn, serve
from benchmarks.writer.work import CELLS, GROWTH, Cell

MEASURES: Final = ("wall", "cpu", "wall_confirmed", "cpu_confirmed")
PATIENCE: Final = 180.0
MOST: Final = 400
"""Commits of one turn."""
LARGE: Final = 1000
"""Rows of a commit beyond which a turn is one commit."""


class GaveUp(Exception):
    """A contender could not do what was asked."""


class Rival:
    """A contender's process, from outside."""

    def __init__(self, name: str, pipe: Connection, process: Any) -> None:
        self.name = name
        self._pipe, self._process = pipe, process
        self.turns: list[Turn] = []

    def take(self, cell: Cell, commits: int) -> Turn:
        self._pipe.send((cell, commits))
        turn = self._hear()
        if isinstance(turn, Failure):
            raise GaveUp(turn.reason)
        assert isinstance(turn, Turn)
        return turn

    def ready(self) -> None:
        assert self._hear() == "ready"

    def _hear(self) -> object:
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(f"{self.name} says nothing")
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name} ended; what it said stands above") from None

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._pipe.send(None)
        self._process.join(30)
        self._process.kill()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=places.DATABASES, default="sqlite")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.15, help="of one turn")
    parser.add_argument("--cell", action="append", help=f"only these; of {', '.join(cell.name for cell in CELLS)}")
    parser.add_argument("--contender", action="append", help="only these, and bare")
    parser.add_argument("--growth", action="store_true", help="from 1 to 100,000 rows a commit")
    parser.add_argument("--quick", action="store_true", help="three short rounds, one commit at a time")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was made is removed then too
    if options.quick:
        options.rounds, options.seconds = 3, 0.05
    with places.directory() as base:
        for tasks in (False, True):
            some = [cell for cell in _cells(options) if bool(cell.tasks) == tasks]
            if some:
                measure(options, some, base, tasks=tasks)
    return 0


def _cells(options: argparse.Namespace) -> list[Cell]:
    cells = GROWTH if options.growth else CELLS
    if options.cell:
        return [cell for cell in cells if cell.name in options.cell]
    return [cell for cell in cells if cell.workers == 1 and cell.rows <= LARGE] if options.quick else list(cells)


def _names(options: argparse.Namespace) -> list[str]:
    wanted = ["eventbus"] if options.growth else options.contender
    found = contenders.taking_part(options.database)
    return [name for name in found if not wanted or name == "bare" or name in wanted]


def measure(options: argparse.Namespace, cells: Sequence[Cell], base: Path, *, tasks: bool) -> None:
    """All cells with the contenders of one kind of Session."""
    with ExitStack() as stack:
        rivals = [stack.enter_context(_rival(name, options.database, base, tasks=tasks)) for name in _names(options)]
        for cell in cells:
            _measure(options, cell, rivals)


def _measure(options: argparse.Namespace, cell: Cell, rivals: Sequence[Rival]) -> None:
    print(f"   {time.strftime('%H:%M:%S')} {cell.name}", flush=True)
    commits: dict[str, int] = {}
    turns: dict[str, list[Turn]] = {rival.name: [] for rival in rivals}
    order = list(rivals)
    for number in range(options.rounds + 1):
        random.shuffle(order)
        for rival in list(order):
            try:
                if number == 0:
                    commits[rival.name] = _commits(rival, cell, options.seconds)
                else:
                    turns[rival.name].append(rival.take(cell, commits[rival.name]))
            except GaveUp as reason:
                print(f"   {rival.name} is out of {cell.name}: {reason}", flush=True)
                order.remove(rival)
                del turns[rival.name]
    if "bare" not in turns:
        return
    if options.growth:
        _report_growth(f"growth/{options.database}/{cell.rows}", turns)
    else:
        _report(f"writer/{options.database}/{cell.name}", turns)


def _commits(rival: Rival, cell: Cell, seconds: float) -> int:
    """How many fill the time: a multiple of the workers, so that all have work to the end."""
    if cell.rows > LARGE:
        return 1
    few = 1 if cell.rows > 1 else 8
    turn = rival.take(cell, few * cell.workers)
    each = turn.wall / (few * cell.workers)
    least = 1 if cell.rows > 1 else 4
    return cell.workers * max(least, min(MOST, round(seconds / each)) // cell.workers)


def _report(title: str, turns: dict[str, list[Turn]]) -> None:
    bare = turns["bare"]
    for name, mine in turns.items():
        seen = statistics.median(turn.captured / turn.changes for turn in mine)
        where = f"{title}/{name}"
        if seen < 1:
            print(f"{where:<58} sees {seen:.0%} of the changes", flush=True)
            figures.note(f"{where}/seen", seen, "share")
        if name == "bare":
            for measure in MEASURES[:2]:
                figures.note_median(f"{where}/{measure}", [each * 1e6 for each in _each(mine, measure)], "µs a row")
            continue
        for measure in MEASURES if contenders.named(name).publishes else MEASURES[:2]:
            figures.note_ratio(f"{where}/{measure}", _each(mine, measure), _each(bare, measure))
        if name == contenders.Relay.name:
            figures.note_ratio(f"{where}/cpu_own", _each(mine, "cpu_own"), _each(bare, "cpu_own"))


def _report_growth(title: str, turns: dict[str, list[Turn]]) -> None:
    for name, mine in turns.items():
        figures.note_median(f"{title}/{name}/memory", [turn.peak for turn in mine], "MiB")
        for measure in MEASURES if name == "eventbus" else MEASURES[:1]:
            values = [each * 1e6 for each in _each(mine, measure)]
            figures.note_median(f"{title}/{name}/{measure}", values, "µs a row")


def _each(turns: Sequence[Turn], measure: str) -> list[float]:
    return [float(getattr(turn, measure)) / turn.changes for turn in turns]


@contextmanager
def _rival(name: str, database: str, base: Path, *, tasks: bool) -> Iterator[Rival]:
    with places.database(database, base) as url, places.queue() as queue:
        context = multiprocessing.get_context("spawn")
        near, far = context.Pipe()
        options = {"tasks": tasks}
        process = context.Process(target=serve, args=(far, name, url, queue), kwargs=options, daemon=False)
        process.start()
        far.close()
        rival = Rival(name, near, process)
        try:
            rival.ready()
            yield rival
        finally:
            rival.close()


if __name__ == "__main__":
    sys.exit(main())
