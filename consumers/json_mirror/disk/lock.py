"""One mirror a directory: a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from consumers.json_mirror.disk.filesystem import DIRECTORY_MODE, FILE_MODE
from consumers.json_mirror.disk.private import open_own
from consumers.json_mirror.errors import DirectoryGone, DirectoryLocked
from eventbus.errors import ConfigurationError


class Lock:
    """Holds `path` locked until it is closed. Raises DirectoryLocked with what the holder wrote into it.

    `keeper` is what the message calls the holder.

    It is a `flock`: the kernel frees it when the process dies, NFS version 4 and later keep it across hosts.
    """

    def __init__(self, path: Path, keeper: str = "mirror") -> None:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        self._path = path
        self._file = open_own(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _describe(os.pread(self._file, 1000, 0))
            os.close(self._file)
            raise DirectoryLocked(f"{path.parent.parent} is kept by another {keeper}: {holder}") from None
        self._introduce()

    def _introduce(self) -> None:
        """Say who holds it. A full disk must not keep a mirror from starting: then nobody is named."""
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(holder).encode() + b"\n", 0)
        except OSError:
            return

    def check(self) -> None:
        """Raise DirectoryGone where the file is not the one that is locked: another mirror may hold that one by now."""
        held = os.fstat(self._file)
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
            raise DirectoryGone(f"{self._path} was removed or replaced under the mirror; start it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the next one in; safe to call twice. The file is empty after an end in order."""
        if self._file >= 0:
            with suppress(OSError):
                os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1


def died(path: Path) -> bool:
    """Whether whoever held the lock last ended without letting go, killed or crashed, on this host."""
    try:
        match json.loads(_read(path)):
            case {"pid": int(pid), "host": host} if host == socket.gethostname():
                os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, ConfigurationError):
        return False
    return False


def _read(path: Path) -> bytes:
    file = open_own(path, os.O_RDONLY)
    try:
        return os.pread(file, 1000, 0)
    finally:
        os.close(file)


def ended(path: Path) -> bool:
    """Whether whoever held the lock last has ended in order."""
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _describe(content: bytes) -> str:
    try:
        match json.loads(content):
            case {"pid": pid, "host": host, "since": since}:
                return f"process {pid} on {host}, since {since}"
    except ValueError:
        pass
    return "a process that did not give its name"
