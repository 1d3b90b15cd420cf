"""Where in the files a record stands: found again once something is wrong with it, for the files are read once only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from eventbus.dumps.reading import files, sources
from eventbus.errors import LoadError

MOST: Final = 64 << 20
"""Bytes of a file in which lines are counted; in a larger one the number of the record must do."""


class Places:
    """Finds lines and records in the files of a load. Standard input cannot be read again."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self._paths = [name for path in paths if (name := os.fspath(path)) != files.STDIN]

    def line(self, path: str, number: int) -> int | None:
        """The line on which a file's record begins, from 1; None where that cannot be told."""
        try:
            return _line(path, number)
        except (OSError, ValueError, RecursionError, LoadError):
            return None

    def find(self, wanted: Callable[[Any], bool]) -> tuple[str, int, Any] | None:
        """The first record of which `wanted` says so, with its file and number."""
        for path, number, record in self.records():
            try:
                if wanted(record):
                    return path, number, record
            except (TypeError, KeyError, AttributeError):
                continue
        return None

    def records(self) -> Iterator[tuple[str, int, Any]]:
        """All records with file and number, as far as they are readable."""
        number, last = 0, ""
        try:
            for batch in files.read(self._paths):
                for item in batch.records:
                    path, record = files.origin(batch.path, item)
                    number = number + 1 if path == last else 1
                    last = path
                    yield path, number, record
        except LoadError:
            return


def _line(path: str, number: int) -> int | None:
    if not os.path.isfile(path) or os.path.getsize(path) > MOST:
        return None
    with open(path, "rb") as raw:
        data = b"".join(stream.read(MOST) for _, stream in sources.plain(path, raw))
    text = data.decode("utf-8-sig")
    decoder, place = json.JSONDecoder(), _after(text, 0, " \t\r\n")
    if text[place] == "[":
        place += 1
    for _ in range(number - 1):
        _, place = decoder.raw_decode(text, _after(text, place, " \t\r\n,"))
    return text.count("\n", 0, _after(text, place, " \t\r\n,")) + 1


def _after(text: str, place: int, skipped: str) -> int:
    while place < len(text) and text[place] in skipped:
        place += 1
    return place
