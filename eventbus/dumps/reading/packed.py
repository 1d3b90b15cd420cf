"""Compressed files: the whole content, or an error. What was cut off, or has something else behind it, is not whole.

Each form may stand several times in a file, one after the other, with zeros behind or between; lzma only once.
Everything comes out in pieces, so that a bomb costs time and no memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from typing import IO, Any, Final

from eventbus.dumps import zstandard

XZ_MEMORY: Final = 128 << 20
"""Bytes that unpacking xz may ask for: `xz -9` needs half of it, a hostile header 4 GiB."""
_GZIP: Final = b"\x1f\x8b"
_LZMA: Final = b"\x5d\x00\x00"


def unpacked(head: bytes, raw: IO[bytes]) -> Any:
    """The plain content of a stream that begins like this; the stream itself where it is not compressed."""
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=raw)  # which does all of it, and counts its bytes
    begin = next((begin for magic, begin in _FORMS if head.startswith(magic)), None)
    return raw if begin is None else _Unpacked(raw, begin, several=not head.startswith(_LZMA))


class _Unpacked(io.RawIOBase):
    """What stands in the compressed streams of a file. `begin` makes what unpacks one of them.

    The readers of bz2 and zstd take an end that comes too early, or bytes that are no stream, for the end of the file.
    """

    def __init__(self, raw: IO[bytes], begin: Callable[[], Any], *, several: bool) -> None:
        self._raw = raw
        self._begin = begin
        self._several = several
        self._unpacker = begin()
        self._packed = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        while not self._unpacker.eof or self._begin_next():
            if self._unpacker.needs_input and not self._packed:
                self._packed = self._raw.read(io.DEFAULT_BUFFER_SIZE)
                if not self._packed:
                    raise EOFError("the compressed data end too early")
            data: bytes = self._unpacker.decompress(self._packed, size)
            self._packed = b""
            if data:
                return data
        return b""

    def _begin_next(self) -> bool:
        """Whether another stream follows; zeros may lie in between."""
        data = self._unpacker.unused_data
        while not (data := data.lstrip(b"\0")):
            data = self._raw.read(io.DEFAULT_BUFFER_SIZE)
            if not data:
                return False
        if not self._several:
            raise ValueError("something follows the end of the compressed data")
        self._packed, self._unpacker = data, self._begin()
        return True


_FORMS: Final[tuple[tuple[bytes, Callable[[], Any]], ...]] = (
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)),
    (_LZMA, lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=XZ_MEMORY)),
    (zstandard.MAGIC, zstandard.unpacker),
)
MAGICS: Final = (_GZIP, *(magic for magic, _ in _FORMS))
"""How compressed files begin."""
