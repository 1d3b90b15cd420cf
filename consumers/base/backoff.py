"""How long to wait before the next try."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Doubling pauses from `first` to `limit` seconds, each shortened by up to half: many must not come at once."""

    first: float
    limit: float
    failures: int = 0

    def next(self) -> float:
        """Count one more failure; the seconds to wait after it."""
        pause = min(self.limit, self.first * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  spreads load, hides nothing

    def reset(self) -> None:
        """Something worked: begin again at `first`."""
        self.failures = 0
