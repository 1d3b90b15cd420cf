"""How a process ends, and how a fork begins."""

from __future__ import annotations

import atexit
import signal
import sys
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any, Protocol

from eventbus.process import forks


class Mortal(Protocol):
    """What is to be closed before the process ends, and begins anew in a fork."""

    def close(self, timeout: float) -> None:
        """End in order, within that many seconds."""

    def forked(self) -> object:
        """In a child: begin anew. What it returns is kept for good, so that nothing closes it."""


_living: weakref.WeakSet[Mortal] = weakref.WeakSet()
_inherited: list[object] = []
"""What a child process got from its parent and must not touch, not even by collecting it."""


def live(one: Mortal) -> None:
    """Tell it of forks, from now on."""
    _living.add(one)


def die(one: Mortal) -> None:
    """It is closed."""
    _living.discard(one)


def close_at_exit(one: Mortal, timeout: float) -> None:
    """Close it when the interpreter exits, or the child of a multiprocessing."""
    reference = weakref.ref(one)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close(timeout)

    for util in _child_of():
        # A child of multiprocessing ends without running what atexit knows.
        util.Finalize(None, close, exitpriority=10)
    atexit.register(close)


def drain_on_sigterm() -> None:
    """Opt-in: let SIGTERM end this process as `sys.exit(143)` does, so that its dispatcher drains; main thread only.

    A handler that is there already is called instead, if it is a function: gunicorn, uvicorn and Celery end in order.
    """
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if callable(before):
            before(number, frame)
        else:
            sys.exit(128 + number)

    signal.signal(signal.SIGTERM, handle)


def _child_of() -> Iterator[Any]:
    """The `util` of each multiprocessing, Python's and Celery's, that started this process."""
    multiprocessing, billiard = sys.modules.get("multiprocessing"), sys.modules.get("billiard.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        yield sys.modules.get("multiprocessing.util")
    if billiard is not None and billiard.current_process()._parent_pid is not None:
        yield sys.modules.get("billiard.util")


def _forget_parent() -> None:
    _inherited.extend([one.forked() for one in list(_living)])


forks.in_child(_forget_parent)
