"""One model, row by row in chunks, and then the mirror's names: what may differ goes to the doubts.

A chunk is some rows in the order of their keys and the mirror's records of the same keys. Both are written in one form,
and a chunk whose bytes are equal is done with.

What the mirror has beside the rows is found by its names. No order of names is the same in a database, a file system
and Redis, so each name belongs to one of `BUCKETS` buckets by its hash, and each side sums up the hashes in a bucket.
Only names in buckets whose sums differ are looked for in the database. Memory is the same for any number of records.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, final

from eventbus.comparison.difference import Difference, Tally
from eventbus.comparison.doubts import Doubts
from eventbus.comparison.looking import Looking, batches
from eventbus.comparison.rows import AT_ONCE, Page
from eventbus.events.change import Key

CHUNK: Final = 2000
"""Rows that are read at a time."""
BUCKETS: Final = 1 << 16
_MASK: Final = (1 << 64) - 1

KeyOf = Callable[[Any], Key | None]
"""From a key as JSON to the values of the table's key; None where it can hold no such key."""


@final
class Scan:
    """The comparison of one model. `tally` counts the rows that were read."""

    def __init__(
        self,
        looking: Looking,
        doubts: Doubts,
        key_of: KeyOf,
        tally: Tally,
        progress: Callable[[Tally], None] | None = None,
    ) -> None:
        self._rows = looking.rows
        self._mirror = looking.mirror
        self._model = looking.model
        self._doubts = doubts
        self._key_of = key_of
        self._tally = tally
        self._progress = progress
        self._sums = array("Q", bytes(8 * BUCKETS))

    def differences(self, chunk: int) -> Iterator[Difference]:
        """All that is certain, as it becomes so; `chunk` rows are read at a time."""
        for page in self._rows.pages(chunk):
            self._compare(page)
            self._tally.objects += len(page.pks)
            if self._progress is not None:
                self._progress(self._tally)
            yield from self._doubts.settled()
        if any(self._left()):
            for names in batches(self._suspicious(), AT_ONCE):
                self._look_for_rows(names)
                yield from self._doubts.settled()
        yield from self._doubts.all_settled()

    def _compare(self, page: Page) -> None:
        names = list(map(self._mirror.name, page.pks))
        _add(self._sums, names)
        held = self._mirror.find(self._model, names)
        theirs = [found.content if (found := held.get(name)) else None for name in names]
        if page.contents == theirs:
            return
        for name, pk, row, ours, content in zip(names, page.pks, page.rows, page.contents, theirs, strict=True):
            if ours != content:
                self._doubts.add(name, pk, self._rows.key_of(row))

    def _left(self) -> Iterator[int]:
        """Take the mirror's names off the sums; those that are not 0 are left."""
        theirs = array("Q", bytes(8 * BUCKETS))
        for names in self._mirror.names(self._model):
            _add(theirs, names)
        self._sums = array("Q", [(one - other) & _MASK for one, other in zip(self._sums, theirs, strict=True)])
        return iter(self._sums)

    def _suspicious(self) -> Iterator[str]:
        sums = self._sums
        for names in self._mirror.names(self._model):
            yield from (name for name in names if sums[hash(name) % BUCKETS])

    def _look_for_rows(self, names: Sequence[str]) -> None:
        pks = {name: pk for name in names if (pk := self._mirror.pk(self._model, name)) is not None}
        keys = {name: self._key_of(pk) for name, pk in pks.items()}
        there = {self._mirror.name(row.pk) for row in self._rows.find([key for key in keys.values() if key])}
        absent = [name for name in pks if name not in there]
        held = self._mirror.find(self._model, absent) if absent else {}
        for name in absent:
            if name in held:
                self._doubts.add(name, pks[name], keys[name])


def _add(sums: array[int], names: Sequence[str]) -> None:
    for name in names:
        number = hash(name)
        sums[number % BUCKETS] = (sums[number % BUCKETS] + number) & _MASK
