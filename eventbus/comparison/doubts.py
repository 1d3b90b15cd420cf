"""Records that differed at the first look: a difference counts only once nothing on its way can mend it.

Beside a running service a row is ahead of the mirror by some milliseconds, and by more while the broker is away. So a
record that differs is looked at again, on both sides. It is settled as different once the mirror's record has stood
still for `wait` seconds, the outbox has no row from before, and a running mirror has had nothing left to do since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, final

from eventbus.comparison.difference import Difference
from eventbus.comparison.looking import Looking
from eventbus.comparison.mirror import Held
from eventbus.events.change import Key

MOST: Final = 20_000
"""Doubts that are kept at a time; with more the comparison waits. Some 10 MB."""
_PAUSE: Final = 0.25
"""Seconds between two looks."""


@dataclass(slots=True)
class Doubt:
    """A record that differs. Since the moment `since` (seconds since 1970) the mirror has had this version of it, or
    for None no record. `key` is None for a key that the table cannot hold; `begun` is when it was first doubted."""

    name: str
    pk: Any
    key: Key | None
    version: int | None
    since: float
    begun: float


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long a record has to stand still, and after how long it is left as in flight."""

    wait: float = 3.0
    timeout: float = 60.0


@final
class Doubts:
    """The doubtful records of one model. `outbox_age` tells the age of the oldest row that waits in the outbox."""

    def __init__(self, looking: Looking, outbox_age: Callable[[], float], patience: Patience) -> None:
        self._looking = looking
        self._outbox_age = outbox_age
        self._patience = patience
        self._doubts: dict[str, Doubt] = {}
        self._looked = 0.0

    def __len__(self) -> int:
        return len(self._doubts)

    def add(self, name: str, pk: Any, key: Key | None, held: Held | None, since: float) -> None:
        """Doubt a record that differed when it was looked at, which began at `since`."""
        self._doubts.setdefault(name, Doubt(name, pk, key, held.version if held else None, since, since))

    def settled(self) -> Iterator[Difference]:
        """What is certain by now, without waiting, unless there are too many doubts."""
        if self._doubts and time.time() - self._looked >= self._patience.wait:
            yield from self._look()
        while len(self._doubts) >= MOST:
            time.sleep(_PAUSE)
            yield from self._look()

    def all_settled(self) -> Iterator[Difference]:
        """The rest, each as soon as it is certain. What is in flight to the last is left in doubt."""
        yield from self._look()
        while any(not self._is_left(doubt) for doubt in self._doubts.values()):
            time.sleep(_PAUSE)
            yield from self._look()

    def _look(self) -> Iterator[Difference]:
        """Look at all of them again: those that are equal now are forgotten, those that are certain are told."""
        self._looked = now = time.time()
        oldest = now - self._outbox_age() if self._doubts else now
        for doubt, (found, held) in self._looking.at(list(self._doubts.values())):
            if found is None:
                del self._doubts[doubt.name]
            elif self._is_certain(doubt, held, now, oldest):
                del self._doubts[doubt.name]
                yield found

    def _is_certain(self, doubt: Doubt, held: Held | None, now: float, oldest: float) -> bool:
        version = held.version if held else None
        if version != doubt.version:
            doubt.version, doubt.since = version, now
        return (
            now - doubt.since >= self._patience.wait
            and oldest >= doubt.since
            and not self._looking.mirror.is_behind(doubt.since)
        )

    def _is_left(self, doubt: Doubt) -> bool:
        return time.time() - doubt.begun > self._patience.timeout
