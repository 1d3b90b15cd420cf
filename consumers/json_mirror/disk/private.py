"""Files of the mirror's own, under `.eventbus`: none may lead anywhere else, whoever put it there.

What a mirror writes would go into the file of somebody else, through a symbolic link or a second name of that file; and
opening a FIFO waits for ever. So each is looked at before its first use, and again once it is open.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from eventbus.errors import ConfigurationError

_KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_own(path: Path) -> None:
    """Raise ConfigurationError where this is anything but a file with one name, or nothing at all."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    _require(path, found)


def open_own(path: Path, flags: int, mode: int = 0) -> int:
    """Open a file of the mirror's own, without waiting. Raises OSError, ConfigurationError as `require_own`."""
    require_own(path)
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    try:
        _require(path, os.fstat(file))
    except ConfigurationError:
        os.close(file)
        raise
    return file


def _require(path: Path, found: os.stat_result) -> None:
    what = _KINDS.get(stat.S_IFMT(found.st_mode))
    if what is None and found.st_nlink > 1:
        what = f"a file with {found.st_nlink} names, of which the others may be anybody's"
    if what is not None:
        raise ConfigurationError(f"{path} is {what}: it must be a file that the mirror made. Remove it")
