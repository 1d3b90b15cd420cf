"""How late files were in each minute of the last hour, kept in a small file for whoever draws it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, final

import orjson

from consumers.json_mirror.disk.private import open_own
from eventbus.errors import ConfigurationError

MINUTES: Final = 60
_MOST: Final = 10_000
"""Batches of one minute that are remembered."""
_LARGEST: Final = 1 << 16


class Minute(NamedTuple):
    """`number` counts from 1970. Milliseconds from a commit to its file: half were as fast as `middle`."""

    number: int
    batches: int
    middle: float
    worst: float


@final
class Lateness:
    """Told of each batch and of time going by; writes the file at `path` once a minute, if there was anything.

    Never raises: a mirror does not end because it could not say how fast it is.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._number = 0
        self._ages: list[float] = []

    def add(self, seconds: float) -> None:
        """A batch's first event is in its file, so long after its commit."""
        self.turn()
        if len(self._ages) < _MOST:
            self._ages.append(1000 * seconds)

    def turn(self) -> None:
        """Write down the minute that is over."""
        number = self._now()
        if number == self._number:
            return
        if self._ages:
            ended = Minute(self._number, len(self._ages), median(self._ages), max(self._ages))
            with suppress(OSError, ConfigurationError):  # as on a full disk
                self._write([*self.minutes(), ended])
        self._number, self._ages = number, []

    def minutes(self) -> list[Minute]:
        """Those of the last hour in which something was written, oldest first; none where the file cannot be read."""
        try:
            with open(open_own(self._path, os.O_RDONLY), "rb") as stream:
                found = [Minute(*row) for row in orjson.loads(stream.read(_LARGEST))]
        except (OSError, ConfigurationError, ValueError, TypeError):
            return []
        first = self._now() - MINUTES
        return [each for each in found if each.number >= first]

    def _now(self) -> int:
        return int(self._clock() // 60)

    def _write(self, minutes: list[Minute]) -> None:
        made = self._path.with_suffix(".new")
        with open(open_own(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as stream:
            stream.write(orjson.dumps([list(each) for each in minutes]))
        made.replace(self._path)
