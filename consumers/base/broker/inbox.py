"""Where deliveries come from: one queue of one broker, over one connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from consumers.base.reading.delivery import Delivery


class Inbox(ABC):
    """An open consumer of one queue. It belongs to one thread.

    Every method raises Lost once the connection is of no more use; then only `drop` may follow. Nothing is
    acknowledged but by `acknowledge`; what is not acknowledged comes again to the next inbox.
    """

    standing_by = False
    """Whether another consumer had the queue when this one came. Nothing arrives then until that one has gone, and the
    first delivery is the sign that it has: a broker counts only the one that is active."""

    @abstractmethod
    def fetch(self, timeout: float, limit: int) -> list[Delivery]:
        """Wait up to `timeout` seconds for a first delivery, then take what is there, at most `limit`."""

    @abstractmethod
    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """These have taken effect for good, in any order."""

    @abstractmethod
    def discard(self, delivery: Delivery) -> None:
        """Let the broker itself move this one to the dead letters: its body was too large to be kept here."""

    @abstractmethod
    def tick(self) -> None:
        """Show the broker a sign of life, and look for one. To be called about once a second."""

    @abstractmethod
    def beat(self) -> None:
        """Show the broker a sign of life, without reading. Another thread may call it, while no other call runs."""

    @abstractmethod
    def waiting(self) -> int:
        """How many messages wait for delivery, here or at the broker. Those already fetched do not count."""

    @abstractmethod
    def close(self) -> None:
        """Stop consuming and hang up politely; what was acknowledged has arrived. Raises Lost where that is unknown."""

    @abstractmethod
    def drop(self) -> None:
        """Hang up at once. Never raises."""
