"""The bytes of a file that were not taken yet, and the place in it, for errors."""

from __future__ import annotations

import json
from typing import IO, Final

from eventbus.dumps.reading.kinds import not_utf8
from eventbus.dumps.reading.sources import LONGEST_PATH
from eventbus.errors import LoadError
from eventbus.redaction import shown

CHUNK: Final = 1 << 19
"""Bytes read and parsed at a time."""
LARGEST: Final = 1 << 26
"""Bytes of one record at most, and of what may lie between two."""
SPACE: Final = b" \t\r\n"


class Buffer:
    """The bytes of a stream from the first that was not taken yet. `data` grows until something whole is in it."""

    def __init__(self, path: str, stream: IO[bytes]) -> None:
        self.path = path
        self.data = b""
        self.taken = 0
        self.record: int | None = None
        """The number of the record that is read, where that is known."""
        self._lines = 0
        self._stream = stream
        self._want = CHUNK

    def fill(self) -> bool:
        """Read up to the wanted size; whether there may be more."""
        parts, size = [self.data], len(self.data)
        while size < self._want:
            data = self._stream.read(self._want - size)
            if not data:
                break
            parts.append(data)
            size += len(data)
        self.data = b"".join(parts)
        return size >= self._want

    def grow(self, what: str = "end of record") -> None:
        """Want twice as much. Raises LoadError where that is beyond all measure."""
        if self._want >= LARGEST:
            raise self.broken(f"no {what} within {LARGEST:,} bytes")
        self._want = min(2 * max(self._want, CHUNK), LARGEST)

    def take(self, size: int) -> None:
        """Go on behind these bytes."""
        self._lines += self.data.count(b"\n", 0, size)
        self.data = self.data[size:]
        self.taken += size
        self._want = CHUNK

    def skip_space(self) -> bytes:
        """Leave out white space; the byte behind it, or nothing at the end. More than a record's worth is refused."""
        skipped = 0
        while not (rest := self.data.lstrip(SPACE)):
            skipped += len(self.data)
            if skipped > LARGEST:
                raise self.broken(f"nothing but white space for {LARGEST:,} bytes")
            self.take(len(self.data))
            self.fill()
            if not self.data:
                return b""
        self.take(len(self.data) - len(rest))
        return self.data[:1]

    def broken(self, why: object, at: int = 0) -> LoadError:
        """The error that names the place: where the record begins, its number, and the line of what is wrong in it."""
        path = shown(self.path, LONGEST_PATH)
        line = self._lines + self.data.count(b"\n", 0, at) + 1
        if other := not_utf8(self.data[at:]):
            return LoadError(f"{path}: {other}", path=self.path)
        if isinstance(why, json.JSONDecodeError):
            line, why = line + why.lineno - 1, why.msg
        where = f"after byte {self.taken + at}" if self.taken + at else "from its first byte on"
        place = f"record {self.record}, line {line}" if self.record else f"line {line}"
        text = f"{path}: not valid JSON {where}: {why} ({place})"
        return LoadError(text, path=self.path, record=self.record, line=line)
