"""The inbox on a broker that speaks AMQP 0-9-1."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, final

from consumers.base.broker import topology
from consumers.base.broker.inbox import Inbox
from consumers.base.broker.line import Line
from consumers.base.errors import Lost, needing, setting_up, talking
from consumers.base.reading.delivery import Delivery
from consumers.base.reading.wire import FrameReader
from consumers.base.settings import ConsumerSettings
from consumers.base.working.tally import Tally

PROBE_EVERY: Final = 5.0
"""Seconds without a delivery after which the broker is asked whether it still knows this consumer."""

LOOK_EVERY: Final = 10.0
"""Seconds after which exchange and bindings are made again, in case somebody deleted them: nobody would tell."""

_KEPT_BODIES: Final = 16 << 20
"""Bytes; of a larger body only the size is kept. RabbitMQ 4 takes none larger, older versions up to 128 MiB."""


_LONG_BODY: Final = 5.0
"""Seconds to go on reading, beyond the wait, while parts of a large body keep coming."""


@final
class AmqpInbox(Inbox):
    """A consumer on a channel of its own, with a second channel for questions.

    A consumer that has silently ceased to be one is told from an idle one by four signs: the driver knows its tag no
    more (cancelled by the broker), its channel is closed (the driver would open it again, without the consumer), the
    broker says the queue is gone or has no consumer, or says nothing at all. Each ends in Lost.

    An exchange or binding that somebody deleted leaves no sign at all, so they are made again now and then.

    `browse` names another queue to read instead: nothing is declared then, and any number may be unacknowledged.
    """

    def __init__(self, settings: ConsumerSettings, *, browse: str | None = None) -> None:
        self._settings = settings
        self._queue = browse or settings.queue_name
        self._look_at: float | None = None if browse else time.monotonic() + LOOK_EVERY
        self._prefetch = 0 if browse else settings.prefetch
        self._arrived: deque[Delivery] = deque()
        self._arrived_bytes = 0
        self._closing = False
        self._tally = Tally()
        self._line = Line(settings, heartbeat=settings.heartbeat)
        self._connection = self._line.driver
        try:
            if not browse:
                topology.declare(self._line, settings)
            with setting_up():
                self._start()
        except BaseException:
            self.drop()
            raise

    def _start(self) -> None:
        self._questions: Any = self._line.channel()
        self._channel: Any = self._line.channel()
        self._reader = FrameReader(
            self._connection,
            self._channel.channel_id,
            self._arrive,
            keep=max(_KEPT_BODIES, self._settings.limits.body),
            patience=self._settings.patience,
        )
        self._channel.basic_qos(0, self._prefetch, False)
        self._channel._do_revive = self._stay_closed
        self.standing_by = self._questions.queue_declare(queue=self._queue, passive=True).consumer_count > 0
        with needing(f"read on queue {self._queue}"):
            self._tag = self._channel.basic_consume(self._queue, callback=_never, on_cancel=_cancelled)
        self._last_sign = time.monotonic()

    def _stay_closed(self) -> None:
        self._channel.is_open = False

    def _arrive(self, delivery: Delivery) -> None:
        if self._closing:
            return  # it goes back; a whole prefetch of large bodies must not pile up while we say goodbye
        self._arrived.append(delivery)
        self._arrived_bytes += len(delivery.body)

    def fetch(self, timeout: float, limit: int) -> list[Delivery]:
        with talking():
            end = time.monotonic() + max(timeout, _LONG_BODY)
            while not self._arrived and self._reader.read(timeout) and time.monotonic() < end:
                pass
            while len(self._arrived) < limit and self._has_room() and self._reader.read(0):
                pass
        self._check_consumer()
        if not self._arrived:
            return []
        self._last_sign = time.monotonic()
        return self._take(limit)

    def _has_room(self) -> bool:
        return self._arrived_bytes < self._settings.batch_bytes

    def _take(self, limit: int) -> list[Delivery]:
        arrived = self._arrived
        if len(arrived) <= limit:
            taken = list(arrived)
            arrived.clear()
            self._arrived_bytes = 0
        else:
            taken = [arrived.popleft() for _ in range(limit)]
            self._arrived_bytes -= sum(len(delivery.body) for delivery in taken)
        return taken

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        upto, single = self._tally.settle(delivery.tag for delivery in deliveries)
        with talking():
            if upto is not None:
                self._channel.basic_ack(upto, multiple=True)
            for tag in single:
                self._channel.basic_ack(tag)

    def discard(self, delivery: Delivery) -> None:
        self._tally.settle([delivery.tag])
        with talking():
            self._channel.basic_reject(delivery.tag, requeue=False)

    def tick(self) -> None:
        with talking():
            if self._has_room():
                # What came while nobody read counts as a sign of life, so read before judging.
                self._reader.read(0)
                self._connection.heartbeat_tick()
            else:
                self._connection.send_heartbeat()
        self._check_consumer()
        now = time.monotonic()
        if now - self._last_sign > PROBE_EVERY:
            self._probe()
        if self._look_at is not None and now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            topology.declare_again(self._line, self._settings)
            self._check_consumer()

    def _check_consumer(self) -> None:
        if not self._channel.is_open or self._tag not in self._channel.callbacks:
            _cancelled(self._tag)

    def _probe(self) -> tuple[int, int]:
        """Messages that are ready and consumers, as the broker knows them."""
        with talking():
            answer = self._questions.queue_declare(queue=self._queue, passive=True)
        self._check_consumer()
        self._last_sign = time.monotonic()
        if answer.consumer_count == 0:
            raise Lost("the broker knows of no consumer of the queue")
        return answer.message_count, answer.consumer_count

    def beat(self) -> None:
        self._connection.send_heartbeat()

    def waiting(self) -> int:
        return self._probe()[0] + len(self._arrived)

    def close(self) -> None:
        self._closing = True
        try:
            with talking():
                self._channel.basic_cancel(self._tag)
                self._line.close()
        finally:
            self.drop()

    def drop(self) -> None:
        self._line.drop()


def _cancelled(tag: str) -> None:
    raise Lost(f"the broker ended the consumer {tag}: its queue was deleted or moved, or it held deliveries too long")


def _never(message: object) -> None:
    """For py-amqp, which wants a callback to know the consumer by; deliveries are read before they get to it."""
    raise AssertionError(message)
