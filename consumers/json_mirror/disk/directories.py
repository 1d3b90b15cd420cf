"""The directories of the mirror, kept open, and looked at again so that a planted link is noticed.

A descriptor leads to the directory it was opened on, wherever that is moved to. So before the first use in each batch
the name is compared with the descriptor: same device and inode, or the directory is opened anew.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Final

from consumers.json_mirror.disk.filesystem import DIRECTORY_MODE, FileSystem
from consumers.json_mirror.errors import DirectoryGone
from eventbus.errors import ConfigurationError

PRIVATE: Final = ".eventbus"
"""The one entry of DATA_DIR that is the mirror's own: state, lock, heartbeat, files in the making."""
TEMPORARY: Final = f"{PRIVATE}/making"

_MAX_OPEN: Final = 128
_NOT_A_DIRECTORY: Final = frozenset({errno.ENOTDIR, errno.ELOOP})

log = logging.getLogger(__name__)


class Directories:
    """Descriptors of DATA_DIR (`root`) and of directories up to two levels below it, the last 128 used."""

    def __init__(self, path: Path, filesystem: FileSystem) -> None:
        self._fs = filesystem
        self._path = path
        try:
            path.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        if (path / PRIVATE).is_symlink():
            raise ConfigurationError(f"{path / PRIVATE} is a symbolic link: it must be a directory of DATA_DIR")
        self.root = filesystem.open_root(path)
        self._open: OrderedDict[str, int] = OrderedDict()
        self._looked_at: set[str] = set()

    def begin(self) -> None:
        """Look again at every directory before its next use; call this once for each batch.

        Raises DirectoryGone where DATA_DIR itself is not the one that was opened.
        """
        self._looked_at.clear()
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            now = None
        if now is None or (now.st_dev, now.st_ino) != self._fs.identity_of(self.root)[:2]:
            raise DirectoryGone(f"{self._path} was removed or replaced under the mirror; start it again")

    def get(self, path: str, *, make: bool) -> int:
        """The descriptor of `service` or `service/entity`; good until the next call.

        A symbolic link in its place is no directory: with `make` it is replaced by one, and a warning says so; its
        target is not touched. Raises FileNotFoundError without `make`, NotADirectoryError where a file stands there.
        """
        descriptor = self._open.get(path)
        if descriptor is not None and path in self._looked_at:
            self._open.move_to_end(path)
            return descriptor
        above, _, name = path.rpartition("/")
        parent = self.get(above, make=make) if above else self.root
        descriptor = self._open.get(path)  # again: the one above may have taken its place
        if descriptor is not None and not self._same(name, parent, descriptor):
            self._fs.close(self._open.pop(path))
            descriptor = None
        if descriptor is None:
            descriptor = self._open[path] = self._enter(name, parent, make=make)
            if make and not above:
                self._fs.spread(descriptor)
        self._open.move_to_end(path)
        self._looked_at.add(path)
        self._close_oldest()
        return descriptor

    def _same(self, name: str, parent: int, descriptor: int) -> bool:
        try:
            return self._fs.identity(name, parent)[:2] == self._fs.identity_of(descriptor)[:2]
        except FileNotFoundError:
            return False

    def _enter(self, name: str, parent: int, *, make: bool) -> int:
        try:
            return self._fs.open_directory(name, parent)
        except FileNotFoundError:
            if not make:
                raise
        except OSError as error:
            if error.errno not in _NOT_A_DIRECTORY:
                raise
            self._remove_link(name, parent, make=make)
        self._fs.make_directory(name, parent)
        return self._fs.open_directory(name, parent)

    def _remove_link(self, name: str, parent: int, *, make: bool) -> None:
        if not stat.S_ISLNK(self._fs.identity(name, parent)[2]):
            raise NotADirectoryError(errno.ENOTDIR, "a file stands where the mirror needs a directory", name)
        if not make:
            raise FileNotFoundError(errno.ENOENT, "a symbolic link is not followed", name)
        log.warning("symbolic link %s replaced by a directory", name, extra={"link": name})
        self._fs.remove(name, parent)

    def _close_oldest(self) -> None:
        while len(self._open) > _MAX_OPEN:
            path, descriptor = self._open.popitem(last=False)
            self._looked_at.discard(path)
            self._fs.close(descriptor)

    def close(self) -> None:
        """Close all descriptors; safe to call twice."""
        descriptors = [*self._open.values(), *([self.root] if self.root >= 0 else [])]
        self._open.clear()
        self.root = -1
        for descriptor in descriptors:
            with suppress(OSError):
                self._fs.close(descriptor)
