"""Who lives, and who is dead: told from leases and from rows that go.

`sweep` asks it of owners, and the keeper of a relay of the relay that is active.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import final

from eventbus.outbox.owner import is_alive, is_dead
from eventbus.outbox.reading.leases import ABANDONED, Lease


@final
class Liveness:
    """Tells the dead from the living, without comparing any two clocks.

    Who lives shows in a lease that is beaten, or in rows that go: the lowest id of a working process's rows rises.
    `undecided` holds names of which neither is known yet.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._seen: dict[str, tuple[Lease | None, int, float]] = {}
        self.undecided: set[str] = set()

    def is_dead(self, name: str, lease: Lease | None, at: float, *, lowest: int = 0) -> bool:
        """Whether nobody holds that name: gave it up, is certainly gone, or has not moved for the grace time."""
        self.undecided.discard(name)
        holder = lease.holder if lease is not None else name
        if (lease is not None and lease.beat == ABANDONED) or is_dead(holder):
            return True
        if name not in self._seen:
            self._seen[name] = (lease, lowest, at)
            if not is_alive(holder):
                self.undecided.add(name)
            return False
        *seen, since = self._seen[name]
        if seen != [lease, lowest]:
            self._seen[name] = (lease, lowest, at)
            return False
        if at - since < self._grace:
            if not is_alive(holder):
                self.undecided.add(name)
            return False
        return True

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        self.undecided.intersection_update(names)
