"""A process of our own that another process starts and watches: it ends with its watcher, however that ends."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final, final

WATCHED: Final = "--watched"
"""The option that tells a companion to end with its standard input."""
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_ENDING: Final = 5.0
"""Seconds that one has to end which is told to."""
_LOOK: Final = 0.2
_COURTESY: Final = 10
"""How much nicer who gives way is; the kernel stops at 19."""
_WELL: Final = 60.0
"""Seconds after which one that ran counts as well: the next pause is short again."""

log = logging.getLogger(__name__)


@final
class Companion:
    """Runs `python -m MODULE ARGUMENTS --watched`, and again if it ends. `name` is what messages call it.

    Its standard input is a pipe that closes with this process, even if that is killed.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str]) -> None:
        self._name = name
        self._command = [sys.executable, "-m", module, *arguments, WATCHED]
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._next = 0.0
        self._pause = _PAUSE
        self._trouble = ""

    def check(self) -> str:
        """Start it if it does not run; tell what is wrong, or nothing. Call it about once a second."""
        now = time.monotonic()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._ended(code, now)
        if self._process is None and now >= self._next:
            self._start(now)
        if self._process is not None and now - self._started >= _WELL:
            self._pause, self._trouble = _PAUSE, ""
        return self._trouble

    def _start(self, now: float) -> None:
        try:
            # The command is this interpreter and a module of this package.
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)  # noqa: S603
            give_way(self._process.pid)
        except OSError as error:
            self._trouble = f"the {self._name} cannot be started: {error.strerror}"
            self._put_off(now)
        self._started = now

    def _ended(self, code: int, now: float) -> None:
        self._trouble = f"the {self._name} ended with {code}"
        log.error("a companion ended; it is started again", extra={"companion": self._name, "code": code})
        self._let_go()
        self._put_off(now)

    def _put_off(self, now: float) -> None:
        self._next = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _let_go(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def close(self, patience: float = math.inf, hurry: threading.Event | None = None) -> bool:
        """Let it finish what is to be done, so many seconds at most, or until `hurry`; then it is told to end.

        Tells whether it has ended. If not it ends by itself, as soon as it sees what it was told.
        """
        if self._process is None:
            return True
        process = self._process
        self._let_go()
        end = time.monotonic() + patience
        while time.monotonic() < end and not (hurry and hurry.is_set()):
            if _has_ended(process, min(_LOOK, end - time.monotonic())):
                return True
        process.terminate()
        return _has_ended(process, _ENDING)


def give_way(pid: int) -> None:
    """Where processors are short, whoever calls goes before this child. Nobody needs a right for that."""
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + _COURTESY)


def _has_ended(process: subprocess.Popen[bytes], patience: float) -> bool:
    try:
        process.wait(max(patience, 0))
    except subprocess.TimeoutExpired:
        return False
    return True


def when_alone() -> threading.Event:
    """An event that is set when whoever watches this process is gone: its standard input ends."""
    alone = threading.Event()

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would be held while the interpreter ends
            pass
        alone.set()

    threading.Thread(target=wait, name="watcher", daemon=True).start()
    return alone
