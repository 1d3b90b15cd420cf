"""The records of the files in slices, each of which is a load of its own."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from eventbus.dumps.reading import files
from eventbus.dumps.reading.files import Batch
from eventbus.errors import ConfigurationError, LoadError


@dataclass(frozen=True, slots=True)
class Start:
    """How many records are left out at the beginning, and by which mark they are known (0: by none)."""

    records: int = 0
    mark: int = 0

    @classmethod
    def parse(cls, text: int | str) -> Self:
        """`12:1f9c22ab` as it was told, or a number alone, which is taken at its word. Raises ConfigurationError."""
        found = re.fullmatch(r"([0-9]{1,18})(?::([0-9a-f]{8}))?", str(text))
        if found is None:
            raise ConfigurationError(f"--resume {text}: give what the interrupted load told, as 12000:1f9c22ab")
        return cls(int(found[1]), int(found[2] or "0", 16))

    def __str__(self) -> str:
        return f"{self.records}:{self.mark:08x}" if self.mark else str(self.records)

    def check(self, mark: int) -> None:
        """Raise LoadError where the records that were left out have another mark."""
        if self.mark and mark != self.mark:
            raise LoadError(
                f"the first {self.records:,} records are not those that were loaded before: give the files as they "
                f"were, up to there (--resume {self.records} takes them as they are)"
            )


def _marked(records: Sequence[Any], mark: int) -> int:
    """The mark of all records up to the last of these. It passes by what only slower ways could write."""
    for each in records:
        try:
            mark = zlib.crc32(orjson.dumps(files.origin("", each)[1]), mark)
        except TypeError:  # an integer of more than 64 bits, a number of many digits, many levels
            continue
    return mark


@dataclass(slots=True)
class Slice:
    """Some records, and where the first of them stands: its file and the number of the one before it."""

    path: str = ""
    number: int = 0
    batches: list[Batch] = field(default_factory=list)
    size: int = 0
    mark: int = 0
    """Of all records up to the last of these."""


def slices(paths: Sequence[str | os.PathLike[str]], every: int, start: Start) -> Iterator[Slice]:
    """Slices of so many records, without those before the start. Raises LoadError where there are fewer, or others."""
    path, number, made, skip, mark = "", 0, Slice(), start.records, 0
    for batch in files.read(paths):
        records = list(batch.records)
        if batch.path != path:
            path, number = batch.path, 0
        while records:
            if skip:
                passed = min(skip, len(records))
                mark = _marked(records[:passed], mark)
                skip, number, records = skip - passed, number + passed, records[passed:]
                made = Slice(path, number)
                if not skip:
                    start.check(mark)
                continue
            if not made.batches:
                made = Slice(path, number)
            taken = records[: every - made.size]
            share = len(taken) / max(1, len(batch.records))
            made.batches.append(Batch(batch.path, taken, int(batch.size * share), int(batch.weight * share)))
            made.size += len(taken)
            made.mark = mark = _marked(taken, mark)
            number, records = number + len(taken), records[len(taken) :]
            if made.size >= every:
                yield made
                made = Slice(path, number)
    if skip:
        raise LoadError(
            f"{start.records:,} records are to be left out, of {start.records - skip:,} in the files: is this what was "
            "begun?"
        )
    if made.batches:
        yield made
