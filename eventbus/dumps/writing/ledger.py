"""The keys that were met in a table, as eight bytes each, to find one that was met twice."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable
from typing import IO, Any, Final

IN_MEMORY: Final = 1 << 17
"""Keys that are kept in memory before they go to a file."""
BUCKET: Final = 1 << 18
"""Keys that are compared at a time."""


class Ledger:
    """Numbers that stand for keys: the same for one key, and almost surely others for others."""

    def __init__(self) -> None:
        self._waiting = array("q")
        self._file: IO[bytes] | None = None
        self._count = 0

    def add(self, keys: Iterable[Any]) -> None:
        """Remember keys: tuples of what can be hashed."""
        self._waiting.extend(map(hash, keys))
        if len(self._waiting) >= IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - without a name, gone with the process
        self._waiting.tofile(self._file)
        self._count += len(self._waiting)
        self._waiting = array("q")

    def met(self, keys: Iterable[Any]) -> list[Any]:
        """Those of the keys that were met."""
        wanted = {hash(key): key for key in keys}
        return [wanted.pop(number) for number in self._numbers() if number in wanted]

    def twice(self) -> set[int]:
        """The numbers of keys that were met more than once. Reads the file once for each bucket; memory stays flat."""
        buckets = (self._count + len(self._waiting)) // BUCKET + 1
        found: set[int] = set()
        for bucket in range(buckets):
            seen: set[int] = set()
            for number in self._numbers():
                if number % buckets == bucket:
                    if number in seen:
                        found.add(number)
                    seen.add(number)
        return found

    def _numbers(self) -> Iterable[int]:
        if self._file is not None:
            self._file.seek(0)
            left = self._count
            while left:
                part = array("q")
                part.fromfile(self._file, min(left, IN_MEMORY))
                left -= len(part)
                yield from part
            self._file.seek(0, 2)
        yield from self._waiting
