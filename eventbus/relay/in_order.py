"""The relay as the only publisher, of rows that services leave to it or, with strict ordering, of all: in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal, final

from eventbus.backoff import Backoff
from eventbus.delivery.news import News
from eventbus.delivery.outboxes.account import DATABASE_ERRORS
from eventbus.delivery.outboxes.parking import unreadable
from eventbus.delivery.parcel import Parcel, deliver
from eventbus.delivery.tempo import Tempo
from eventbus.errors import BrokerUnavailable
from eventbus.outbox import Row, Store
from eventbus.outbox.queries import brief
from eventbus.publishers.base import Publisher
from eventbus.redaction import redact
from eventbus.relay.pages import Pages
from eventbus.relay.parked import Parked
from eventbus.relay.refused import Refused
from eventbus.relay.rounds import rounds

_POLL: Final = 0.05
_MOMENT: Final = 0.5

logger = logging.getLogger(__name__)


@final
class InOrder:
    """Rows by id; a record's event never leaves before the one ahead of it is confirmed.

    Events confirmed together are all of different records. A row that the broker does not take stays where it is, with
    all that follows of its records, and is tried some times more; then it is parked, and they behind it. So one record
    never stops the others for long.

    `everything`: all rows there are, and not only those for the relay. `active` says whether this relay is still the
    one to publish, and is asked before each round. `unroutable="drop"` gives up what no queue takes.
    """

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        tempo: Tempo,
        *,
        everything: bool = True,
        active: Callable[[], bool] = lambda: True,
        unroutable: Literal["keep", "drop"] = "keep",
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._active = active
        drop = unroutable == "drop"
        self._pages = Pages(store, everything=everything)
        self._parked = Parked(store, publisher, tempo, active=active, drop=drop, everything=everything)
        self._refused = Refused(drop=drop, suspicion=tempo.parked)
        self._backoff = Backoff(first=0.1, limit=5.0)
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
            self._pages.close()
            self._store.close()
        except DATABASE_ERRORS:
            logger.debug("closing the outbox's connection failed", exc_info=True)

    def _step(self) -> bool:
        held = self._parked.load()
        if held is None:
            self._rest(_POLL)
            return True  # the database has no outbox yet
        rows = self._pages.next()
        moved = self._send_page(self._readable(rows))
        self._parked.work()
        if not moved and not self._parked.passing:
            self._rest(_POLL if rows else self._pages.pause)
        return not rows and not self._parked.passing

    def _rest(self, seconds: float) -> None:
        time.sleep(seconds)
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
        if waiting.isdisjoint(subjects) and self._refused.is_due(parcel.version):
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
        refused = self._refused.give_up([parcel for parcel in tried if len(parcel)])
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

    def _put_away(self, parcels: list[Parcel], refused: list[Parcel], held: list[Parcel]) -> bool:
        """Delete and park what is dealt with; whether that was anything."""
        done = {parcel.version for parcel in parcels}
        park = {part.version: part for part in held if part.version in done}
        for parcel in refused:
            self._refused.tell(parcel)
            earlier = park.get(parcel.version)
            park[parcel.version] = parcel if earlier is None else parcel.joined(earlier)
        self._pages.delete(row_id for row_id in done if row_id not in park)
        if self._active():  # or another one may have sent them by now
            self._parked.add(list(park.values()))
        self._refused.forget(done)
        return bool(done)

    def _readable(self, rows: Iterable[Row]) -> list[Parcel]:
        parcels = []
        for row in rows:
            try:
                parcels.append(Parcel.of_payload(row.id, row.payload))
            except ValueError as error:
                logger.exception("a row of the outbox is not readable", extra={"id": row.id})
                self._store.parked.add([unreadable(row, error)])
        return parcels
