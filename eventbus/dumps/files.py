"""Files of records: what `eventbus-dumpdata` writes, what the mirror keeps, and Django's fixtures.

A file is a JSON list, JSON lines or one JSON object after the other, in UTF-8, plain or compressed (gzip, bzip2, xz,
zip, told by the content); a directory is read for its `.json` files, hidden directories left out. Everything streams:
memory does not grow with the size of a file.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import sys
import zipfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import orjson

from eventbus.errors import LoadError

CHUNK: Final = 1 << 19
"""Bytes read and parsed at a time."""
LARGEST: Final = 1 << 28
"""Bytes of one record at most; what is longer without an end is taken for broken JSON."""
STDIN: Final = "-"

_BOUNDARY: Final = re.compile(rb'\}\s*,\s*(?=\{\s*"(?:model|pk|fields|version)"\s*:)')
"""Where one record of a list most likely ends. A guess: what is cut there must prove to be whole records."""
_SPACE: Final = b" \t\r\n"
_GUESSES: Final = 3
_TAIL: Final = 1 << 14
_SUFFIXES: Final = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records of one file as parsed, not yet looked at, and the bytes of JSON they were."""

    path: str
    records: Sequence[Any]
    size: int


def read(paths: Sequence[str | os.PathLike[str]]) -> Iterator[Batch]:
    """The records of all files, in order; directories are walked in order of name. `-` is standard input.

    Raises LoadError where a path cannot be read or is not JSON.
    """
    for path in paths:
        name = os.fspath(path)
        if name != STDIN and os.path.isdir(name):
            yield from _read_directory(Path(name))
        else:
            yield from _read_file(name)


def _read_directory(directory: Path) -> Iterator[Batch]:
    """A mirror holds one small file a record: those are gathered, so that a batch is worth its while."""
    records: list[Any] = []
    size = 0
    for path in _json_files(directory):
        if os.path.getsize(path) > CHUNK:
            yield from _read_file(path)
            continue
        data = Path(path).read_bytes()
        batch = list(_parse_all(path, data))
        if len(batch) != 1:
            yield Batch(path, batch, len(data))
            continue
        records.append(_From(path, batch[0]))
        size += len(data)
        if size > CHUNK:
            yield Batch(str(directory), records, size)
            records, size = [], 0
    if records:
        yield Batch(str(directory), records, size)


@dataclass(frozen=True, slots=True)
class _From:
    """A record that came alone in its file."""

    path: str
    record: Any


def origin(path: str, record: Any) -> tuple[str, Any]:
    """The file a record of a batch came from, and the record."""
    return (record.path, record.record) if isinstance(record, _From) else (path, record)


def _json_files(directory: Path) -> Iterator[str]:
    for root, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                yield os.path.join(root, name)


def _parse_all(path: str, data: bytes) -> Iterator[Any]:
    for batch in _parse(path, io.BytesIO(data)):
        yield from batch.records


def _read_file(path: str) -> Iterator[Batch]:
    with ExitStack() as stack:
        try:
            for member, stream in _open(path, stack):
                yield from _parse(member, stream)
        except (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise LoadError(f"{path}: cannot be read: {error}", path=path) from error


_COMPRESSIONS: Final[tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...]] = (
    (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)


def _open(path: str, stack: ExitStack) -> Iterator[tuple[str, IO[bytes]]]:
    """The plain content of a file, or of each JSON file in an archive, with the name to show for it."""
    if path == STDIN:
        name, raw = "standard input", cast("io.BufferedReader", sys.stdin.buffer)
    else:
        name, raw = path, stack.enter_context(open(path, "rb"))  # noqa: SIM115 - the stack closes it
    head = raw.peek(6)[:6]
    if head.startswith(b"PK\x03\x04"):
        if path == STDIN:
            raise LoadError("standard input: a zip archive cannot be read from a pipe; name the file", path=name)
        archive = stack.enter_context(zipfile.ZipFile(raw))
        for member in archive.namelist():
            if member.endswith(_SUFFIXES):
                yield f"{name}/{member}", stack.enter_context(archive.open(member))
        return
    for magic, opened in _COMPRESSIONS:
        if head.startswith(magic):
            yield name, opened(raw)
            return
    yield name, raw


def _parse(path: str, stream: IO[bytes]) -> Iterator[Batch]:
    start = _skip_space(stream)
    if start[:1] == b"[":
        yield from _List(path, stream, start[1:]).batches()
    elif start:
        yield from _parse_objects(path, stream, start)


def _skip_space(stream: IO[bytes]) -> bytes:
    """The first bytes that are not white space (or a byte order mark); empty at the end."""
    data = stream.read(max(CHUNK, len(BOM_UTF8))).removeprefix(BOM_UTF8)
    while not (data := data.lstrip(_SPACE)):
        data = stream.read(CHUNK)
        if not data:
            break
    return data


class _List:
    """A JSON list, cut into slices of whole records that orjson parses in one go.

    A slice ends where a record most likely ends. If it parses as a list, it was whole records: an end inside a record
    or a string leaves something open. If not, an earlier end is tried, and in the end one record at a time is parsed.
    """

    def __init__(self, path: str, stream: IO[bytes], start: bytes) -> None:
        self._path = path
        self._stream = stream
        self._buffer = start
        self._consumed = 1
        self._want = CHUNK

    def batches(self) -> Iterator[Batch]:
        while True:
            more = self._fill()
            batch = self._slice() if more else self._last()
            if batch is None:
                self._grow()
                continue
            self._want = CHUNK
            if batch.records:
                yield batch
            if not more:
                return

    def _grow(self) -> None:
        if self._want >= LARGEST:
            raise LoadError(
                f"{self._path}: not valid JSON after byte {self._consumed}: no end of record", path=self._path
            )
        self._want *= 2

    def _fill(self) -> bool:
        """Read up to the wanted size; whether there may be more."""
        parts, size = [self._buffer], len(self._buffer)
        while size < self._want:
            data = self._stream.read(self._want - size)
            if not data:
                self._buffer = b"".join(parts)
                return False
            parts.append(data)
            size += len(data)
        self._buffer = b"".join(parts)
        return True

    def _slice(self) -> Batch | None:
        """Whole records from the front of the buffer; None if there is no whole one yet."""
        ends = self._likely_ends()
        for end in ends[: -_GUESSES - 1 : -1]:
            records = _loads_list(self._buffer[:end])
            if records is not None:
                return self._take(records, end, self._buffer.index(b",", end) + 1)
        return self._one_by_one()

    def _likely_ends(self) -> list[int]:
        """Ends of records near the end of the buffer; of the whole buffer where there is none."""
        for start in (max(0, len(self._buffer) - _TAIL), 0):
            ends = [match.start() + 1 for match in _BOUNDARY.finditer(self._buffer, start)]
            if ends:
                break
        return ends

    def _one_by_one(self) -> Batch | None:
        """Records parsed singly: slow and sure, for what the guess does not fit."""
        text = self._buffer.decode("utf-8", "surrogateescape")
        records: list[Any] = []
        position = 0
        while True:
            try:
                _, end = _DECODER.raw_decode(text, _after_space(text, position))
                comma = _after_space(text, end)
            except (ValueError, RecursionError):
                break
            if comma >= len(text) or text[comma] != ",":
                break
            records.append(self._checked(text[position:end]))
            position = comma + 1
        if not records:
            return None
        size = len(text[:position].encode("utf-8", "surrogateescape"))
        return self._take(records, size, size)

    def _checked(self, text: str) -> Any:
        try:
            return orjson.loads(text.encode("utf-8", "surrogateescape"))
        except orjson.JSONDecodeError as error:
            raise LoadError(
                f"{self._path}: not valid JSON near byte {self._consumed}: {error}", path=self._path
            ) from error

    def _take(self, records: Sequence[Any], size: int, consumed: int) -> Batch:
        self._buffer = self._buffer[consumed:]
        self._consumed += consumed
        return Batch(self._path, records, size)

    def _last(self) -> Batch:
        """What is left must close the list."""
        data = self._buffer.rstrip(_SPACE)
        try:
            records = orjson.loads(b"[" + data)
        except orjson.JSONDecodeError as error:
            where = self._consumed + error.pos
            raise LoadError(f"{self._path}: not valid JSON near byte {where}: {error.msg}", path=self._path) from error
        return Batch(self._path, records, len(data))


_DECODER: Final = json.JSONDecoder()
_NOT_SPACE: Final = re.compile(r"[ \t\r\n]*")


def _after_space(text: str, position: int) -> int:
    match = _NOT_SPACE.match(text, position)
    return position if match is None else match.end()


def _loads_list(data: bytes) -> list[Any] | None:
    try:
        return cast("list[Any]", orjson.loads(b"[" + data + b"]"))
    except orjson.JSONDecodeError:
        return None


def _parse_objects(path: str, stream: IO[bytes], start: bytes) -> Iterator[Batch]:
    """JSON lines; or objects over several lines, one after the other, as the mirror writes each."""
    while b"\n" not in start and (data := stream.read(CHUNK)):
        start += data
    if not _is_line(start):
        yield from _parse_concatenated(path, start + stream.read(LARGEST))
        return
    line = 1
    while start:
        data = stream.read(CHUNK)
        cut = start.rfind(b"\n") + 1 if data else len(start)
        if cut:
            yield _parse_lines(path, start[:cut], line)
            line += start.count(b"\n", 0, cut)
        start = start[cut:] + data


def _is_line(data: bytes) -> bool:
    """Whether the first line is a JSON value by itself."""
    try:
        orjson.loads(data.split(b"\n", 1)[0])
    except orjson.JSONDecodeError:
        return False
    return True


def _parse_lines(path: str, data: bytes, first: int) -> Batch:
    records = []
    for number, line in enumerate(data.split(b"\n"), first):
        if line and not line.isspace():
            try:
                records.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise LoadError(f"{path}: line {number} is not valid JSON: {error}", path=path) from error
    return Batch(path, records, len(data))


def _parse_concatenated(path: str, data: bytes) -> Iterator[Batch]:
    """A few objects over several lines each; such a file is small, or it would be lines or a list."""
    records = []
    try:
        text = data.decode()
        position = _after_space(text, 0)
        while position < len(text):
            _, end = _DECODER.raw_decode(text, position)
            records.append(orjson.loads(text[position:end]))
            position = _after_space(text, end)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: not valid JSON: {error}", path=path) from error
    yield Batch(path, records, len(data))
