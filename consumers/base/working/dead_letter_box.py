"""Deliveries that nobody can take, on their way to the dead-letter queue."""

from __future__ import annotations

import logging
import time
from typing import Final, final

from consumers.base.broker.sender import Sender
from consumers.base.errors import Lost
from consumers.base.observer import Observer
from consumers.base.reading.delivery import Delivery
from consumers.base.reading.letter import dead_letter
from consumers.base.settings import ConsumerSettings
from eventbus.backoff import Backoff
from eventbus.errors import BadEvent, counted
from eventbus.redaction import shown

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0

logger = logging.getLogger(__name__)


@final
class DeadLetterBox:
    """Holds them, unacknowledged, until the broker has confirmed their letters.

    A broker that takes no letters for a while (no room, no leader) does not stop the good ones: sending is tried again
    now and then, and the box says when it is full.
    """

    def __init__(self, settings: ConsumerSettings, sender: Sender, observer: Observer) -> None:
        self._settings = settings
        self._sender = sender
        self._observer = observer
        self._held: list[tuple[Delivery, BadEvent]] = []
        self._bytes = 0
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether no more deliveries should be fetched until some of these are gone."""
        return len(self._held) >= self._settings.max_batch or self._bytes >= self._settings.batch_bytes

    def put(self, delivery: Delivery, fault: BadEvent) -> None:
        """Take one in."""
        self._held.append((delivery, fault))
        self._bytes += len(delivery.body)

    def post(self) -> list[Delivery]:
        """Send what is held, if it is time to; the deliveries that may now be acknowledged."""
        if not self._held:
            self._sender.tick()
        if not self._held or time.monotonic() < self._due:
            return []
        settings = self._settings
        try:
            self._sender.send(
                [
                    dead_letter(
                        delivery,
                        fault,
                        queue=settings.queue_name,
                        key=settings.queue,
                        own_user=settings.validated_user,
                    )
                    for delivery, fault in self._held
                ]
            )
        except Lost as error:
            pause = self._backoff.next()
            self._due = time.monotonic() + pause
            logger.warning("%s not sent: %s", counted(len(self), "dead letter"), error.told, extra={"pause": pause})
            return []
        self._backoff.reset()
        return self._sent()

    def _sent(self) -> list[Delivery]:
        sent, self._held, self._bytes = self._held, [], 0
        for delivery, fault in sent:
            logger.warning(
                "dead-lettered %s (%s): %s",
                delivery.digest[:12],
                counted(delivery.size, "byte"),
                shown(fault),
                extra={"sha256": delivery.digest, "bytes": delivery.size},
            )
            self._observer.dead_lettered(fault.reason)
        return [delivery for delivery, _ in sent]
