"""What has been said of one trouble: each new reason once, until it is over."""

from __future__ import annotations

import re
from typing import Final, final

_MOST: Final = 20
"""Reasons told of one trouble; whoever makes up new ones all the time is not worth more lines."""
_NUMBER: Final = re.compile(r"\d+")


@final
class News:
    """For who tries again and again: the first reason may be passing, and the one that lasts comes later."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def is_new(self, reason: str) -> bool:
        """Whether to tell it. Reasons that differ in numbers alone (ports, times) are one."""
        kind = _NUMBER.sub("#", reason[:500])
        if kind in self._told or len(self._told) >= _MOST:
            return False
        self._told.add(kind)
        return True

    def over(self) -> bool:
        """It works again; whether anything had been told."""
        told = bool(self._told)
        self._told.clear()
        return told
