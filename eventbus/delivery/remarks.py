"""What is to be logged, kept until no lock is held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, final


@final
class Remarks:
    """Noted under a lock, said once it is free: a log's handler may be slow, or commit through a Session of ours."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def note(self, log: Callable[..., None], text: str, *arguments: object, **options: Any) -> None:
        """To be said later: `log(text, *arguments, **options)`."""
        self._waiting.append(partial(log, text, *arguments, **options))

    def speak(self) -> None:
        """Say what was noted. To be called without a lock."""
        while self._waiting:
            try:
                remark = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            remark()
