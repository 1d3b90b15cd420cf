"""Unique ids: UUIDv7 for records and transactions, short ids for people.

UUIDv7 (RFC 9562) begins with the time in milliseconds, so rows created together lie together in an index. Ids of one
process rise strictly, also within a millisecond and when the clock steps back.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from typing import Final

SHORT_ID_ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"
"""31 characters without look-alikes (0/o, 1/l/i); all safe in names and URLs."""

_RANDOM_BITS: Final = 62
_COUNTER_BITS: Final = 12


class _Clock:
    """Milliseconds and a counter in one rising integer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def tick(self) -> int:
        now = (time.time_ns() // 1_000_000) << _COUNTER_BITS
        with self._lock:
            self._last = now = max(now, self._last + 1)
        return now

    def renew_lock(self) -> None:
        """Another thread may have held the lock at the moment of a fork."""
        self._lock = threading.Lock()


_clock = _Clock()
os.register_at_fork(after_in_child=_clock.renew_lock)


def uuid7() -> str:
    """A new UUIDv7 as 36 characters; later calls of this process give greater texts."""
    tick = _clock.tick()
    value = (
        ((tick >> _COUNTER_BITS) << 80)
        | (0x7 << 76)
        | ((tick & 0xFFF) << 64)
        | (0b10 << _RANDOM_BITS)
        | (int.from_bytes(os.urandom(8), "big") >> 2)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def short_id(length: int = 8) -> str:
    """A random id from `SHORT_ID_ALPHABET`: about 5 bits a character, so a caller must expect collisions."""
    return "".join(secrets.choice(SHORT_ID_ALPHABET) for _ in range(length))
