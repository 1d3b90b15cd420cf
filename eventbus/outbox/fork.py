"""SQLite must not be in use by a thread of ours at the moment of a fork.

Its allocator has mutexes of its own, which a child would inherit locked, with nobody to unlock them. So our threads use
SQLite within `undisturbed`, and a fork waits for them, for a moment at the most.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from eventbus.process import forks

_PATIENCE: Final = 2.0
"""Seconds; longer than our own connections wait for a lock of the file."""


class _Gate:
    """Shut during a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shut = False

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """No fork happens inside."""
        with self._lock:
            yield

    def before(self) -> None:
        self._shut = self._lock.acquire(timeout=_PATIENCE)

    def after_in_parent(self) -> None:
        if self._shut:
            self._lock.release()

    def after_in_child(self) -> None:
        self._lock = threading.Lock()


_gate = _Gate()
undisturbed = _gate.undisturbed
os.register_at_fork(before=_gate.before, after_in_parent=_gate.after_in_parent)
forks.in_child(_gate.after_in_child)
