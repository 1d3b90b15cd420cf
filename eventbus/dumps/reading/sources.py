"""Where records come from: files, archives, directories and standard input, opened so that nothing planted does harm.

A path that was named is the user's choice: a link is followed, a pipe is read. What lies in a directory is not: only
regular files are read there, no link is followed, and what is neither (a FIFO, a socket, a device) is an error that
names it. Whatever is compressed comes out in pieces, so that a bomb costs time and no memory.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Final, cast

from eventbus.dumps.reading.packed import MAGICS, unpacked
from eventbus.errors import LoadError
from eventbus.redaction import shown

STDIN: Final = "-"
SUFFIXES: Final = (".json", ".jsonl", ".ndjson")
DEEPEST: Final = 100
"""Levels of directories below the one that was named."""
FIFO_PATIENCE: Final = 10.0
"""Seconds that a named FIFO may have no writer."""
LARGEST_LISTING: Final = 16 << 20
"""Bytes of the list of files in a zip archive: some 200,000 files."""

LONGEST_PATH: Final = 1000
"""Characters of a path that an error shows."""

_NOT_FOLLOWED: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAMED: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISLNK, "a symbolic link, which is not followed"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

log = logging.getLogger(__name__)


def json_files(directory: str) -> Iterator[str]:
    """Files of records in a directory and those below it, each directory's in order of name; hidden ones left out.

    Raises LoadError for a directory that cannot be read, and for a name of such a file under which something else is.
    """
    waiting = [(directory, 0)]
    while waiting:
        place, depth = waiting.pop()
        if depth > DEEPEST:
            raise LoadError(f"{shown(place, LONGEST_PATH)}: directories lie more than {DEEPEST} deep", path=place)
        folders = []
        for name, entry in sorted(_entries(place)):
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, depth + 1))
            elif entry.is_symlink() and os.path.isdir(entry.path):
                log.warning("%s: a link to a directory is not followed", shown(entry.path, LONGEST_PATH))
            elif name.endswith(SUFFIXES):
                yield entry.path
        waiting += reversed(folders)


def _entries(place: str) -> list[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(place) as found:
            return [(entry.name, entry) for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise unreadable(place, error) from error


def open_planted(path: str) -> IO[bytes]:
    """A file found in a directory. Raises LoadError where it is no regular one, without waiting for anybody."""
    try:
        file = os.open(path, _NOT_FOLLOWED)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise unreadable(path, error) from error
        raise _refusal(path, os.lstat(path).st_mode) from error
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode):
        os.close(file)
        raise _refusal(path, mode)
    return open(file, "rb")


def _refusal(path: str, mode: int) -> LoadError:
    kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "no regular file")
    return LoadError(f"{shown(path, LONGEST_PATH)}: this is {kind}: remove it, or name the files to load", path=path)


def unreadable(path: str, error: Exception) -> LoadError:
    """The error that names the file that cannot be read, and why."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return LoadError(f"{shown(path, LONGEST_PATH)}: cannot be read: {shown(reason)}", path=path)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Around reading: whatever a damaged or hostile archive raises names the file; errors of ours pass."""
    try:
        yield
    except LoadError:
        raise
    except Exception as error:  # zlib, lzma, zipfile and struct raise nearly anything
        raise unreadable(path, error) from error


def open_named(path: str, stack: ExitStack) -> IO[bytes]:
    """A path that the user named, or standard input."""
    if path == STDIN:
        return sys.stdin.buffer
    file = os.open(path, _NAMED)
    raw = stack.enter_context(open(file, "rb"))  # noqa: SIM115 - the stack closes it
    if stat.S_ISFIFO(os.fstat(file).st_mode):
        _await_writer(path, file)
    os.set_blocking(file, True)
    return raw


def _await_writer(path: str, file: int) -> None:
    """A FIFO without a writer looks as if it were at its end; with one that is silent, reading waits."""
    poll = select.poll()
    poll.register(file, select.POLLIN | select.POLLHUP)
    if poll.poll(FIFO_PATIENCE * 1000):
        return
    try:
        os.read(file, 1)
    except BlockingIOError:
        return
    raise LoadError(f"{shown(path, LONGEST_PATH)}: nobody writes into this FIFO", path=path)


def plain(path: str, raw: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """The plain content of a file, or of each file of records in an archive, with the name to show for it."""
    name = "standard input" if path == STDIN else path
    head = cast("io.BufferedReader", raw).peek(6)[:6]
    if head.startswith(b"PK\x03\x04"):
        if path == STDIN:
            raise LoadError("standard input: a zip archive cannot be read from a pipe; name the file", path=name)
        yield from _members(name, raw)
        return
    yield name, unpacked(head, raw)


def is_packed(head: bytes) -> bool:
    """Whether a file that begins like this is compressed."""
    return head.startswith((b"PK\x03\x04", *MAGICS))


def _is_of_records(name: str) -> bool:
    """What macOS keeps beside each file of an archive has the file's own suffix."""
    return name.endswith(SUFFIXES) and not name.startswith("__MACOSX/")


def _members(name: str, raw: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(cast("IO[bytes]", _Bounded(raw))) as archive:
        members = [member for member in archive.infolist() if _is_of_records(member.filename)]
        if not members:
            raise LoadError(f"{shown(name, LONGEST_PATH)}: there is no {' or '.join(SUFFIXES)} file in it", path=name)
        for member in members:
            path = f"{name}/{member.filename}"
            if member.flag_bits & 1:
                raise LoadError(f"{shown(path, LONGEST_PATH)}: it is encrypted: unpack the archive first", path=path)
            if member.compress_type not in _METHODS:
                raise LoadError(
                    f"{shown(path, LONGEST_PATH)}: packed by a method that is not read here: use deflate", path=path
                )
            with archive.open(member) as stream:
                yield path, stream


class _Bounded:
    """A file of which nobody takes too much at once, as zipfile does on the word of an archive's last bytes."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.seek, self.tell, self.seekable = raw.seek, raw.tell, raw.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(min(size, LARGEST_LISTING + 1) if size >= 0 else LARGEST_LISTING + 1)
        if len(data) > LARGEST_LISTING:
            raise ValueError(f"its list of files takes more than {LARGEST_LISTING:,} bytes, or is broken")
        return data
