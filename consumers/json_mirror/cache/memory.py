"""A cache in this process, for tests; caches of one name share their content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from consumers.json_mirror.cache.base import Cache
from consumers.json_mirror.state import Record


class _Content:
    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Record] = {}
        self.mark: str | None = None


class MemoryCache(Cache):
    """Lives as long as the process."""

    _shared: ClassVar[defaultdict[str, _Content]] = defaultdict(_Content)

    def __init__(self, name: str = "") -> None:
        self._content = self._shared[name]

    def find(self, directory: str, filename: str) -> Record | None:
        return self._content.records.get((directory, filename))

    def documents(self, directory: str, filenames: Sequence[str]) -> Mapping[str, tuple[int, bytes]]:
        found = {name: self.find(directory, name) for name in filenames}
        return {name: (each.version, each.document) for name, each in found.items() if each and each.document}

    def filenames(self, directory: str) -> Iterator[Sequence[str]]:
        yield [name for where, name in list(self._content.records) if where == directory]

    def store(self, records: Sequence[Record]) -> None:
        for record in records:
            known = self._content.records.get(record[:2])
            if known is None or known.version <= record.version:
                self._content.records[record[:2]] = record

    def holds(self, mark: str) -> bool:
        return self._content.mark == mark

    def mark(self, mark: str) -> None:
        self._content.mark = mark
