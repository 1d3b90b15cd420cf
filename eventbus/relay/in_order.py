"""Strict ordering: the relay as the only publisher."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal, final

from eventbus.backoff import Backoff
from eventbus.delivery.account import DATABASE_ERRORS
from eventbus.delivery.news import News
from eventbus.delivery.parcel import Parcel, deliver
from eventbus.delivery.parking import unreadable
from eventbus.delivery.tempo import Tempo
from eventbus.errors import BrokerUnavailable
from eventbus.outbox import Row, Store
from eventbus.outbox.queries import brief
from eventbus.publishers.base import Outcome, Publisher
from eventbus.redaction import redact
from eventbus.relay.parked import Parked
from eventbus.relay.rounds import rounds

_TRIES: Final = 4
_POLL: Final = 0.05
_MOMENT: Final = 0.5

logger = logging.getLogger(__name__)


@final
class InOrder:
    """Strict ordering: rows by id; a record's event never leaves before the one ahead of it is confirmed.

    Each page is read from the start: what was dealt with is gone from there, and a transaction that commits late has
    a lower id than those seen before it. Events confirmed together are all of different records. A row that the broker
    does not take stays where it is, with all that follows of its records, and is tried some times more; then it is
    parked, and they behind it. So one record never stops the others for long.

    `active` says whether this relay is still the one to publish, and is asked before each round. `unroutable="drop"`
    gives up what no queue takes.
    """

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        tempo: Tempo,
        *,
        active: Callable[[], bool] = lambda: True,
        unroutable: Literal["keep", "drop"] = "keep",
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._active = active
        self._drop = unroutable == "drop"
        self._parked = Parked(store, publisher, tempo, active=active, drop=self._drop)
        self._backoff = Backoff(first=0.1, limit=5.0)
        self._tries: dict[int, int] = {}
        self._retry_at: dict[int, float] = {}
        self._suspects: dict[str, float] = {}
        self._suspicion = tempo.parked
        self._news = News()
        self._tick_at = 0.0
        self._failing = False
        self._delivered = 0
        self.trouble: str | None = None

    @property
    def delivered(self) -> int:
        """Events, so far."""
        return self._delivered + self._parked.delivered

    @property
    def parked(self) -> int:
        """Rows, as last counted."""
        return self._parked.rows

    def work(self) -> bool:
        """One page; whether nothing is left to do for now."""
        try:
            if self._failing:
                self._store.close()  # a server that became a replica stays one
            done = self._step()
        except DATABASE_ERRORS as error:
            if self._news.is_new(brief(error)):
                logger.warning("the outbox cannot be reached: %s", brief(error))
            self._failing = True
            time.sleep(_MOMENT)
            return False
        except BrokerUnavailable as error:
            if self._news.is_new(f"{error.trouble}: {redact(str(error))}"):
                logger.warning("the broker %s, events wait: %s", error.trouble, redact(str(error)))
            self.trouble = redact(str(error))
            time.sleep(self._backoff.next())
            return False
        self._failing = False
        self.trouble = None
        self._news.over()
        self._backoff.reset()
        return done

    def close(self) -> None:
        """Let go of broker and database."""
        self._publisher.close()
        try:
            self._store.close()
        except DATABASE_ERRORS:
            logger.debug("closing the outbox's connection failed", exc_info=True)

    def _step(self) -> bool:
        held = self._parked.load()
        if held is None:
            self._rest()
            return True  # the database has no outbox yet
        rows = self._store.read()
        moved = self._send_page(self._readable(rows))
        self._parked.work()
        if not moved and not self._parked.passing:
            self._rest()
        return not rows and not self._parked.passing

    def _rest(self) -> None:
        time.sleep(_POLL)
        if time.monotonic() >= self._tick_at:
            self._publisher.tick()
            self._tick_at = time.monotonic() + 1.0

    def _send_page(self, parcels: list[Parcel]) -> bool:
        """Whether anything left the outbox."""
        moved = False
        waiting: set[str] = set()
        for some in rounds(parcels):
            if not self._active():
                break
            moved = self._send([parcel for parcel in some if self._is_due(parcel, waiting)], waiting) or moved
        return moved

    def _is_due(self, parcel: Parcel, waiting: set[str]) -> bool:
        """Whether it is this row's turn. If not, it is not that of its records either: they join those `waiting`.

        All of them, also those whose events were confirmed: after a crash the row is sent once more, as a whole.
        """
        subjects = parcel.subjects
        if waiting.isdisjoint(subjects) and time.monotonic() >= self._retry_at.get(parcel.version, 0.0):
            return True
        waiting.update(subjects)
        return False

    def _send(self, parcels: list[Parcel], waiting: set[str]) -> bool:
        assert self._parked.held is not None
        subjects = {parcel.version: parcel.subjects for parcel in parcels}
        held = [part for parcel in parcels if (part := parcel.hold_back(self._parked.held)) is not None]
        for part in held:
            part.reason = "waits for an earlier event of its record"
        tried = [parcel for parcel in parcels if len(parcel)]
        before = sum(len(parcel) for parcel in tried)
        lost = None
        try:
            deliver(self._publisher, tried)
        except BrokerUnavailable as error:
            lost = error
        self._delivered += before - sum(len(parcel) for parcel in tried)
        refused = self._give_up([parcel for parcel in tried if len(parcel)])
        settled = {parcel.version for parcel in refused}
        for parcel in tried:
            if len(parcel) and parcel.version not in settled:
                waiting.update(subjects.pop(parcel.version))
        moved = self._put_away([parcel for parcel in parcels if parcel.version in subjects], refused, held)
        if moved:
            self._backoff.reset()
        if lost is not None:
            # Also where the broker closed the channel for the sake of one message: it is counted as refused.
            raise lost
        return moved

    def _give_up(self, left: list[Parcel]) -> list[Parcel]:
        """Count the refusals, over all steps; those that were refused often enough."""
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

    def _is_suspect(self, parcel: Parcel) -> bool:
        """Whether such events were parked a moment ago: then each of them is tried once, not again and again."""
        return time.monotonic() - self._suspects.get(parcel.reason, -1e9) < self._suspicion

    def _put_away(self, parcels: list[Parcel], refused: list[Parcel], held: list[Parcel]) -> bool:
        """Delete and park what is dealt with; whether that was anything."""
        done = {parcel.version for parcel in parcels}
        park = {part.version: part for part in held if part.version in done}
        for parcel in refused:
            if not self._is_suspect(parcel):
                logger.warning("events are parked in the outbox: %s", parcel.reason, extra={"row": parcel.version})
            self._suspect(parcel)
            earlier = park.get(parcel.version)
            park[parcel.version] = parcel if earlier is None else parcel.joined(earlier)
        self._store.delete([row_id for row_id in done if row_id not in park])
        if self._active():  # or another one may have sent them by now
            self._parked.add(list(park.values()))
        for row_id in done:
            self._tries.pop(row_id, None)
            self._retry_at.pop(row_id, None)
        return bool(done)

    def _suspect(self, parcel: Parcel) -> None:
        if len(self._suspects) > 1000:
            self._suspects.clear()
        self._suspects[parcel.reason] = time.monotonic()

    def _readable(self, rows: Iterable[Row]) -> list[Parcel]:
        parcels = []
        for row in rows:
            try:
                parcels.append(Parcel.of_payload(row.id, row.payload))
            except ValueError as error:
                logger.exception("a row of the outbox is not readable", extra={"id": row.id})
                self._store.parked.add([unreadable(row, error)])
        return parcels
