"""One consumer of a channel, and how much it may be given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from eventbus.transports.sqlite.message import Message

FETCH: Final = 500
"""Messages fetched at once, where the prefetch count allows more."""
FETCH_BYTES: Final = 8 << 20
"""Bytes of bodies fetched at once; a single larger message is fetched alone."""

Callback = Callable[[Message], object]


@dataclass(slots=True, eq=False)
class Consumer:
    """One `basic_consume`. `held` counts its messages, from being fetched until they are acknowledged or go back."""

    tag: str
    id: int
    queue: int
    callback: Callback | None
    no_ack: bool
    prefetch: int
    on_cancel: Callable[[str], object] | None
    held: int = 0

    @property
    def room(self) -> int:
        """How many messages it may be given now."""
        return min(self.prefetch - self.held, FETCH) if self.prefetch else FETCH
