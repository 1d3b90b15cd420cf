"""When a transaction is whole, and in which order transactions go into the history.

An event says how many events its transaction had when it was made. That is not the last word: a listener further down
the same commit may add some. So the greatest size counts, and a transaction that seems complete is given `settle`
seconds from its first event, and a quarter of that from when it became complete. Of those that are ripe, and of all
that are complete below them, the lowest version goes first: versions rise along cause and effect, so a transaction that
has seen another's commit comes after it. What stays incomplete is sealed as it is after `patience` seconds; what comes
after that is another part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from consumers.history.assembly.fact import Fact
from consumers.history.assembly.transaction import Open, Sealed, seal

MAX_EVENTS: Final = 10_000
"""Events held in memory. Beyond them the oldest transactions are sealed early, in parts where they are incomplete."""


@dataclass(frozen=True, slots=True)
class Tempo:
    """Seconds. `sums` says that sizes add up: in a queue with other bindings than `#`, or a shard, they do not."""

    settle: float = 1.0
    patience: float = 60.0
    sums: bool = True


class Assembly:
    """Holds what is not sealed. `earlier` tells, of a transaction's id, how many parts and events are sealed already.

    Times are seconds of one clock, whichever; they should not fall.
    """

    def __init__(self, tempo: Tempo, earlier: Callable[[str], tuple[int, int]], limit: int = MAX_EVENTS) -> None:
        self._tempo = tempo
        self._earlier = earlier
        self._limit = limit
        self._open: dict[str, Open] = {}
        self.events = 0

    def __iter__(self) -> Iterator[Open]:
        return iter(self._open.values())

    def take(self, fact: Fact, now: float, *, known: Callable[[Fact], bool]) -> bool:
        """Add the event to its transaction. False for a copy.

        `known` tells whether a change is in the history already. Only then is it asked when a part of the transaction
        is: no other copy can be of a change that was sealed.
        """
        transaction = self._open.get(fact.transaction)
        if transaction is None or transaction.part > 1:
            parts, events = self._earlier(fact.transaction)
            if parts and known(fact):
                return False
            if transaction is None:
                transaction = self._open[fact.transaction] = Open(fact.transaction, parts + 1, events, now)
        added = transaction.add(fact, now)
        self.events += added
        return added

    def drop(self, transactions: Iterable[Open]) -> None:
        """Hold these no more; whoever calls keeps their events elsewhere."""
        for each in transactions:
            del self._open[each.id]
            self.events -= len(each.facts)

    def seal(self, now: float) -> list[Sealed]:
        """Those whose time has come, lowest version first. They are held no more."""
        ripe = max((each.version for each in self if self._is_ripe(each, now)), default=0)
        found = [each for each in self if each.version <= ripe and self._may_go(each, now)]
        found += self._crowded_out(found)
        found.sort(key=lambda each: each.rank)
        self.drop(found)
        return [seal(each, sums=self._tempo.sums) for each in found]

    def _is_ripe(self, transaction: Open, now: float) -> bool:
        if now - transaction.first >= self._tempo.patience:
            return True
        complete, settle = self._complete(transaction), self._tempo.settle
        if complete is None or now - transaction.first < settle:
            return False
        return now - complete >= (settle / 4 if self._tempo.sums else settle)

    def _may_go(self, transaction: Open, now: float) -> bool:
        """A complete one of a lower version goes along, so that it does not become late by our own doing."""
        return (self._complete(transaction) is not None and self._tempo.sums) or self._is_ripe(transaction, now)

    def _complete(self, transaction: Open) -> float | None:
        return transaction.complete if self._tempo.sums else transaction.last

    def _crowded_out(self, going: list[Open]) -> list[Open]:
        left = self.events - sum(len(each.facts) for each in going)
        if left <= self._limit:
            return []
        gone = set(map(id, going))
        staying = [each for each in self if id(each) not in gone]
        out: list[Open] = []
        for each in sorted(staying, key=lambda each: (each.complete is None, each.first)):
            if left <= self._limit // 2:
                break
            out.append(each)
            left -= len(each.facts)
        return out
