"""Forks, those too that Python is not told of: uWSGI and other servers in C fork behind its back.

What a child must not share with its parent (locks, connections, names, random numbers drawn in advance) is renewed by
hooks. After `os.fork()` they run at once. After any other fork they run when `notice` is called for the first time, so
whoever is about to use such a thing calls it first; it costs one look at the process id.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


class _Process:
    """Which process this is, as far as was noticed."""

    def __init__(self) -> None:
        self.id = os.getpid()
        self.hooks: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def forked(self) -> None:
        """Python says so: this thread is the only one."""
        self._lock = threading.Lock()
        self._run()

    def notice(self) -> None:
        """Somebody found another process id. Threads of the child may come here at once."""
        with self._lock:
            if self.id != os.getpid():
                self._run()

    def _run(self) -> None:
        for hook in self.hooks:
            hook()
        self.id = os.getpid()  # last: until then others wait


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)


def in_child(hook: Callable[[], object]) -> None:
    """Run this in each child, once, in the order in which hooks were given. What it finds is the parent's."""
    _process.hooks.append(hook)


def notice() -> None:
    """Run the hooks, if this process is a child where they have not run yet."""
    if _process.id != os.getpid():
        _process.notice()
