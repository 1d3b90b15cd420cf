"""A sign of life in the file system, which a probe reads without a broker, a network or a start-up of the mirror."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, final

from consumers.json_mirror.disk.private import open_own
from eventbus.errors import ConfigurationError

DEFAULT_MAX_AGE: Final = 60.0
"""Seconds without a beat after which a probe calls the mirror dead. The loop beats every second; one batch on a slow
disk may take some."""
HELD: Final = "the disk holds up"
"""How a trouble begins in which deliveries are neither done nor, to the broker, waiting."""
_ROOM: Final = 512
"""Bytes that are reserved while there is room, so that a full disk can still be told of."""


@final
class Heartbeat:
    """The modification time of the file at `path`. Setting it takes no space, so a full disk is no death.

    The file holds what the mirror is waiting for, or nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told: str | None = None

    def beat(self, trouble: str = "") -> None:
        """I am alive, if in trouble. Never raises: a mirror does not end because it could not say so."""
        try:
            os.utime(self._path, follow_symlinks=False)
        except FileNotFoundError:
            self._told = None
        except OSError:
            pass  # as a file system that was remounted read-only
        if trouble != self._told:
            with suppress(OSError, ConfigurationError):
                self._tell(trouble)

    def _tell(self, trouble: str) -> None:
        file = open_own(self._path, os.O_WRONLY | os.O_CREAT, 0o640)
        try:
            os.pwrite(file, trouble.encode("utf-8", "backslashreplace")[:_ROOM].ljust(_ROOM), 0)
        finally:
            os.close(file)
        self._told = trouble

    def trouble(self) -> str | None:
        """What the mirror is, or was last, waiting for; None where all is well."""
        try:
            file = open_own(self._path, os.O_RDONLY)
        except (OSError, ConfigurationError):
            return None
        with open(file, "rb") as stream:
            return stream.read(_ROOM).decode("utf-8", "ignore").strip() or None

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat from a thread while long work is done, on which no loop turns."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat_until, args=(over,), name="eventbus-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _beat_until(self, over: threading.Event) -> None:
        while True:
            self.beat()
            if over.wait(1.0):
                return

    def age(self) -> float | None:
        """Seconds since the last beat; None where there was none.

        A beat in the future is one before the clock was put back: who lives has beaten again a second later.
        """
        try:
            return abs(time.time() - self._path.lstat().st_mtime)
        except OSError:
            return None
