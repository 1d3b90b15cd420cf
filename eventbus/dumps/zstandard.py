"""Zstandard, where Python (3.14) or the package `zstandard` has it."""

from __future__ import annotations

import importlib
from typing import IO, Any, Final

from eventbus.errors import ConfigurationError

_AT_ONCE: Final = 256
"""Bytes that are unpacked together."""
MAGIC = b"\x28\xb5\x2f\xfd"


def _module() -> Any:
    for name in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ConfigurationError("zstandard (.zst) is read and written with: pip install 'sqlalchemy-eventbus[zstd]'")


def check() -> None:
    """Raise ConfigurationError where nothing can read or write it."""
    _module()


def unpacker() -> Any:
    """What unpacks one frame, in pieces, as the modules of the standard library do."""
    module = _module()
    return module.ZstdDecompressor() if hasattr(module, "ZstdFile") else _Unpacker(module)


class _Unpacker:
    """`decompress(data, size)`, `needs_input`, `eof` and `unused_data` for the package, which has no bound for a piece.

    A block of four bytes may become 128 KiB: so it gets few bytes at a time.
    """

    def __init__(self, module: Any) -> None:
        self._frame = module.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        self._waiting = b""

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def needs_input(self) -> bool:
        return not self._waiting

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data) + self._waiting

    def decompress(self, data: bytes, _size: int) -> bytes:
        """The next piece, of some MiB at most."""
        self._waiting += data
        some, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
        return bytes(self._frame.decompress(some))


def writer(raw: IO[bytes]) -> Any:
    """What compresses into a stream, which it leaves open."""
    module = _module()
    if hasattr(module, "ZstdFile"):
        return module.ZstdFile(raw, "wb", options={module.CompressionParameter.checksum_flag: 1})
    return module.ZstdCompressor(level=6, write_checksum=True).stream_writer(raw, closefd=False)
