"""The mirror in figures, from its state and, where it answers, its broker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from consumers.base import ConsumerSettings
from consumers.base.broker.line import require_broker
from consumers.json_mirror.heartbeat import HELD, Heartbeat
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import Figures, State
from eventbus import transports
from eventbus.errors import counted
from eventbus.events.naming import dead_letter_queue


@dataclass(frozen=True, slots=True)
class Queues:
    """What waits at the broker; None where it does not answer or the queue does not exist."""

    waiting: int | None = None
    dead_letters: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """`lag` is how old the last applied event is while others wait, or are held by a mirror whose disk is full, in
    seconds; 0 where none is, None if unknown.

    `alive` is the age in seconds of the mirror's last sign of life, `trouble` what it is waiting for. `unsettled`
    counts files a start would look at.
    """

    data_dir: str
    entities: Sequence[Figures]
    queues: Queues
    unsettled: int
    alive: float | None
    trouble: str | None
    lag: float | None

    def as_json(self) -> str:
        """One object, indented."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2).decode()

    def as_table(self) -> str:
        """For a terminal: a row an entity, then the totals."""
        rows = [("entity", "records", "deleted", "last event", "version")]
        rows += [(f.directory, f"{f.live:,}", f"{f.deleted:,}", f.time or "-", str(f.version)) for f in self.entities]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_line(row, widths) for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*lines, "", *self._totals()])

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
    queues = ask_broker(settings.consumer)
    heartbeat = Heartbeat(settings.heartbeat_file)
    trouble = heartbeat.trouble()
    return Status(
        data_dir=str(settings.data_dir),
        entities=entities,
        queues=queues,
        unsettled=unsettled,
        alive=heartbeat.age(),
        trouble=trouble,
        lag=_lag(entities, 1 if queues.waiting == 0 and HELD in (trouble or "") else queues.waiting),
    )


def ask_broker(settings: ConsumerSettings) -> Queues:
    """How many messages wait. Never raises: without a broker the other figures are still of use."""
    try:
        require_broker(settings)
        with transports.connection(settings.url, insecure_tls=settings.insecure_tls, connect_timeout=3.0) as line:
            return Queues(_depth(line, settings.queue_name), _depth(line, dead_letter_queue(settings.queue)))
    except Exception:  # noqa: BLE001  a broker that is away has a hundred names
        return Queues()


def _depth(line: Any, queue: str) -> int | None:
    try:
        with line.channel() as channel:
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except line.channel_errors:
        return None


def _lag(entities: Sequence[Figures], waiting: int | None) -> float | None:
    if not waiting:
        return None if waiting is None else 0.0
    newest = max((figures.time for figures in entities), default="")
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(newest)).total_seconds())
    except (ValueError, TypeError):
        return None


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, records, deleted, *rest = (
        cell.rjust(width) if index in (1, 2) else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join((name, records, deleted, *rest)).rstrip()


def _count(number: int | None) -> str:
    return "unknown (the broker does not answer, or has no such queue)" if number is None else f"{number:,}"
