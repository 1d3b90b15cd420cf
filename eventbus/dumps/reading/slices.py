"""The records of the files in slices, each of which is a load of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from eventbus.dumps.reading import files
from eventbus.dumps.reading.files import Batch
from eventbus.errors import LoadError


@dataclass(slots=True)
class Slice:
    """Some records, and where the first of them stands: its file and the number of the one before it."""

    path: str = ""
    number: int = 0
    batches: list[Batch] = field(default_factory=list)
    size: int = 0


def slices(paths: Sequence[str | os.PathLike[str]], every: int, skip: int) -> Iterator[Slice]:
    """Slices of so many records, without the first `skip` of them. Raises LoadError where there are fewer."""
    path, number, made, left_out = "", 0, Slice(), skip
    for batch in files.read(paths):
        records = list(batch.records)
        if batch.path != path:
            path, number = batch.path, 0
        while records:
            if skip:
                passed = min(skip, len(records))
                skip, number, records = skip - passed, number + passed, records[passed:]
                made = Slice(path, number)
                continue
            if not made.batches:
                made = Slice(path, number)
            taken = records[: every - made.size]
            share = len(taken) / max(1, len(batch.records))
            made.batches.append(Batch(batch.path, taken, int(batch.size * share), int(batch.weight * share)))
            made.size += len(taken)
            number, records = number + len(taken), records[len(taken) :]
            if made.size >= every:
                yield made
                made = Slice(path, number)
    if skip:
        raise LoadError(
            f"{left_out:,} records are to be left out, of {left_out - skip:,} in the files: is this what was begun?"
        )
    if made.batches:
        yield made
