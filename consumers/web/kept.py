"""An answer that is good for a moment, however many ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar, final

_SECONDS: Final = 2.0

T = TypeVar("T")


@final
class Kept(Generic[T]):
    """Calls `ask` at most once in two seconds, from one thread at a time, and gives everybody what it said."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._asked: tuple[float, T] | None = None

    def __call__(self) -> T:
        """The answer, of now or of a moment ago."""
        with self._lock:
            if self._asked is None or time.monotonic() - self._asked[0] >= _SECONDS:
                answer = self._ask()
                self._asked = time.monotonic(), answer
            return self._asked[1]
