"""Where a dump goes: a file that has its name only once it is whole, compressed by its suffix, or standard output."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, Literal

from eventbus.dumps import zstandard
from eventbus.errors import ConfigurationError

Format = Literal["json", "jsonl"]
_COMPRESSED: Final[dict[str, Callable[[IO[bytes]], Any]]] = {
    ".gz": lambda raw: gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0),
    ".bz2": lambda raw: bz2.BZ2File(raw, "wb"),
    ".xz": lambda raw: lzma.LZMAFile(raw, "wb"),  # noqa: SIM115 - the caller closes it
    ".lzma": lambda raw: lzma.LZMAFile(raw, "wb", format=lzma.FORMAT_ALONE),  # noqa: SIM115 - likewise
    ".zst": zstandard.writer,
}
_PLAIN: Final = (".json", ".jsonl", ".ndjson")
SUFFIXES: Final = (*_PLAIN, *_COMPRESSED, ".zip")


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file for its owner alone.

    Until it is whole the file has no name, as far as the file system knows files without one (Linux): nothing is left
    of a dump that ends early, whatever ended it. Raises ConfigurationError for a place or suffix that is none.
    """
    if path is None or path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    final = Path(path)
    if not final.parent.is_dir():
        raise ConfigurationError(f"--output {path}: there is no directory {final.parent}")
    if final.is_dir():
        raise ConfigurationError(f"--output {path}: this is a directory")
    with _nameless(final) as raw:
        with _compressed(final, raw) as stream:
            yield stream
        raw.flush()
        os.fsync(raw.fileno())


@contextlib.contextmanager
def _nameless(final: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name at the end."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        file = os.open(final.parent, os.O_TMPFILE | os.O_RDWR, 0o600)
    except (OSError, AttributeError):
        with _named(final, temporary) as raw:
            yield raw
        return
    with open(file, "w+b") as raw:
        yield raw
        raw.flush()
        folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # With a directory it is linkat(), which alone follows the link that /proc has of a file without a name.
            os.link(f"/proc/self/fd/{file}", temporary.name, dst_dir_fd=folder, follow_symlinks=True)
            os.replace(temporary, final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(folder)


@contextlib.contextmanager
def _named(final: Path, temporary: Path) -> Iterator[IO[bytes]]:
    """Where every file has a name, another one until it is whole."""
    try:
        with open(temporary, "xb", opener=_for_the_owner_alone) as raw:
            yield raw
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _for_the_owner_alone(path: str, flags: int) -> int:
    """A dump holds secrets."""
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def _compressed(path: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            inner = path.stem if Path(path.stem).suffix else f"{path.stem}.json"
            with archive.open(inner, "w", force_zip64=True) as stream:
                yield stream
    elif path.suffix in _COMPRESSED:
        with _COMPRESSED[path.suffix](raw) as stream:
            yield stream
    else:
        yield raw


def check_suffix(path: str | None) -> None:
    """Raise ConfigurationError for a suffix that says nothing: a slip would make a file that is not what it seems."""
    suffix = "" if path in (None, "-") else Path(str(path)).suffix
    if suffix and suffix not in SUFFIXES and not suffix[1:].isdigit():
        raise ConfigurationError(f"--output {path}: {suffix} says nothing here; use one of {' '.join(SUFFIXES)}")
    if suffix == ".zst":
        zstandard.check()


def format_of(path: str | None) -> Format:
    """A list, or one record a line, by the suffixes of the output."""
    suffixes = set(Path(path or "").suffixes)
    return "jsonl" if suffixes & {".jsonl", ".ndjson"} else "json"


def write(stream: IO[bytes], lines: Iterator[bytes], form: Format) -> None:
    """Write records as a JSON list or as JSON lines."""
    before, between, after = (b"", b"\n", b"\n") if form == "jsonl" else (b"[\n", b",\n", b"\n]\n")
    first = next(lines, None)  # before anything is written: a database that fails leaves no half of a list
    stream.write(before)
    if first is None:
        stream.write(b"\n" if form == "jsonl" else b"]\n")
        return
    stream.write(first)
    for line in lines:
        stream.write(between)
        stream.write(line)
    stream.write(after)


__all__ = ["Format", "check_suffix", "format_of", "open_output", "write"]
