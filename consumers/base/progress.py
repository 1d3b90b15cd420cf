"""Telling a person at a terminal how far long work has come; nobody else."""

from __future__ import annotations

import sys
import time
from typing import Final, TextIO, final

_PAUSE: Final = 0.2


@final
class Progress:
    """One line on standard error, rewritten a few times a second; nothing where that is no terminal."""

    def __init__(self, what: str, total: int | None = None, stream: TextIO | None = None) -> None:
        self._what = what
        self._total = total
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()
        self._drawn = time.monotonic()
        self._drawn_count = self.count = 0

    def add(self, count: int = 1) -> None:
        """So many more are done."""
        self.show(self.count + count)

    def show(self, count: int) -> None:
        """So many are done."""
        self.count = count
        now = time.monotonic()
        if self._shown and now - self._drawn >= _PAUSE:
            self._draw(now)

    def end(self) -> None:
        """Draw once more, and leave the line."""
        if self._shown and self.count:
            self._draw(time.monotonic())
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self, now: float) -> None:
        rate = (self.count - self._drawn_count) / max(now - self._drawn, 0.001)
        self._drawn, self._drawn_count = now, self.count
        of = f" of {self._total:,}" if self._total else ""
        self._stream.write(f"\r\x1b[K{self._what}: {self.count:,}{of}, {rate:,.0f} a second")
        self._stream.flush()
