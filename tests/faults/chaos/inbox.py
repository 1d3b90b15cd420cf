"""A queue of the checker's own, and all that reaches it."""

from __future__ import annotations

import contextlib
import threading
import time

import kombu
from amqp.exceptions import AMQPError

from eventbus.events.envelope import Event, decode


def declare(broker: str, name: str) -> None:
    """A queue and an exchange of that name."""
    with kombu.Connection(broker) as connection:
        exchange = kombu.Exchange(name, type="topic", durable=True)
        queue = kombu.Queue(name, exchange, routing_key="#", queue_arguments={"x-queue-type": "quorum"})
        queue(connection.default_channel).declare()


def remove(broker: str, name: str) -> None:
    """Delete queue and exchange, and a mirror's queues beside them."""
    with kombu.Connection(broker) as connection:
        for queue in (name, mirror_queue(name), f"{mirror_queue(name)}.dlq"):
            connection.default_channel.queue_delete(queue)
        connection.default_channel.exchange_delete(name)


def mirror_queue(name: str) -> str:
    return f"{name}-mirror"


class Inbox:
    """All that reaches the queue, in order, duplicates included; connects anew when the broker went."""

    def __init__(self, broker: str, queue: str) -> None:
        self._broker, self._queue = broker, queue
        self._bodies: list[bytes] = []
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def events(self) -> list[tuple[Event, bytes]]:
        return [(decode(body), body) for body in self._bodies]

    def until_quiet(self, seconds: float = 2.0, timeout: float = 300.0) -> None:
        """Return once nothing has come for so long, and nothing waits."""
        end = time.monotonic() + timeout
        while time.monotonic() - self._last < seconds or self._waiting():
            if time.monotonic() > end:
                raise TimeoutError("the queue does not become empty")
            time.sleep(0.1)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _waiting(self) -> int:
        with kombu.Connection(self._broker) as connection:
            answer = connection.default_channel.queue_declare(queue=self._queue, passive=True)
        return int(answer.message_count)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError, AMQPError):
                self._consume()
            self._stop.wait(0.3)

    def _consume(self) -> None:
        with kombu.Connection(self._broker, connect_timeout=5, heartbeat=10) as connection:
            channel = connection.channel()
            channel.basic_qos(0, 500, False)
            queue = kombu.Queue(self._queue, channel=channel, no_declare=True)
            beat = time.monotonic()
            with kombu.Consumer(channel, [queue], on_message=self._take, accept=None):
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        connection.drain_events(timeout=0.2)
                    if time.monotonic() - beat > 2:
                        beat = time.monotonic()
                        connection.heartbeat_check()

    def _take(self, message: kombu.Message) -> None:
        body = message.body
        self._bodies.append(body if isinstance(body, bytes) else bytes(body, "utf-8"))
        self._last = time.monotonic()
        message.ack()
