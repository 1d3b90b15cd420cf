"""The system calls by which the mirror touches its directory: one thin class, so that a test can make any call fail.

All names are relative to directory descriptors and no call follows a symbolic link at their end, so that nothing
outside DATA_DIR can be reached, whatever is planted inside it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o640
DIRECTORY_MODE: Final = 0o750

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNNAMED: Final = os.O_WRONLY | getattr(os, "O_TMPFILE", 0) | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_UNNAMED: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
"""How a file system or kernel without O_TMPFILE answers, or a host without /proc."""

_GET_FLAGS: Final = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1
_SET_FLAGS: Final = 1 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 2
_TOP_DIRECTORY: Final = 0x00020000
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_TOPDIR_FL of linux/fs.h; `chattr +T` sets the same."""

_syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


class FileSystem:
    """The real calls. Each raises OSError as the kernel says; descriptors are plain integers."""

    unnamed = bool(getattr(os, "O_TMPFILE", 0))
    """Whether a file can be written before it has a name; turned off at the first answer that it cannot."""

    def open_root(self, path: Path) -> int:
        """DATA_DIR itself, which may be a symbolic link: it is the operator's choice."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_directory(self, name: str, parent: int) -> int:
        return os.open(name, _DIRECTORY, dir_fd=parent)

    def make_directory(self, name: str, parent: int) -> None:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)

    def spread(self, directory: int) -> None:
        """Ask the file system to lay the directories made in this one far apart, each with its files. Never raises.

        Else ext4 puts them beside their neighbours', where, without a journal, it searches among the inodes of all that
        was lately deleted: 50 µs a file become 1,000 after a clean-up nearby. Others ignore it.
        """
        with suppress(OSError):
            flags = bytearray(struct.calcsize("l"))
            fcntl.ioctl(directory, _GET_FLAGS, flags)
            fcntl.ioctl(directory, _SET_FLAGS, struct.pack("l", struct.unpack("l", flags)[0] | _TOP_DIRECTORY))

    def create(self, name: str, directory: int) -> int:
        """A new, empty file; FileExistsError where the name is taken, by a dangling link too."""
        return os.open(name, _NEW, FILE_MODE, dir_fd=directory)

    def create_unnamed(self, directory: int) -> int | None:
        """A new file without a name, gone by itself unless `give_name` follows; None where there is no such thing."""
        if not self.unnamed:
            return None
        try:
            return os.open(".", _UNNAMED, FILE_MODE, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NO_UNNAMED:
                raise
            self.unnamed = False
            return None

    def give_name(self, file: int, name: str, directory: int) -> None:
        """Make an unnamed file appear, whole. FileExistsError where the name is taken."""
        os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=directory, follow_symlinks=True)

    def write(self, file: int, content: bytes) -> None:
        """All of it."""
        written = os.write(file, content)
        while written < len(content):
            written += os.write(file, content[written:])

    def close(self, file: int) -> None:
        os.close(file)

    def rename(self, name: str, directory: int, to_name: str, to_directory: int) -> None:
        """Atomic; what had the new name before is gone, a symbolic link itself too, never its target."""
        os.rename(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory)

    def remove(self, name: str, directory: int) -> None:
        os.unlink(name, dir_fd=directory)

    def identity(self, name: str, directory: int) -> tuple[int, int, int]:
        """Device, inode and mode of what has this name, not of what it points to."""
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return found.st_dev, found.st_ino, found.st_mode

    def identity_of(self, file: int) -> tuple[int, int, int]:
        found = os.fstat(file)
        return found.st_dev, found.st_ino, found.st_mode

    def read(self, name: str, directory: int, largest: int) -> bytes:
        """The content of a regular file; OSError (ELOOP) for a link, (ENXIO) for what is no file, without waiting.

        Of a file of more than `largest` bytes nothing is read: OSError (EFBIG).
        """
        file = os.open(name, _READ, dir_fd=directory)
        with open(file, "rb", closefd=True) as stream:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ENXIO, "no regular file", name)
            content = b"" if found.st_size > largest else stream.read(largest + 1)
            if max(found.st_size, len(content)) > largest:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
            return content

    def names(self, directory: int) -> Iterator[tuple[str, bool]]:
        """The entries of a directory: name, and whether it is a directory itself (a link to one is not)."""
        with os.scandir(directory) as entries:
            for entry in entries:
                yield entry.name, entry.is_dir(follow_symlinks=False)

    def sync(self, file: int) -> None:
        """Return once the file, or the entries of the directory, are on the disk."""
        os.fsync(file)

    def sync_all(self, directory: int) -> None:
        """Return once all of the file system around this directory is on the disk. Slow; releases the interpreter."""
        if _syncfs is None:
            os.sync()
        elif _syncfs(directory) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
