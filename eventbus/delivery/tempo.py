"""How often things are looked after."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, final

_CHANCE: Final = random.SystemRandom()
"""The global generator is the application's: a seed of its own must give what it gives without us."""


@dataclass(frozen=True, slots=True)
class Tempo:
    """How often things are looked after, in seconds.

    `delete`: delivered rows are deleted together, this long after the first (default: 0.25; on SQLite, where the next
    commit deletes them on its way if there is one, 1). `grace`: an owner that does not move for this
    long is dead. `parked`: between two tries of a parked row. `sweep`: between two looks for rows of the dead.
    """

    delete: float | None = None
    grace: float = 60.0
    parked: float = 60.0
    sweep: float = 15.0

    @property
    def beat(self) -> float:
        """Between two signs of life."""
        return self.grace / 6


@final
@dataclass(slots=True)
class Timer:
    """Something that is due every so many seconds, by the monotonic clock."""

    every: float
    due: float = field(default=0.0)

    def ready(self, at: float) -> bool:
        """Whether it is due; if so, it is next due in about `every` seconds."""
        if at < self.due:
            return False
        # Many processes started together should not come back together.
        self.due = at + self.every * _CHANCE.uniform(0.8, 1.2)
        return True
