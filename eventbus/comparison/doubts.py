"""Records that differed at the first look: a difference counts only once nothing on its way can mend it.

Beside a running service a row is ahead of the mirror by some milliseconds, and by more while the broker is away. So a
record that differs is looked at again, on both sides, until this chain is closed:

1. The mirror's record is read, then the row, and they differ. Call the moment after that `since`.
2. Later than `wait` seconds after it, the outbox has no row from before `since`: what it told is with the broker. Call
   this moment `clean`.
3. A running mirror has taken in what was with the broker at `clean`.
4. Then the same is seen as in 1, on both sides. So no event of what the row was at `since` mends it.

It is not enough that the mirror stands still: the row may have changed a moment ago. Nor that the mirror has taken in
something later than `since`: another process may have published that first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, final

from eventbus.comparison.difference import Difference
from eventbus.comparison.looking import Looking, Sight
from eventbus.events.change import Key

MOST: Final = 20_000
"""Doubts that are kept at a time; with more the comparison waits. Some 10 MB."""
_PAUSE: Final = 0.25
"""Seconds between two looks."""


@dataclass(slots=True)
class Doubt:
    """A record that differs. `begun`: when it was first doubted; moments are seconds since 1970.

    `key` is None for a key that the table cannot hold. `sight` is what both sides were at the last look, and `since`
    the moment after the first look that saw that. `clean`: when the outbox was first without rows from before `since`.
    """

    name: str
    pk: Any
    key: Key | None
    begun: float
    sight: Sight | None = None
    since: float = 0.0
    clean: float | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long both sides of a record have to stand still, and after how long it is left as in flight."""

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

    def add(self, name: str, pk: Any, key: Key | None) -> None:
        """Doubt a record that differed."""
        self._doubts.setdefault(name, Doubt(name, pk, key, time.time()))

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
        arrived = self._arrived(now)
        for doubt, (found, sight) in self._looking.at(list(self._doubts.values())):
            if found is None:
                del self._doubts[doubt.name]
            elif sight != doubt.sight:
                doubt.sight, doubt.since, doubt.clean = sight, time.time(), None
            elif doubt.name in arrived:
                del self._doubts[doubt.name]
                yield found

    def _arrived(self, now: float) -> set[str]:
        """The names of those of which the mirror has all that was told before `since`. To be asked before a look."""
        waiting = [doubt for doubt in self._doubts.values() if now - doubt.since >= self._patience.wait and doubt.sight]
        if not waiting:
            return set()
        oldest = now - self._outbox_age()
        arrived = set()
        for doubt in waiting:
            if doubt.clean is None and oldest >= doubt.since:
                doubt.clean = time.time()
            if doubt.clean is not None and not self._looking.mirror.is_behind(doubt.clean):
                arrived.add(doubt.name)
        return arrived

    def _is_left(self, doubt: Doubt) -> bool:
        return time.time() - doubt.begun > self._patience.timeout
