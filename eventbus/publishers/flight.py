"""Which delivery tag carries which message, and what the broker has said of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from amqp.exceptions import UnexpectedFrame

from eventbus.events.envelope import Message
from eventbus.publishers.base import Outcome


@final
class Flight:
    """The messages of one call of `publish` on their way.

    `outcomes` is aligned with `messages`; None is a message not sent, or sent and of unknown fate. `open` and
    `open_bytes` count what was sent and is not settled. Tags rise by one from `first_tag` on in the order of `depart`;
    the broker settles them in any order.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.outcomes: list[Outcome | None] = [None] * len(messages)
        self.open = 0
        self.open_bytes = 0
        self._first_tag = 1
        self._positions: list[int] = []
        self._sizes: list[int] = []
        self._low = 0  # all departures before this one are settled
        self._returned: set[str] = set()

    def board(self, first_tag: int) -> None:
        """The next departure has this delivery tag."""
        self._first_tag = first_tag

    def depart(self, positions: Sequence[int], sizes: Sequence[int]) -> None:
        """The messages at these positions leave now, in this order."""
        self._positions.extend(positions)
        self._sizes.extend(sizes)
        self.open += len(positions)
        self.open_bytes += sum(sizes)

    def refuse(self, position: int) -> None:
        """This message is not sent, since AMQP cannot carry it."""
        self.outcomes[position] = Outcome.REFUSED

    def settle(self, tag: int, multiple: bool, *, accepted: bool) -> None:
        """The broker's ack or nack. Raises UnexpectedFrame for a tag that was never given out."""
        last = len(self._positions) - 1 if multiple and tag == 0 else tag - self._first_tag
        if not 0 <= last < len(self._positions):
            raise UnexpectedFrame(f"confirm for delivery tag {tag}, which is not under way")
        if multiple and accepted and self._confirm_all(last + 1):
            return
        for departure in range(self._low, last + 1) if multiple else (last,):
            self._settle(departure, accepted)
        while self._low < len(self._positions) and self.outcomes[self._positions[self._low]] is not None:
            self._low += 1

    def _confirm_all(self, end: int) -> bool:
        """Settle all departures before this one at once; False where they have to be looked at one by one."""
        low = self._low
        count = end - low
        if count <= 0 or self._returned:
            return False
        first, last = self._positions[low], self._positions[end - 1]
        if last - first != count - 1 or self.outcomes[first : last + 1].count(None) != count:
            return False
        self.outcomes[first : last + 1] = [Outcome.CONFIRMED] * count
        self.open -= count
        self.open_bytes -= sum(self._sizes[low:end])
        self._low = end
        return True

    def unroutable(self, message_id: str) -> None:
        """The broker gave this message back. Its ack follows, since it was dealt with; that is no confirmation."""
        self._returned.add(message_id)

    def sole(self) -> int | None:
        """The position of the message under way if there is exactly one."""
        return self._positions[self._low] if self.open == 1 else None

    def _settle(self, departure: int, accepted: bool) -> None:
        position = self._positions[departure]
        if self.outcomes[position] is not None:
            return
        self.open -= 1
        self.open_bytes -= self._sizes[departure]
        if not accepted:
            self.outcomes[position] = Outcome.REFUSED
        elif self._returned and self.messages[position].id in self._returned:
            self.outcomes[position] = Outcome.UNROUTABLE
        else:
            self.outcomes[position] = Outcome.CONFIRMED
