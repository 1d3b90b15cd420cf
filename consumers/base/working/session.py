"""The life of one connection: fetch, read, handle, settle."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final

from consumers.base.broker.inbox import Inbox
from consumers.base.broker.pulse import Pulse
from consumers.base.errors import Stalled, Taken
from consumers.base.observer import Observer
from consumers.base.reading.delivery import Delivery
from consumers.base.reading.part import settled
from consumers.base.reading.screen import Screen
from consumers.base.settings import ConsumerSettings
from consumers.base.working.dead_letter_box import DeadLetterBox
from consumers.base.working.worklist import Handler, Worklist
from eventbus.backoff import Backoff
from eventbus.errors import BadEvent, counted
from eventbus.monitoring.tracing import processed
from eventbus.redaction import shown

_IDLE: Final = 0.5
"""Seconds to wait for a delivery before looking whether to stop."""
_DRAINED: Final = 0.05
"""The same while draining, where no delivery means that the end is near."""
_TICK: Final = 1.0
FIRST_RETRY: Final = 0.1
LONGEST_RETRY: Final = 30.0
_SLICE: Final = 1 << 20
"""Bytes of bodies that are read and handled at a time: once read, a body of brackets takes twenty times as much."""
_LONGEST_TRIAL: Final = 5.0
"""Seconds between two tries while the delivery at fault is looked for; more would keep the innocent waiting."""

logger = logging.getLogger(__name__)


class Stop(Protocol):
    """Says when to end, as a `threading.Event` does."""

    def is_set(self) -> bool:
        """Whether to end now."""

    def wait(self, timeout: float) -> bool:
        """Sleep, but not beyond the end."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What outlives a connection."""

    settings: ConsumerSettings
    handler: Handler
    screen: Screen
    box: DeadLetterBox
    observer: Observer
    stop: Stop


@final
class Session:
    """Deliveries are handled in the order of the queue, a batch at a time; while the handler wants some of them again,
    nothing new is taken. Every method may raise Lost: then all that was not acknowledged comes again, on another
    connection.
    """

    def __init__(self, inbox: Inbox, parts: Parts) -> None:
        self._inbox = inbox
        self._parts = parts
        self._pulse = Pulse(max(1.0, parts.settings.heartbeat / 3), inbox.beat)
        self._ticked = time.monotonic()
        self._standing_by = inbox.standing_by
        self._draining = False
        self._began = time.monotonic()
        self.progress_at = 0.0
        """When something was settled for the last time, or the handler was at work."""
        self.work = Worklist(parts.handler, [])
        """The batch at hand. After Lost, what is pending of it waits for the handler, not for the broker."""

    def run(self, *, drain: bool) -> None:
        """Return once told to stop or, with `drain`, once the queue is empty and everything settled.

        To drain what another consumer has would end at once and leave nothing here: Taken says so.
        """
        if drain and self._standing_by:
            raise Taken(
                f"another consumer has the queue {self._parts.settings.queue_name}: what is in it goes there. End that "
                "one first, or use a queue of another name"
            )
        self._draining = drain
        self._announce()
        seen_empty = False
        while not self._parts.stop.is_set():
            self._demand_progress()
            if self._step(_DRAINED if drain else _IDLE):
                seen_empty = False
            elif drain and self._is_empty():
                # Twice in a row: what a consumer before us held may be on its way back into the queue.
                if seen_empty:
                    return
                seen_empty = True

    def _demand_progress(self) -> None:
        """A queue without a leader, or whose dead letters nobody takes, would be drained for ever."""
        if not self._draining:
            return
        patience = self._parts.settings.drain_patience
        if time.monotonic() - max(self._began, self.progress_at) > patience:
            what = "no dead letter was taken" if self._parts.box else "messages wait, but none was handed over"
            raise Stalled(f"queue {self._parts.settings.queue_name}: {what} for {patience:.0f} s")

    def close(self) -> None:
        """End the helpers; the inbox is its owner's."""
        self._pulse.close()

    def _step(self, timeout: float) -> bool:
        """Settle one batch; False where there was nothing to do."""
        self._tick()
        self._post()
        parts = self._parts
        if parts.box.full:
            parts.stop.wait(timeout)
            return True
        batch = self._inbox.fetch(timeout, parts.settings.max_batch)
        if not batch:
            if not self._standing_by:
                parts.observer.caught_up()
            return False
        if self._standing_by:
            self._standing_by = False
            self._announce()
        for part in _slices(batch):
            self._settle(part)
            part.clear()
            self._await_room()
            if parts.stop.is_set():
                break
        return True

    def _await_room(self) -> None:
        """One message may leave a thousand letters: no more of them are made than the box is for."""
        while self._parts.box.full and not self._parts.stop.is_set():
            self._demand_progress()
            self._sleep(_IDLE)
            self._post()

    def _settle(self, batch: Sequence[Delivery]) -> None:
        good = self._sift(batch)
        most = self._parts.settings.max_batch
        for start in range(0, len(good), most):  # batches on the wire may hold more events than one call is to have
            self.work = Worklist(self._parts.handler, good[start : start + most])
            self._handle(self.work)
            self.progress_at = time.monotonic()
            if self._parts.stop.is_set():
                break
        self._post()

    def _announce(self) -> None:
        settings = self._parts.settings
        text = "standing by: another consumer has this queue" if self._standing_by else "consuming"
        logger.info(
            "%s: queue %s at %s",
            text,
            settings.queue_name,
            settings.broker,
            extra={"event": text, "queue": settings.queue_name, "broker": settings.broker},
        )

    def _is_empty(self) -> bool:
        return not self._parts.box and self._inbox.waiting() == 0

    def _sift(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """The deliveries that are events; the others are on their way to the dead letters."""
        sift = self._parts.screen.sift
        good: list[Delivery] = []
        for delivery in batch:
            sifted = sift(delivery)
            good += sifted.good
            for part, fault in sifted.bad:
                self._refuse(part, fault)
        return good

    def _refuse(self, delivery: Delivery, fault: BadEvent) -> None:
        if len(delivery.body) == delivery.size:
            self._parts.box.put(delivery, fault)
        else:
            logger.warning("dead-lettered unread: %s", shown(fault))
            self._inbox.discard(delivery)
            self._parts.observer.dead_lettered(fault.reason)

    def _handle(self, work: Worklist) -> None:
        backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        while work.pending and not self._parts.stop.is_set():
            reason = self._turn(work)
            if reason is None:
                return
            pause = min(backoff.next(), _LONGEST_TRIAL if work.isolating else LONGEST_RETRY)
            logger.warning(
                "%s for %.1f s: %s",
                f"{counted(len(work.pending), 'delivery')} wait",
                pause,
                shown(reason),
                extra={"deliveries": len(work.pending), "pause": round(pause, 3)},
            )
            self._parts.observer.waiting(reason, pause)
            self._sleep(pause)
            if work.isolating:
                self._call_witnesses(work)

    def _turn(self, work: Worklist) -> str | None:
        """Give the batch to the handler once, settle what it settled; why some of it waits."""
        started = time.monotonic()
        with self._pulse, processed(self._parts.settings.queue_name, (each.event.traceparent for each in work.pending)):
            turn = work.turn()
        if turn.done:
            self._acknowledge(turn.done)
            self._parts.observer.handled(len(turn.done), time.monotonic() - started)
        for delivery, reason in turn.dead:
            self._parts.box.put(delivery, BadEvent(reason))
        return turn.waiting

    def _call_witnesses(self, work: Worklist) -> None:
        """Whether a delivery or the handler is at fault shows when it is given others."""
        room = self._parts.settings.max_batch - len(work.pending)
        if room > 0:
            work.add(self._sift(self._inbox.fetch(0, room)))
        self._post()

    def _post(self) -> None:
        posted = self._parts.box.post()
        if posted:
            self._acknowledge(posted)
            self.progress_at = time.monotonic()

    def _acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        if messages := settled(deliveries):
            self._inbox.acknowledge(messages)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._parts.stop.wait(min(left, _TICK)):
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._ticked >= _TICK:
            self._ticked = now
            self._inbox.tick()
            self._parts.observer.turned()


def _slices(batch: list[Delivery]) -> Iterator[list[Delivery]]:
    """The batch in parts of some size, each let go of before the next one; `batch` is empty afterwards."""
    batch.reverse()
    while batch:
        part: list[Delivery] = []
        size = 0
        while batch and (not part or size + len(batch[-1].body) <= _SLICE):
            size += len(batch[-1].body)
            part.append(batch.pop())
        yield part
