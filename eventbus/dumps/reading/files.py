"""Files of records: what `eventbus dumpdata` writes, what the mirror keeps, and Django's fixtures.

A file is a JSON list, JSON lines or one JSON object after the other, in UTF-8, plain or compressed (gzip, bzip2, xz,
zip, told by the content); a directory is read for its `.json` files, hidden directories left out. Everything streams:
memory grows neither with the size of a file nor with what somebody made to break a reader (see `sources`, `cutting`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import starmap
from typing import IO, Any, Final

from eventbus.dumps.reading import buffer, cutting, sources
from eventbus.dumps.reading.sources import LONGEST_PATH, STDIN
from eventbus.errors import LoadError
from eventbus.redaction import shown

_MOST_WEIGHT: Final = 4 << 20
"""Bytes of memory for records that are gathered out of small files."""

__all__ = ["STDIN", "Batch", "origin", "read"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records of one file, not yet looked at; the bytes of JSON they were, and of memory they may take."""

    path: str
    records: Sequence[Any]
    size: int
    weight: int


def read(paths: Sequence[str | os.PathLike[str]]) -> Iterator[Batch]:
    """The records of all files, in order; directories are walked in order of name. `-` is standard input.

    Raises LoadError where a path cannot be read, is not JSON, or is beyond the limits of `cutting`.
    """
    for path in paths:
        name = os.fspath(path)
        if name != STDIN and os.path.isdir(name):
            yield from _read_directory(name)
        else:
            with ExitStack() as stack, sources.reading(name):
                yield from _read_stream(name, sources.open_named(name, stack))


def plain_size(paths: Sequence[str | os.PathLike[str]]) -> int:
    """Bytes of JSON in the files; 0 where that cannot be told beforehand."""
    names = [os.fspath(path) for path in paths]
    if not all(name.endswith(sources.SUFFIXES) and os.path.isfile(name) for name in names):
        return 0
    return sum(map(os.path.getsize, names))


def _read_directory(directory: str) -> Iterator[Batch]:
    """A mirror holds one small file a record: those are gathered, so that a batch is worth its while."""
    records: list[Any] = []
    size = weight = 0
    path = ""
    for path in sources.json_files(directory):
        with sources.reading(path), sources.open_planted(path) as raw:
            data = raw.read(buffer.CHUNK)
            if len(data) == buffer.CHUNK or sources.is_packed(data):
                raw.seek(0)
                yield from _read_stream(path, raw)
                continue
            found = _joined(path, data)
        if len(found.records) == 1:
            records.append(_From(path, found.records[0]))
            size += found.size
            weight += found.weight
        else:
            yield found
        del found
        if size > buffer.CHUNK or weight > _MOST_WEIGHT:
            yield Batch(directory, records, size, weight)
            records, size, weight = [], 0, 0
    if records:
        yield Batch(directory, records, size, weight)
    if not path:
        raise LoadError(
            f"{shown(directory, LONGEST_PATH)}: there is no file of records in this directory", path=directory
        )


def _joined(path: str, data: bytes) -> Batch:
    """The records of a small file."""
    slices = list(cutting.batches(path, BytesIO(data)))
    return Batch(path, [record for each in slices for record in each.records], len(data), sum(s.weight for s in slices))


@dataclass(frozen=True, slots=True)
class _From:
    """A record that came alone in its file."""

    path: str
    record: Any


def origin(path: str, record: Any) -> tuple[str, Any]:
    """The file a record of a batch came from, and the record."""
    return (record.path, record.record) if isinstance(record, _From) else (path, record)


def _read_stream(path: str, raw: IO[bytes]) -> Iterator[Batch]:
    for name, stream in sources.plain(path, raw):
        # `starmap` holds no batch while the next one is read: both may be large.
        yield from starmap(partial(Batch, name), cutting.batches(name, stream))
