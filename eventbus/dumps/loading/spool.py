"""Rows kept in temporary files until their time has come."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections.abc import Hashable, Iterator
from typing import IO, Any, Self

from eventbus.dumps.rows.groups import Group


class Spool:
    """One file without a name for each pile of rows."""

    def __init__(self) -> None:
        self._files: dict[Hashable, IO[bytes]] = {}
        self._groups: list[Group] = []
        self._numbers: dict[Group, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, pile: Hashable, group: Group, rows: list[Any], origins: list[Any]) -> None:
        """Put rows of a group on a pile."""
        file = self._files.get(pile)
        if file is None:
            file = self._files[pile] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        pickle.dump((self.number(group), rows, origins), file, pickle.HIGHEST_PROTOCOL)

    def take(self, pile: Hashable) -> Iterator[tuple[Group, list[Any], list[Any]]]:
        """What is on a pile, in the order it came; the pile is gone afterwards."""
        file = self._files.pop(pile, None)
        if file is None:
            return
        with file:
            file.seek(0)
            with contextlib.suppress(EOFError):
                while True:
                    number, rows, origins = pickle.load(file)  # noqa: S301 - a file without a name, of our own
                    yield self._groups[number], rows, origins

    def number(self, group: Group) -> int:
        """A number for a group."""
        found = self._numbers.get(group)
        if found is None:
            found = self._numbers[group] = len(self._groups)
            self._groups.append(group)
        return found

    def group(self, number: int) -> Group:
        """The group of a number."""
        return self._groups[number]
