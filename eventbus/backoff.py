"""Pauses between tries."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(slots=True)
class Backoff:
    """How long to wait before the next try: doubling from `first` to `limit` seconds, each shortened by up to `jitter`.

    The jitter keeps many services from coming back at one instant. With a `seed` the delays are the same in every run.
    """

    first: float = 0.1
    limit: float = 30.0
    jitter: float = 0.5
    seed: int | None = None
    failures: int = field(default=0, init=False)
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.limit or not 0 <= self.jitter < 1:
            raise ValueError("Backoff needs 0 < first <= limit and 0 <= jitter < 1")
        self._random = random.Random(self.seed)  # noqa: S311  # spreads load, guards nothing

    def next(self) -> float:
        """Count one more failure; the seconds to wait after it, above 0 and at most `limit`."""
        delay = min(self.limit, self.first * 2.0 ** min(self.failures, 62))
        self.failures += 1
        return delay * (1 - self.jitter * self._random.random())

    def reset(self) -> None:
        """Something worked: begin again at `first`."""
        self.failures = 0
