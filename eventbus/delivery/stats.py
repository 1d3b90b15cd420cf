"""The figures of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

KEPT: Final = "`eventbus relay --parked list` shows what is kept in the outbox"


@dataclass(frozen=True, slots=True)
class Stats:
    """What a service should watch. Counts since the dispatcher was made, but for those that say otherwise.

    `pending_events`, `pending_rows`, `pending_bytes`: committed and not confirmed, in memory now; `waiting_in_outbox`:
    whether more wait in the outbox, for want of memory. `oldest_seconds`: how long the oldest of them has waited here.
    `parked`: rows the broker did not take, now, as last counted. `dropped`: events given up (`unroutable="drop"`, or
    direct mode).
    """

    pending_events: int = 0
    pending_rows: int = 0
    pending_bytes: int = 0
    waiting_in_outbox: bool = False
    oldest_seconds: float = 0.0
    published: int = 0
    retried: int = 0
    parked: int = 0
    dropped: int = 0
    connected: bool = False
    last_error: str | None = None


@dataclass(slots=True)
class Counters:
    """Events, so far. `untold`: lost, and not told of by a flush."""

    published: int = 0
    retried: int = 0
    dropped: int = 0
    untold: int = 0


Watcher = Callable[[Stats, Sequence[float]], None]
"""Told of the figures now and then, by the thread that publishes: quick, and never raising. The second argument has
seconds from commit to confirm, of the oldest event in each batch since it was told last."""
