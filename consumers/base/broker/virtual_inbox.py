"""The inbox on kombu's virtual transports: the embedded broker, and `memory://` in tests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, final

from kombu.transport import virtual

from consumers.base.broker import topology
from consumers.base.broker.inbox import Inbox
from consumers.base.broker.line import Line
from consumers.base.errors import setting_up, talking
from consumers.base.reading.delivery import Delivery
from consumers.base.settings import ConsumerSettings
from consumers.base.working.tally import Tally
from eventbus.transports.raw import RawMessage
from eventbus.transports.sqlite.neighbours import warn_of_others

_TAG: Final = "eventbus"
_LOOK_EVERY: Final = 3.0
"""Seconds after which exchange and bindings are made again, in case somebody deleted them."""
_PROBE_EVERY: Final = 1.0
"""Seconds without a delivery after which it is looked whether the queue is still there."""


class VirtualMessage(virtual.Message, RawMessage):
    """A message of kombu's own virtual transports, as it came."""


@final
class VirtualInbox(Inbox):
    """A consumer on a channel of its own. `browse` is as for the AMQP inbox."""

    def __init__(self, settings: ConsumerSettings, *, browse: str | None = None) -> None:
        self._settings = settings
        self._queue = browse or settings.queue_name
        self._prefetch = 0 if browse else settings.prefetch
        self._arrived: list[Delivery] = []
        self._arrived_bytes = 0
        self._tally = Tally()
        self._line = Line(settings)
        try:
            if not browse:
                topology.declare(self._line, settings)
                if settings.broker_file is not None:
                    warn_of_others(settings.url)
            with setting_up():
                self._start()
        except BaseException:
            self.drop()
            raise

    def _start(self) -> None:
        self._channel = self._line.channel()
        self._numbered = not isinstance(self._channel, virtual.Channel)
        if not self._numbered:
            self._channel.Message = VirtualMessage
            self._channel.do_restore = True  # memory:// would forget what is not acknowledged
        self._channel.basic_qos(0, self._prefetch, False)
        self.standing_by = self._channel.queue_declare(queue=self._queue, passive=True).consumer_count > 0
        self._channel.basic_consume(queue=self._queue, no_ack=False, callback=self._arrive, consumer_tag=_TAG)
        self._last_sign = self._look_at = time.monotonic()
        # memory:// is one process, and nobody else's.
        self._looks = self._numbered and self._queue == self._settings.queue_name

    def _arrive(self, message: Any) -> None:
        body = message.body
        if not isinstance(body, bytes):
            body = str(body or "").encode("utf-8", "surrogatepass")
        info = message.delivery_info
        self._arrived_bytes += len(body)
        self._arrived.append(
            Delivery(
                body,
                info.get("routing_key") or "",
                message.delivery_tag,
                bool(info.get("redelivered")),
                exchange=info.get("exchange") or "",
                properties=_properties(message),
            )
        )

    def fetch(self, timeout: float, limit: int) -> list[Delivery]:
        with talking():
            if not self._arrived:
                self._drain(timeout)
            while self._arrived and len(self._arrived) < limit and self._has_room() and self._drain(0):
                pass
            if not self._arrived and time.monotonic() - self._last_sign > _PROBE_EVERY:
                self._probe()
        taken, self._arrived = self._arrived[:limit], self._arrived[limit:]
        if taken:
            self._last_sign = time.monotonic()
            self._arrived_bytes -= sum(len(delivery.body) for delivery in taken)
        return taken

    def _drain(self, timeout: float) -> bool:
        try:
            self._line.drain(timeout)
        except TimeoutError:
            return False
        return True

    def _has_room(self) -> bool:
        return self._arrived_bytes < self._settings.batch_bytes

    def _probe(self) -> int:
        self._last_sign = time.monotonic()
        answer = self._channel.queue_declare(queue=self._queue, passive=True)
        return int(answer.message_count)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        with talking():
            if self._numbered:
                upto, single = self._tally.settle(delivery.tag for delivery in deliveries)
                if upto is not None:
                    self._channel.basic_ack(upto, multiple=True)
            else:
                single = [delivery.tag for delivery in deliveries]
            for tag in single:
                self._channel.basic_ack(tag)

    def discard(self, delivery: Delivery) -> None:
        with talking():
            self._tally.settle([delivery.tag] if self._numbered else [])
            self._channel.basic_reject(delivery.tag, requeue=False)

    def tick(self) -> None:
        now = time.monotonic()
        if self._looks and now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            topology.declare_again(self._line, self._settings)

    def beat(self) -> None:
        """Virtual transports have no heartbeats."""

    def waiting(self) -> int:
        with talking():
            return self._probe() + len(self._arrived)

    def close(self) -> None:
        with talking():
            self._channel.basic_cancel(_TAG)
            self._line.close()

    def drop(self) -> None:
        self._line.drop()


def _properties(message: Any) -> dict[str, Any]:
    known = {"content_type": message.content_type, "content_encoding": message.content_encoding}
    return {
        **{name: value for name, value in message.properties.items() if name not in _INTERNAL},
        **{name: value for name, value in known.items() if value},
        "application_headers": message.headers,
    }


_INTERNAL: Final = ("delivery_info", "delivery_tag", "body_encoding")
