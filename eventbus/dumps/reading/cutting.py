"""Records cut out of JSON text as it comes, each whole, exact and of a bounded size.

A slice ends where a record most likely ends. If it parses as a list, it was whole records: an end inside a record or a
string leaves something open. If not, an earlier end is tried, and in the end brackets are counted, record by record.
Nothing is parsed that is not whole, so that what has no end, or opens a million lists, is refused in little memory.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final, NamedTuple

import orjson

from eventbus.dumps.reading.buffer import SPACE, Buffer
from eventbus.dumps.reading.kinds import not_utf8, other_kind
from eventbus.dumps.reading.names import check_names
from eventbus.dumps.reading.numbers import exact_float
from eventbus.dumps.reading.sources import LONGEST_PATH
from eventbus.errors import LoadError
from eventbus.redaction import shown

MOST_VALUES: Final = 2_000_000
"""Values in one record at most: each takes up to 240 bytes of memory, where it may be three of JSON."""
_CONTAINER: Final = 100
"""Bytes of memory that an object or a list takes at least, beside what is in it."""
DEEPEST: Final = 1000
"""Levels of one record at most; orjson knows 1,024."""

_BOUNDARY: Final = re.compile(rb'\}\s*,\s*(?=\{\s*"(?:model|pk|fields|version)"\s*:)')
"""Where one record of a list most likely ends. A guess: what is cut there must prove to be whole records."""
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_PIECES: Final = re.compile(rb'(?:[^"{}\[\]]++|%b){0,1000}+[{}\[\]]?' % _STRING, re.DOTALL)
"""What is no bracket, texts whole, and the bracket behind it: not all at once, for each piece takes memory."""
_TEXTS: Final = re.compile(_STRING, re.DOTALL)
_SOME_TEXTS: Final = re.compile(rb'(?:[^"]++|%b){1,1000}+' % _STRING, re.DOTALL)
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_BLANKS: Final = (b" ", b"\t", b"\r", b"\n")
_NO_OBJECT: Final = 'a record is an object, {"model", "pk", "fields"}'
_GUESSES: Final = 3
_CLOSE: Final = ord("]")
_TAIL: Final = 1 << 14
_DIGITS_TO_ZERO: Final = bytes.maketrans(b"123456789.", b"0000000000")
_LONG: Final = b"0" * 17
_LONG_NUMBER: Final = re.compile(rb"[:,\[][ \t\r\n]*-?[0-9.]{17}")
"""Not those in quotes, as versions are."""


class Slice(NamedTuple):
    """Records cut out together. `size` is their bytes of JSON, `weight` some bytes of memory that they may take."""

    records: Sequence[Any]
    size: int
    weight: int


def parse(data: bytes | memoryview) -> Any:
    """The value of a JSON text, all digits kept. Raises ValueError, also for too many values and a name met twice."""
    if len(data) > 2 * MOST_VALUES:
        _count_values(bytes(data))
    value = _loads(data)
    check_names(bytes(data), value)
    return json.loads(bytes(data), parse_float=exact_float) if _has_long_numbers(bytes(data)) else value


def _loads(data: bytes | memoryview) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if data[1:2] not in _BLANKS:
            raise
        first = error
    # By blanks behind the first bracket orjson judges how much memory the rest may take, and gives up on a dense one.
    try:
        return orjson.loads(b"".join((data[:1], bytes(data[1:]).lstrip())))
    except orjson.JSONDecodeError as error:
        raise first if first.msg == error.msg else error from None  # the first one knows the line


def _count_values(data: bytes) -> None:
    if data.count(b",") + data.count(b"[") + data.count(b"{") <= MOST_VALUES:
        return
    count = 0
    for some in _SOME_TEXTS.finditer(data):
        bare = _TEXTS.sub(b"", some[0])
        count += bare.count(b",") + bare.count(b"[") + bare.count(b"{")
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values in one record")


def _has_long_numbers(data: bytes) -> bool:
    """Whether there may be numbers with more digits than a float has, which orjson makes floats of nevertheless."""
    return _LONG in data.translate(_DIGITS_TO_ZERO) and _LONG_NUMBER.search(data) is not None


class _Ends:
    """Finds where objects end by counting brackets, without parsing; goes on where it was when more data came."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._at = self._depth = self._brackets = 0

    def find(self, start: int) -> int | None:
        """Where the object that begins here ends; None where its end is not in the buffer yet. Raises LoadError."""
        data, at, depth = self._buffer.data, self._at or start, self._depth
        if data[start : start + 1] != b"{":
            raise self._buffer.broken(_NO_OBJECT, start)
        while (found := _PIECES.match(data, at)) and found.end() > at:
            at = found.end()
            if data[at - 1] not in b"{[}]":
                continue
            depth += 1 if data[at - 1] in b"{[" else -1
            self._brackets += 1
            if depth > DEEPEST or self._brackets > 2 * MOST_VALUES:
                raise self._buffer.broken(f"more than {DEEPEST} levels or {MOST_VALUES:,} values", start)
            if not depth:
                self._at = self._depth = self._brackets = 0
                return at
        self._at, self._depth = at, depth
        return None


class Records:
    """The records of a list, or of objects one after the other, as slices."""

    def __init__(self, buffer: Buffer, *, in_list: bool) -> None:
        self._buffer = buffer
        self._in_list = in_list
        self._ends = _Ends(buffer)
        self._first = True
        self._over = False
        self._read = 0

    def batches(self) -> Iterator[Slice]:
        """Raises LoadError where it is neither."""
        while not self._over:
            more = self._buffer.fill()
            found = self._at_once(more) or self._one_by_one(more)
            if found is not None:
                self._read += len(found.records)
                self._first = False
                self._ends = _Ends(self._buffer)
                yield found
                del found  # not held while the next ones are read: both may be large
            elif not self._over:
                self._buffer.grow()
        self._buffer.record = None
        if self._buffer.skip_space():
            raise self._buffer.broken("something follows the end")

    def _at_once(self, more: bool) -> Slice | None:
        """Whole records from the front of the buffer, if a guess where one ends is right, or all that is left."""
        data = self._buffer.data
        if not self._in_list or (not more and not self._first and data.lstrip(SPACE)[:1] == b"]"):
            return None
        for end in self._likely_ends() if more else [len(data)]:
            try:
                records = parse(b"".join((b"[", memoryview(data)[:end], b"]" if more else b"")))
            except ValueError:
                continue
            self._over = not more
            self._buffer.take(data.index(b",", end) + 1 if more else end)
            return _slice(records, data[:end]) if records else None
        return None

    def _likely_ends(self) -> list[int]:
        """Ends of records, the last first, near the end of the buffer; of the whole buffer where there is none."""
        data = self._buffer.data
        for start in (max(0, len(data) - _TAIL), 0):
            ends = deque((match.start() + 1 for match in _BOUNDARY.finditer(data, start)), _GUESSES)
            if ends:
                break
        return list(reversed(ends))

    def _one_by_one(self, more: bool) -> Slice | None:
        """Records found by their brackets: slow and sure, for what the guess does not fit."""
        data, at = self._buffer.data, 0
        records: list[Any] = []
        while not self._over and (start := _after_space(data, at)) < len(data):
            if self._in_list and self._first and data[start] == _CLOSE:
                self._over, at = True, start + 1
                break
            self._buffer.record = self._read + len(records) + 1
            end = self._ends.find(start)
            behind = None if end is None else self._behind(data, end)
            if behind is None:
                break
            records.append(self._parsed(start, end))
            self._first, at = False, behind
        if not more and not self._over:
            if self._in_list or _after_space(data, at) < len(data):
                raise self._buffer.broken("it ends too early", at)
            self._over = True
        self._buffer.take(at) if at else None
        return _slice(records, data[:at]) if records else None

    def _behind(self, data: bytes, end: int) -> int | None:
        """Where the next record may begin; None where that is not in the buffer yet."""
        if not self._in_list:
            return end
        behind = _after_space(data, end)
        if behind == len(data):
            return None
        if data[behind] not in b",]":
            raise self._buffer.broken("a record is followed by a comma or the end of the list", behind)
        self._over = data[behind] == _CLOSE
        return behind + 1

    def _parsed(self, start: int, end: int | None) -> Any:
        try:
            return parse(memoryview(self._buffer.data)[start:end])
        except ValueError as error:
            raise self._buffer.broken(error, start) from error


class Lines:
    """JSON lines as slices; empty lines are left out."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._line = 1

    def batches(self) -> Iterator[Slice]:
        """Raises LoadError for a line that is not JSON, or has no end."""
        more = True
        while more:
            more = self._buffer.fill()
            data = self._buffer.data
            cut = data.rfind(b"\n") + 1 if more else len(data)
            if cut:
                yield _slice(self._parsed(data[:cut]), data[:cut])
                self._buffer.take(cut)
            elif more:
                self._buffer.grow(f"end of line {self._line}")

    def _parsed(self, data: bytes) -> list[Any]:
        records = []
        for number, line in enumerate(data.split(b"\n"), self._line):
            if line and not line.isspace():
                try:
                    records.append(parse(line))
                except ValueError as error:
                    why = not_utf8(line) or (error.msg if isinstance(error, json.JSONDecodeError) else error)
                    raise LoadError(
                        f"{shown(self._buffer.path, LONGEST_PATH)}: line {number} is not valid JSON: {why}",
                        path=self._buffer.path,
                        line=number,
                    ) from error
        self._line += data.count(b"\n")
        return records


def _slice(records: Sequence[Any], data: bytes) -> Slice:
    return Slice(records, len(data), len(data) + _CONTAINER * (data.count(b"{") + data.count(b"[")))


def batches(path: str, stream: IO[bytes]) -> Iterator[Slice]:
    """The records of a list, of JSON lines, or of objects one after the other, as slices.

    Raises LoadError where it is none of them, or a record is beyond the limits.
    """
    buffer = Buffer(path, stream)
    buffer.fill()
    if buffer.data.startswith(BOM_UTF8):
        buffer.take(len(BOM_UTF8))
    if kind := other_kind(buffer.data[:64]):
        raise LoadError(f"{shown(path, LONGEST_PATH)}: {kind}", path=path)
    first = buffer.skip_space()
    if first == b"[":
        buffer.take(1)
        yield from Records(buffer, in_list=True).batches()
    elif first == b"{":
        several = _over_lines(buffer)
        yield from Records(buffer, in_list=False).batches() if several else Lines(buffer).batches()
    elif first:
        raise buffer.broken(_NO_OBJECT)


def _over_lines(buffer: Buffer) -> bool:
    """Whether the first object goes over several lines, or is followed by another on its line."""
    ends = _Ends(buffer)
    more = buffer.fill()
    while (end := ends.find(0)) is None:
        if not more:
            return b"\n" in buffer.data
        buffer.grow()
        more = buffer.fill()
    following = buffer.data[end:].lstrip(b" \t\r")[:1]
    return b"\n" in buffer.data[:end] or following == b"{"


def _after_space(data: bytes, position: int) -> int:
    match = _SPACE.match(data, position)
    return position if match is None else match.end()
