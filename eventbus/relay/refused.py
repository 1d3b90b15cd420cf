"""What the broker did not take while the relay keeps the order: how often it was tried, and when it is given up."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final, final

from eventbus.delivery.parcel import Parcel
from eventbus.publishers.base import Outcome

_TRIES: Final = 4
_MOST_SUSPECTS: Final = 1000

logger = logging.getLogger(__name__)


@final
class Refused:
    """Counts the refusals of each row, over all steps.

    `drop`: what no queue takes counts as delivered. `suspicion`: seconds for which the like of what was given up is
    tried once each, and not again and again.
    """

    def __init__(self, *, drop: bool, suspicion: float) -> None:
        self._drop = drop
        self._suspicion = suspicion
        self._tries: dict[int, int] = {}
        self._retry_at: dict[int, float] = {}
        self._suspects: dict[str, float] = {}

    def is_due(self, row_id: int) -> bool:
        """Whether a row is to be tried now."""
        return time.monotonic() >= self._retry_at.get(row_id, 0.0)

    def give_up(self, left: Iterable[Parcel]) -> list[Parcel]:
        """Those of the parcels with events left that were refused often enough."""
        refused = []
        for parcel in left:
            if parcel.outcome is None:
                continue
            if parcel.outcome is Outcome.UNROUTABLE and self._drop:
                parcel.delivered()
                continue
            tries = self._tries[parcel.version] = self._tries.get(parcel.version, 0) + 1
            parcel.tries = tries
            self._retry_at[parcel.version] = time.monotonic() + 0.1 * 2**tries
            if tries >= _TRIES or self._is_suspect(parcel):
                refused.append(parcel)
        return refused

    def tell(self, parcel: Parcel) -> None:
        """This one is parked."""
        if not self._is_suspect(parcel):
            logger.warning("events are parked in the outbox: %s", parcel.reason, extra={"row": parcel.version})
        if len(self._suspects) > _MOST_SUSPECTS:
            self._suspects.clear()
        self._suspects[parcel.reason] = time.monotonic()

    def forget(self, row_ids: Iterable[int]) -> None:
        """These rows are dealt with."""
        for row_id in row_ids:
            self._tries.pop(row_id, None)
            self._retry_at.pop(row_id, None)

    def _is_suspect(self, parcel: Parcel) -> bool:
        return time.monotonic() - self._suspects.get(parcel.reason, -1e9) < self._suspicion
