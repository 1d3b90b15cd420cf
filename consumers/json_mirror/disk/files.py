"""The files of the mirror: whole at any instant, inside DATA_DIR at any cost.

A new file is written before it has a name, and appears under its own; a changed one is written in `.eventbus/tmp` and
renamed over the old one. So whoever reads the directory sees whole files only, and never a temporary name.

Nothing is synced here unless `durable` asks for it: the state is the durable truth, and `syncing` tells it afterwards
what has reached the disk.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from consumers.json_mirror import filenames
from consumers.json_mirror.disk import documents
from consumers.json_mirror.disk.directories import PRIVATE, TEMPORARY, Directories
from consumers.json_mirror.disk.filesystem import FileSystem

OBSTACLES: Final = frozenset(
    {errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Errors that say something about one path, not about the disk: something foreign stands in a file's place."""
MAX_BLOCKED: Final = 10_000
"""Files that may be kept waiting by something foreign in their place before the mirror stops taking in more."""
LARGEST_FILE: Final = 16 << 20
"""Bytes of a file that is read; one that is larger, by twice what the state has for it, is none of the mirror's."""

_NOT_A_FILE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EFBIG, errno.ENAMETOOLONG}
)

log = logging.getLogger(__name__)


class Files:
    """The files under `path`, which is made if missing. One thread, one process (see `lock`).

    With `durable` each file is synced before it appears, and its directory afterwards, so that not even a power loss
    shows a reader an empty file; that costs two flushes of the disk for each file.
    """

    def __init__(self, path: Path, filesystem: FileSystem | None = None, *, durable: bool = False) -> None:
        self._fs = filesystem or FileSystem()
        self._durable = durable
        self._directories = Directories(path, self._fs)
        self._serial = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors; safe to call twice."""
        self._directories.close()

    def begin(self) -> None:
        """Call this before each batch: see `Directories.begin`."""
        self._directories.begin()

    # --- writing ------------------------------------------------------------------------------------------------

    def put(self, directory: str, filename: str, content: bytes | None, *, existed: bool = True) -> None:
        """From one instant to the next the file has this content, or for None is gone; on OSError it is what it was.

        `existed` tells whether it is there already: a wrong guess costs time, nothing else.
        """
        if content is None:
            self._remove(directory, filename)
            return
        where = self._directories.get(directory, make=True)
        if existed or not self._appear(where, filename, content):
            self._replace(directory, filename, content)
        if self._durable:
            self._fs.sync(self._directories.get(directory, make=True))

    def _appear(self, where: int, filename: str, content: bytes) -> bool:
        file = self._fs.create_unnamed(where)
        if file is None:
            return False
        try:
            self._fill(file, content)
            self._fs.give_name(file, filename, where)
        except (FileExistsError, FileNotFoundError):
            # The name is taken (a foreign file, a leftover), or there is no /proc.
            return False
        finally:
            self._fs.close(file)
        return True

    def _replace(self, directory: str, filename: str, content: bytes) -> None:
        self._serial += 1
        name = f"{os.getpid():x}-{self._serial:x}"
        making = self._directories.get(TEMPORARY, make=True)
        file = self._fs.create(name, making)
        try:
            try:
                self._fill(file, content)
            finally:
                self._fs.close(file)
            self._fs.rename(name, making, filename, self._directories.get(directory, make=True))
        except BaseException:
            with suppress(OSError):
                self._fs.remove(name, making)
            raise

    def _fill(self, file: int, content: bytes) -> None:
        self._fs.write(file, content)
        if self._durable:
            self._fs.sync(file)

    def _remove(self, directory: str, filename: str) -> None:
        # What is a directory is not ours, so there is nothing of ours to remove.
        with suppress(FileNotFoundError, IsADirectoryError):
            where = self._directories.get(directory, make=False)
            self._fs.remove(filename, where)
            if self._durable:
                self._fs.sync(where)

    def sweep(self) -> int:
        """Remove what a process that was killed left unfinished; tell how many files."""
        making = self._directories.get(TEMPORARY, make=True)
        leftovers = [name for name, is_directory in self._fs.names(making) if not is_directory]
        for name in leftovers:
            self._fs.remove(name, making)
        return len(leftovers)

    def sync_all(self) -> None:
        """Return once all that was written before is on the disk. May be called from another thread."""
        self._fs.sync_all(self._directories.root)

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self, directory: str, filename: str, expected: int = 0) -> bytes | None:
        """The file's bytes; None where there is none, or something that is no regular file stands in its place.

        None as well where it is larger than any file of a mirror: LARGEST_FILE, or twice the `expected` bytes.
        """
        largest = max(LARGEST_FILE, 2 * expected)
        try:
            return self._fs.read(filename, self._directories.get(directory, make=False), largest)
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                return None
            raise

    def document(self, directory: str, filename: str) -> documents.Document | None:
        """The file as a document; None where it is none, or not the one that belongs under this name."""
        content = self.read(directory, filename)
        if content is None:
            return None
        try:
            document = documents.decode(content)
        except ValueError:
            return None
        return document if (document.directory, document.filename) == (directory, filename) else None

    def exists(self, directory: str, filename: str) -> bool:
        """Whether there is anything under this name."""
        try:
            self._fs.identity(filename, self._directories.get(directory, make=False))
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                return False
            raise
        return True

    def directories(self) -> list[str]:
        """Every `<service>/<entity>` that is there, ours or not."""
        services = (name for name, is_directory in self._fs.names(self._directories.root) if is_directory)
        return sorted(
            f"{service}/{name}"
            for service in services
            if service != PRIVATE
            for name, is_directory in self._fs.names(self._directories.get(service, make=False))
            if is_directory
        )

    def filenames(self, directory: str) -> Iterator[str]:
        """The names in it that end as the mirror's do, in no order; they may be foreign all the same."""
        try:
            where = self._directories.get(directory, make=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, is_directory in self._fs.names(where):
            if name.endswith(filenames.SUFFIX) and not is_directory:
                yield name


def is_possible(name: str) -> bool:
    """Whether a record's file could have this name; one that is no Unicode cannot even be asked for in the state."""
    return name.isascii()
