"""Unique ids: UUIDv7 for records and transactions, short ids for people.

UUIDv7 (RFC 9562) begins with the time in milliseconds, so rows created together lie together in an index. Ids of one
process rise strictly, also within a millisecond and when the clock steps back.
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
import time
from typing import Final

from eventbus.process import forks

SHORT_ID_ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"
"""31 characters without look-alikes (0/o, 1/l/i); all safe in names and URLs."""

_COUNTER_BITS: Final = 12
_NUMBERS: Final = struct.Struct("64Q")


class _Source:
    """What ids of this process are made of: milliseconds and a counter in one rising integer, and random ends.

    The ends are made many at a time: to ask the system for randomness each time costs more than all else of an id.
    """

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()
        self._ends: list[str] = []

    def uuid7(self) -> str:
        """A new UUIDv7 as 36 characters; later calls of this process give greater texts."""
        forks.notice()
        tick = (time.time_ns() // 1_000_000) << _COUNTER_BITS
        with self._lock:
            if tick <= self._last:
                tick = self._last + 1
            self._last = tick
            if not self._ends:
                # Variant 0b10, 14 and 48 random bits.
                random = _NUMBERS.unpack(os.urandom(_NUMBERS.size))
                self._ends = [f"{0x8000 | each >> 50:04x}-{each & 0xFFFFFFFFFFFF:012x}" for each in random]
            end = self._ends.pop()
        text = f"{tick:015x}"
        return f"{text[:8]}-{text[8:12]}-7{text[12:]}-{end}"

    def forked(self) -> None:
        """In a child: another thread may have held the lock at that moment, and the ends are the parent's."""
        self._lock = threading.Lock()
        self._ends = []


_source: Final = _Source()
forks.in_child(_source.forked)
uuid7: Final = _source.uuid7


def short_id(length: int = 8) -> str:
    """A random id from `SHORT_ID_ALPHABET`: about 5 bits a character, so a caller must expect collisions."""
    return "".join(secrets.choice(SHORT_ID_ALPHABET) for _ in range(length))
