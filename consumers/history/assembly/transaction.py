"""A transaction in the making, and one that has its place in the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from consumers.history.assembly.fact import Fact, folded


class Open:
    """The events of one transaction that have come so far.

    `before` is how many events earlier parts of it have. `first` and `last` are the seconds at which its first and
    latest event came, `complete` when it had as many as the greatest size it has seen; None before that. A size that
    grows makes it incomplete again. `oldest` is the lowest number of its events in the journal, 0 where it has none.
    """

    __slots__ = ("before", "complete", "facts", "first", "id", "last", "oldest", "part", "size", "version")

    def __init__(self, id: str, part: int, before: int, now: float) -> None:
        self.id = id
        self.part = part
        self.before = before
        self.first = self.last = now
        self.complete: float | None = None
        self.facts: dict[tuple[str, int], Fact] = {}
        self.size = 0
        self.version = 0
        self.oldest = 0

    def add(self, fact: Fact, now: float) -> bool:
        """Take it in, once; tell whether it was new."""
        key = fact.record, fact.version
        if key in self.facts:
            return False
        self.facts[key] = fact
        self.size = max(self.size, fact.size)
        self.version = max(self.version, fact.version)
        if fact.source > 0:
            self.oldest = min(self.oldest or fact.source, fact.source)
        self.last = now
        self.complete = now if self.before + len(self.facts) >= self.size else None
        return True

    def move(self, sources: Mapping[int, int]) -> None:
        """Its events are in another place now: from an old number to the new one, which is negative."""
        self.facts = {
            key: fact._replace(source=sources.get(fact.source, fact.source)) for key, fact in self.facts.items()
        }
        self.oldest = 0

    @property
    def rank(self) -> tuple[int, bool, str, int]:
        """Its place among others: that of its greatest version, which rises along cause and effect.

        What only tells again what was seen comes after those who did it.
        """
        return self.version, all(fact.op == "r" for fact in self.facts.values()), self.id, self.part


class Sealed(NamedTuple):
    """A transaction, or a part of one, whose place in the history is decided.

    `facts` are one a record, in the order of their versions; `sources` are the numbers of all its events. `seen` is how
    many events this part has, `had` those of earlier parts, `size` what the transaction says it has in all.
    """

    id: str
    part: int
    size: int
    seen: int
    had: int
    version: int
    facts: Sequence[Fact]
    sources: Sequence[int] = ()

    @property
    def lead(self) -> Fact:
        """The event that speaks for the transaction: the one with the greatest version."""
        return max(self.facts, key=lambda fact: fact.version)


def seal(transaction: Open, *, sums: bool = True) -> Sealed:
    """One change a record; that which came to it later in the transaction stands for both.

    Where sizes do not add up (see `Tempo`), what came is all there is.
    """
    records: dict[str, Fact] = {}
    for fact in sorted(transaction.facts.values(), key=lambda fact: fact.version):
        earlier = records.get(fact.record)
        records[fact.record] = fact if earlier is None else folded(earlier, fact)
    return Sealed(
        id=transaction.id,
        part=transaction.part,
        size=transaction.size if sums else transaction.before + len(transaction.facts),
        seen=len(transaction.facts),
        had=transaction.before,
        version=transaction.version,
        facts=list(records.values()),
        sources=[fact.source for fact in transaction.facts.values()],
    )
