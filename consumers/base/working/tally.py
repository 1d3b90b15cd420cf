"""Which delivery tags are settled, so that one acknowledgement covers as many as it can."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final


@final
class Tally:
    """Tags of one AMQP channel: integers from 1 on, without gaps, settled in any order."""

    def __init__(self) -> None:
        self._next = 1
        self._ahead: set[int] = set()

    def settle(self, tags: Iterable[int]) -> tuple[int | None, list[int]]:
        """Count the tags as settled. The first result acknowledges itself and all below; the second are single ones.

        The first is always one of `tags`: a broker takes no tag twice, not even as the end of a range.
        """
        new = set(tags)
        settled = self._ahead | new
        upto = self._next
        while upto in settled:
            settled.discard(upto)
            upto += 1
        self._next, self._ahead = upto, settled
        return max((tag for tag in new if tag < upto), default=None), sorted(new & settled)
