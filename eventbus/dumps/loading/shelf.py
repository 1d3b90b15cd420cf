"""Rows put aside in a temporary database, to be had again in an order in which each comes after those it refers to.

Memory stays nearly flat, whatever the order they came in: some bytes a row.
"""

from __future__ import annotations

import pickle
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final

Item = tuple[int, Any, Any]
"""The number of a group, a row, and where it comes from."""
_TABLES: Final = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA cache_size = -4000",
    "CREATE TABLE item (id INTEGER PRIMARY KEY, data BLOB)",
    "CREATE TABLE offer (reference INTEGER, key TEXT, id INTEGER)",
    "CREATE TABLE want (reference INTEGER, key TEXT, id INTEGER, may_wait INTEGER)",
)
_EDGES: Final = """
    SELECT DISTINCT offer.id, want.id FROM want CROSS JOIN offer USING (reference, key)
    WHERE offer.id <> want.id AND (want.may_wait = 0 OR :all) ORDER BY offer.id
"""


class Shelf:
    """Holds rows with the keys that they offer and those that they want, by the number of a reference."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a file without a name, gone with the process
        for statement in _TABLES:
            self._database.execute(statement)
        self._database.execute("BEGIN")
        self._count = 0

    def close(self) -> None:
        """Give up the temporary file."""
        self._database.close()

    def add(self, item: Item, offers: Sequence[tuple[int, str]], wants: Sequence[tuple[int, str, bool]]) -> None:
        """Put a row aside. What it wants with `may_wait` can be set after it was written."""
        number = self._count
        self._count += 1
        self._database.execute("INSERT INTO item VALUES (?, ?)", (number, pickle.dumps(item, pickle.HIGHEST_PROTOCOL)))
        self._database.executemany("INSERT INTO offer VALUES (?, ?, ?)", [(*offer, number) for offer in offers])
        self._database.executemany("INSERT INTO want VALUES (?, ?, ?, ?)", [(a, b, number, c) for a, b, c in wants])

    def in_order(self) -> Iterator[tuple[Item, frozenset[int]]]:
        """The rows in order. Where rows refer to each other in a circle, each comes with the references it must wait
        for; and those for which no order is left come last, with the reference -1."""
        if self._count == 0:
            return
        self._database.execute("CREATE INDEX offered ON offer (reference, key)")
        done = bytearray(self._count)
        for number in self._sorted(done, every=True):
            yield self._item(number), frozenset()
        if 0 not in done:
            return
        self._database.execute("CREATE INDEX wanted ON want (id)")
        late = bytearray(done)
        for number in self._sorted(done, every=False):
            yield self._item(number), self._waits(number, late)
        for number in range(self._count):
            if not done[number]:
                yield self._item(number), self._waits(number, late) | {-1}

    def _sorted(self, done: bytearray, *, every: bool) -> Iterator[int]:
        """Numbers of rows that are not done, each after those it wants, as far as there is such an order."""
        starts, followers, missing = self._followers(done, every=every)
        queue = array("i", (number for number in range(self._count) if not done[number] and not missing[number]))
        place = 0
        while place < len(queue):
            number = queue[place]
            place += 1
            done[number] = 1
            yield number
            for follower in followers[starts[number] : starts[number + 1]]:
                missing[follower] -= 1
                if not missing[follower]:
                    queue.append(follower)

    def _followers(self, done: bytearray, *, every: bool) -> tuple[array[int], array[int], array[int]]:
        starts, followers = array("i", bytes(4 * (self._count + 1))), array("i")
        missing = array("i", bytes(4 * self._count))
        filled = 0
        for offering, wanting in self._database.execute(_EDGES, {"all": every}):
            if done[offering] or done[wanting]:
                continue
            while filled < offering:
                filled += 1
                starts[filled] = len(followers)
            followers.append(wanting)
            missing[wanting] += 1
        for number in range(filled + 1, self._count + 1):
            starts[number] = len(followers)
        return starts, followers, missing

    def _waits(self, number: int, late: bytearray) -> frozenset[int]:
        """The references of a row that lead to rows of a circle."""
        found = self._database.execute(
            "SELECT want.reference, offer.id FROM want CROSS JOIN offer USING (reference, key) "
            "WHERE want.id = ? AND offer.id <> want.id AND want.may_wait",
            (number,),
        )
        return frozenset(reference for reference, offering in found if not late[offering])

    def _item(self, number: int) -> Item:
        (data,) = self._database.execute("SELECT data FROM item WHERE id = ?", (number,)).fetchone()
        item: Item = pickle.loads(data)  # noqa: S301 - a file without a name, of our own
        return item
