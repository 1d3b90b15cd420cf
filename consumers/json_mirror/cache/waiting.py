"""Which records wait to be stored in a cache: their names alone, so that a cache that hangs costs no memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import islice
from typing import Final, final

Key = tuple[str, str]
"""A record's directory and file name."""

MOST_BYTES: Final = 8 << 20
"""Memory that waiting names may take, about; some 30,000 of them."""
_EACH: Final = 200
"""Bytes that a name takes beside its letters."""


@final
class Waiting:
    """Names in the order in which they came, each once. One thread adds, another takes."""

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}
        self._bytes = 0
        self._ended = False
        self._changed = threading.Condition()

    def add(self, keys: Iterable[Key]) -> bool:
        """False where they are too many: then none waits any more, and everything is to be stored. Never blocks."""
        with self._changed:
            for key in keys:
                if key not in self._keys:
                    self._keys[key] = None
                    self._bytes += _size(key)
            if self._bytes > MOST_BYTES:
                self._keys.clear()
                self._bytes = 0
                return False
            self._changed.notify()
        return True

    def take(self, timeout: float, most: int) -> list[Key]:
        """Up to `most` of them; waits up to `timeout` seconds for the first, unless the end has come."""
        with self._changed:
            if not self._keys and not self._ended:
                self._changed.wait(timeout)
            taken = list(islice(self._keys, most))
            for key in taken:
                del self._keys[key]
                self._bytes -= _size(key)
        return taken

    def end(self) -> None:
        """Nobody waits for more."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def __len__(self) -> int:
        return len(self._keys)


def _size(key: Key) -> int:
    return len(key[0]) + len(key[1]) + _EACH
