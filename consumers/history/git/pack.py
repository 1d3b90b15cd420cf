"""One pack of git objects in the making: how objects, deltas and the index stand in its files."""

from __future__ import annotations

import os
import struct
import zlib
from functools import partial
from hashlib import file_digest, sha1
from io import BufferedRandom, BufferedWriter
from pathlib import Path
from typing import Final

from consumers.history.errors import GitFailed

COMMIT: Final = 1
TREE: Final = 2
BLOB: Final = 3
_DELTA: Final = 6
_NAMES: Final = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob"}
_HEAD: Final = struct.Struct(">4sII")
_SMALL: Final = 3000
"""Bytes up to which deflate does with a small window, which is set up faster."""
_sha1: Final = partial(sha1, usedforsecurity=False)


class Pack:
    """One pack in the making. Its objects are in a file from the first: those of a baseline are large together."""

    def __init__(self, repository: Path) -> None:
        self._directory = repository / "objects" / "pack"
        self._file: BufferedRandom | None = None
        self.at = _HEAD.size
        self.entries: dict[bytes, tuple[int, int]] = {}

    def add(self, kind: int, body: bytes) -> bytes:
        """An object; its id."""
        id = object_id(kind, body)
        if id not in self.entries:
            # A tree is mostly ids, and these are random: deflating takes a tenth of it and 16 µs.
            self._write(id, _header(kind, len(body)), _stored(body) if kind == TREE else _deflated(body))
        return id

    def add_delta(self, id: bytes, base: int, delta: bytes) -> None:
        """An object as what differs from that at place `base`."""
        self._write(id, _header(_DELTA, len(delta)) + _offset(self.at - base), _stored(delta))

    def _write(self, id: bytes, head: bytes, packed: bytes) -> None:
        data = head + packed
        self.entries[id] = self.at, zlib.crc32(data)
        if self._file is None:
            self._file = (self._directory / "tmp_history").open("w+b")
            self._file.write(bytes(_HEAD.size))  # known when all are counted
        self._file.write(data)
        self.at += len(data)

    def drop(self) -> None:
        """Make nothing of it."""
        if self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)  # gone where it got its name

    def finish(self) -> Path:
        """Put it in its place. The file that is returned keeps it from being joined with others; take it away later.

        It has one object at least.
        """
        assert self._file is not None
        ids = sorted(self.entries)
        base = self._directory / f"pack-{sha1(b''.join(ids), usedforsecurity=False).hexdigest()}"
        keep = base.with_suffix(".keep")
        keep.touch()
        with self._file as file:
            file.seek(0)
            file.write(_HEAD.pack(b"PACK", 2, len(ids)))
            file.seek(0)
            checksum = file_digest(file, _sha1).digest()
            file.write(checksum)
            _settle(file, base.with_suffix(".pack"))
        # The index last: without it git does not see the pack.
        write_durably(base.with_suffix(".idx"), [self._index(ids, checksum)])
        return keep

    def _index(self, ids: list[bytes], checksum: bytes) -> bytes:
        if self.at >= 1 << 31:
            raise GitFailed("one publication has more than 2 GiB: publish more often")
        fan, count = [], 0
        for first in range(256):
            while count < len(ids) and ids[count][0] <= first:
                count += 1
            fan.append(count)
        entries = [self.entries[id] for id in ids]
        index = b"".join(
            [
                struct.pack(">4sI256I", b"\xfftOc", 2, *fan),
                *ids,
                struct.pack(f">{len(ids)}I", *(crc for _, crc in entries)),
                struct.pack(f">{len(ids)}I", *(at for at, _ in entries)),
                checksum,
            ]
        )
        return index + sha1(index, usedforsecurity=False).digest()


def object_id(kind: int, body: bytes | bytearray) -> bytes:
    """The id that git gives this object, 20 bytes."""
    made = sha1(b"%s %d\0" % (_NAMES[kind], len(body)), usedforsecurity=False)
    made.update(body)
    return made.digest()


def _header(kind: int, size: int) -> bytes:
    out, byte = bytearray(), kind << 4 | size & 15
    size >>= 4
    while size:
        out.append(byte | 128)
        byte = size & 127
        size >>= 7
    out.append(byte)
    return bytes(out)


def _offset(distance: int) -> bytes:
    out = [distance & 127]
    distance >>= 7
    while distance:
        distance -= 1
        out.append(128 | distance & 127)
        distance >>= 7
    return bytes(reversed(out))


def varint(number: int) -> bytes:
    """A size as deltas have it."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def copy_of(offset: int, size: int) -> bytes:
    """The part of a delta that takes these bytes from what it leans on."""
    parts = []
    while size:
        part = min(size, 0xFFFF)
        parts.append(struct.pack("<BIH", 0b10111111, offset, part))  # all bytes of the offset, two of the size
        offset += part
        size -= part
    return b"".join(parts)


def _stored(body: bytes) -> bytes:
    """zlib's form without compression."""
    size = len(body)
    if size > 0xFFFF:
        return zlib.compress(body, 1)
    return b"\x78\x01\x01" + struct.pack("<HH", size, size ^ 0xFFFF) + body + struct.pack(">I", zlib.adler32(body))


def _deflated(body: bytes) -> bytes:
    small = len(body) < _SMALL
    packer = zlib.compressobj(1, zlib.DEFLATED, 12 if small else 15, 5 if small else 8)
    return packer.compress(body) + packer.flush()


def write_durably(path: Path, parts: list[bytes], temporary: Path | None = None) -> None:
    """All of the file or nothing, and on the disk when this returns."""
    temporary = temporary or path.with_name(f"tmp_{path.name}")
    with temporary.open("wb") as file:
        file.writelines(parts)
        _settle(file, path)


def _settle(file: BufferedWriter | BufferedRandom, path: Path) -> None:
    """Give what was written its name, durably."""
    file.flush()
    os.fsync(file.fileno())
    Path(file.name).rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Names that were given in it are on the disk when this returns."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
