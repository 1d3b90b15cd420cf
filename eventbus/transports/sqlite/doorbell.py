"""A named pipe that stands for one process waiting for messages: ring it to wake, look at it to learn of a death.

The kernel closes a pipe's reading end when its process ends, however it ends. So `is_attended` is true for exactly as
long as the owner lives: no process ids that are reused or that mean nothing in another container, no time-outs.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import weakref
from pathlib import Path
from typing import Final

from eventbus.process import forks

_MARK: Final = "-bell-"
_OWNED: weakref.WeakSet[Doorbell] = weakref.WeakSet()


class Doorbell:
    """The owner's side: a pipe `<base>-bell-<random>`, readable by this user only.

    It is attended until `close`, until the object is collected, or until the process is gone. A child made by a fork
    does not attend its parent's bells. Raises OSError that says so where the file system has no named pipes.
    """

    def __init__(self, base: Path) -> None:
        self.path = base.with_name(f"{base.name}{_MARK}{secrets.token_hex(8)}")
        try:
            os.mkfifo(self.path, 0o600)
        except OSError as error:
            raise OSError(error.errno, f"no named pipe can be made: {error.strerror}", str(self.path)) from error
        # Read *and* write: without a writing end of its own, a pipe that somebody rang once is at its end for ever.
        descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self._descriptor = descriptor
        self._poll = select.poll()  # not select(): that fails for descriptors above 1023
        self._poll.register(descriptor, select.POLLIN)
        self._release = weakref.finalize(self, os.close, descriptor)
        _OWNED.add(self)

    def wait(self, seconds: float) -> bool:
        """Sleep until somebody rings, True, or until the time is over, False."""
        if not self._poll.poll(seconds * 1000):
            return False
        os.read(self._descriptor, 1 << 16)
        return True

    def leave(self) -> None:
        """Attend no longer; the pipe stays until it is swept. For a child that inherited the bell."""
        self._release()

    def close(self) -> None:
        """Remove the pipe. Safe to call twice."""
        if self._release.alive:
            self.path.unlink(missing_ok=True)
            self._release()


def ring(path: str | Path) -> bool:
    """Wake the owner of the bell; False if there is none any more."""
    descriptor = _visit(path)
    if descriptor is None:
        return False
    try:
        os.write(descriptor, b".")
    except BlockingIOError:
        pass  # 64 KiB of unheard rings: it will wake without another one
    except BrokenPipeError:
        return False
    finally:
        os.close(descriptor)
    return True


def is_attended(path: str | Path) -> bool:
    """Whether the owner of the bell still lives."""
    descriptor = _visit(path)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def sweep(base: Path) -> None:
    """Remove the pipes of owners that are gone. The caller sees to it that nobody makes a bell meanwhile."""
    for path in base.parent.iterdir():
        if path.name.startswith(f"{base.name}{_MARK}") and not is_attended(path):
            path.unlink(missing_ok=True)


def _visit(path: str | Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):  # nobody reads; no such pipe
            return None
        raise


def _after_fork_in_child() -> None:
    for bell in list(_OWNED):
        bell.leave()


forks.in_child(_after_fork_in_child)
