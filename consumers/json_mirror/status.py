"""The mirror in figures, from its state and, where it answers, its broker.

What is wrong is told as others put it: `handling.standing` in the heartbeat, and of the broker `base.errors`, which
says what to do. `eventbus status` asks `witness` instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

import orjson
from amqp.exceptions import ChannelError

from consumers.base import ConsumerSettings
from consumers.base.broker import topology
from consumers.base.broker.line import Line, require_broker
from consumers.base.errors import Lost, talking
from consumers.base.reading.moments import moment
from consumers.json_mirror.disk import lock
from consumers.json_mirror.heartbeat import HELD, Heartbeat
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import Figures, State
from eventbus.errors import ConfigurationError, counted
from eventbus.events.naming import dead_letter_queue
from eventbus.redaction import printable, shown

_PATIENCE: Final = 3.0


@dataclass(frozen=True, slots=True)
class Queues:
    """What waits at the broker; None where it does not answer or the queue does not exist."""

    waiting: int | None = None
    dead_letters: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the broker says: the queues, and what is wrong with it."""

    queues: Queues
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """`lag` is how old the oldest event that waits may be, in seconds; 0 where none waits, None if unknown.

    `alive` is the age in seconds of the mirror's last sign of life, `trouble` what is wrong. `unsettled` counts files a
    start would look at. `well` is False where no mirror lives, or the broker does not serve it.
    """

    data_dir: str
    entities: Sequence[Figures]
    queues: Queues
    unsettled: int
    alive: float | None
    trouble: str | None
    lag: float | None
    well: bool = True

    def as_json(self) -> str:
        """One object, indented."""
        lines = orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2).decode().split("\n")
        return "\n".join(map(printable, lines))

    def as_table(self) -> str:
        """For a terminal: a row an entity, then the totals."""
        rows = [("entity", "records", "deleted", "last event", "version")]
        rows += [(f.directory, f"{f.live:,}", f"{f.deleted:,}", f.time or "-", str(f.version)) for f in self.entities]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_line(row, widths) for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(map(printable, [*lines, "", *self._totals()]))

    def _totals(self) -> list[str]:
        return [
            f"records       {sum(figures.live for figures in self.entities):,}",
            f"waiting       {_count(self.queues.waiting)}",
            f"dead letters  {_count(self.queues.dead_letters)}",
            f"lag           {'unknown' if self.lag is None else f'{self.lag:,.1f} s'}",
            f"unsettled     {counted(self.unsettled, 'file')}",
            f"sign of life  {'none' if self.alive is None else f'{self.alive:,.1f} s ago'}",
            f"trouble       {self.trouble or 'none'}",
        ]


def read_status(settings: MirrorSettings) -> Status:
    """Ask the state and the broker; also while the mirror runs. Raises StateUnavailable, StateDamaged."""
    with State(settings.state_file, read_only=True) as state:
        entities = state.figures()
        unsettled = len(state.pending())
    answer = ask_broker(settings.consumer)
    heartbeat = Heartbeat(settings.heartbeat_file)
    told, age = heartbeat.trouble(), heartbeat.age()
    held = HELD in (told or "")
    waiting = 1 if answer.queues.waiting == 0 and held else answer.queues.waiting
    faults = [*_dead(settings, age, waiting), *([answer.fault] if answer.fault else [])]
    return Status(
        data_dir=str(settings.data_dir),
        entities=entities,
        queues=answer.queues,
        unsettled=unsettled,
        alive=age,
        trouble=shown("; ".join([*faults, *([told] if told else [])]), 500) or None,
        lag=_lag(entities, waiting, Heartbeat(settings.caught_up_file).age()),
        well=not faults,
    )


def _dead(settings: MirrorSettings, age: float | None, waiting: int | None) -> Iterator[str]:
    """Why no mirror does its work. One that has ended in order is missed only where something waits for it."""
    since = "no sign of life" if age is None else f"the last sign of life is {age:,.0f} s old"
    if lock.ended(settings.lock_file):
        if waiting:
            yield f"no mirror runs, and {counted(waiting, 'message')} waiting; {since}"
    elif lock.died(settings.lock_file):
        yield f"the mirror is dead: it ended without an end; {since}"
    elif age is None or age > settings.health_max_age:
        yield f"the mirror is dead, or hangs: {since}"


def ask_broker(settings: ConsumerSettings) -> Answer:
    """How many messages wait. Never raises: without a broker the other figures are still of use."""
    try:
        require_broker(settings)
        line = Line(replace(settings, patience=_PATIENCE))
    except Lost as error:
        return Answer(Queues(), error.told)
    except ConfigurationError as error:
        return Answer(Queues(), f"the broker cannot be asked: {error}")
    try:
        with talking():
            queues = Queues(_depth(line, settings.queue_name), _depth(line, dead_letter_queue(settings.queue)))
            return Answer(queues, _missing(line, settings, queues))
    except Lost as error:
        return Answer(Queues(), error.told)
    finally:
        line.drop()


def _missing(line: Line, settings: ConsumerSettings, queues: Queues) -> str | None:
    if queues.waiting is None:
        return f"there is no queue {settings.queue_name}"
    if not topology.exchange_exists(line, settings.exchange):
        return f"there is no exchange {settings.exchange}, so that nothing arrives"
    return None


def _depth(line: Line, queue: str) -> int | None:
    try:
        with line.channel() as channel:
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except ChannelError:
        return None


def _lag(entities: Sequence[Figures], waiting: int | None, caught_up: float | None) -> float | None:
    """What waits has come after the last that was applied, and after the last moment when nothing waited."""
    if not waiting:
        return None if waiting is None else 0.0
    bounds = [
        bound
        for bound in (caught_up, _age(max((figures.time for figures in entities), default="")))
        if bound is not None
    ]
    return min(bounds, default=None)


def _age(time: str) -> float | None:
    then = moment(time)
    return max(0.0, (datetime.now(UTC) - then).total_seconds()) if then else None


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, records, deleted, *rest = (
        cell.rjust(width) if index in (1, 2) else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join((name, records, deleted, *rest)).rstrip()


def _count(number: int | None) -> str:
    return "unknown (the broker does not answer, or has no such queue)" if number is None else f"{number:,}"
