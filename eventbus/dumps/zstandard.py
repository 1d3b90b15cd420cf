"""Zstandard, where Python (3.14) or the package `zstandard` has it."""

from __future__ import annotations

import importlib
from typing import IO, Any

from eventbus.errors import ConfigurationError

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


def reader(raw: IO[bytes]) -> Any:
    """The plain content of a compressed stream."""
    module = _module()
    if hasattr(module, "ZstdFile"):
        return module.ZstdFile(raw, "rb")
    return module.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw, read_across_frames=True, closefd=False)


def writer(raw: IO[bytes]) -> Any:
    """What compresses into a stream, which it leaves open."""
    module = _module()
    if hasattr(module, "ZstdFile"):
        return module.ZstdFile(raw, "wb")
    return module.ZstdCompressor(level=6).stream_writer(raw, closefd=False)
