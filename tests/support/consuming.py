"""Events to consume, consumers to run, and a broker's queue made of a list."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from consumers.base import DONE, ConsumerSettings, Delivery, Handler, Observer, Outcome, run
from consumers.base.broker.inbox import Inbox
from consumers.base.broker.line import Line
from consumers.base.broker.sender import Sender
from consumers.base.errors import Lost
from consumers.base.reading.letter import Letter
from eventbus.events import envelope, naming

STANDARD = {"content_type": envelope.CONTENT_TYPE, "content_encoding": "utf-8", "delivery_mode": 2}
"""The AMQP properties that matter of an event as our publishers send it."""


def event_body(
    pk: Any = "ab12", version: int = 1, *, service: str = "crm", entity: str = "contact", op: str = "u"
) -> bytes:
    """A sealed event about a record."""
    model = f"{service}.{entity}"
    body = envelope.encode(
        id=f"t-{version}",
        source=f"/{service}",
        type=naming.routing_key(service, entity, op),
        subject=naming.subject(entity, pk),
        time="2026-11-23T08:00:00.123456Z",
        transaction="t",
        data={
            "op": op,
            "model": model,
            "pk": pk,
            "before": {},
            "after": None if op == "d" else {"id": pk, "phone": "+32"},
            "changed": ["phone"],
            "author": "u1",
            "transaction": {"id": "t", "index": 0, "size": 1},
        },
    )
    return envelope.seal(body, version)


def delivery(
    pk: Any = "ab12", version: int = 1, *, tag: int = 1, body: bytes | None = None, **properties: Any
) -> Delivery:
    """One as the broker would hand it over; `properties` are more AMQP properties."""
    content = event_body(pk, version) if body is None else body
    return Delivery(content, "crm.contact.updated", tag, properties={**STANDARD, **properties})


def publish(settings: ConsumerSettings, bodies: Sequence[bytes], *, key: str | None = None, **more: Any) -> None:
    """Send bodies through the exchange, confirmed, with their own type as routing key unless another is given.

    `more` are AMQP properties, None leaves one out.
    """
    properties = {name: value for name, value in {**STANDARD, **more}.items() if value is not None}
    sender = Sender(settings)
    try:
        sender.send([Letter(settings.exchange, key or _type(body), body, properties) for body in bodies])
    finally:
        sender.close()


def _type(body: bytes) -> str:
    found = re.search(rb'"type":"([a-z0-9._%-]{1,200})"', body)
    return found[1].decode() if found else "crm.contact.updated"


def ready(settings: ConsumerSettings, queue: str) -> int:
    """Messages that wait in a queue."""
    line = Line(settings)
    try:
        return int(line.channel().queue_declare(queue=queue, passive=True).message_count)
    finally:
        line.drop()


def remove(settings: ConsumerSettings, *, shards: int = 0) -> None:
    """Delete what `topology.declare` made, but the dead-letter exchange that all share."""
    line = Line(settings)
    names = [settings.queue, *(f"{settings.queue}.{index}" for index in range(shards))]
    try:
        channel = line.channel()
        for name in (*names, naming.dead_letter_queue(settings.queue)):
            channel.queue_delete(queue=name)
        for name in (settings.exchange, f"{settings.queue}.shards"):
            channel.exchange_delete(exchange=name)
    finally:
        line.drop()


def wait_for(condition: Callable[[], bool], timeout: float = 15.0) -> None:
    """Return once the condition holds; AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Collector:
    """A handler that keeps what it got and says Done."""

    def __init__(self) -> None:
        self.versions: list[int] = []
        self.batches: list[int] = []

    def __call__(self, batch: Sequence[Delivery]) -> Sequence[Outcome]:
        self.batches.append(len(batch))
        self.versions.extend(each.event.version for each in batch)
        return [DONE] * len(batch)


class Moments(Observer):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.connections = 0
        self.losses: list[str] = []
        self.waits: list[str] = []
        self.dead: list[str] = []
        self.settled = 0
        self.turns = 0

    def connected(self) -> None:
        self.connections += 1

    def disconnected(self, reason: str) -> None:
        self.losses.append(reason)

    def turned(self) -> None:
        self.turns += 1

    def handled(self, count: int, seconds: float) -> None:
        self.settled += count

    def waiting(self, reason: str, seconds: float) -> None:
        self.waits.append(reason)

    def dead_lettered(self, reason: str) -> None:
        self.dead.append(reason)


class Running:
    """`with Running(settings, handler) as consumer`: a consumer in a thread, ended and checked when the block ends."""

    def __init__(self, settings: ConsumerSettings, handler: Handler) -> None:
        self.moments = Moments()
        self.exit_code: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(settings, handler))

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.moments.connections > 0 or self.exit_code is not None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int | None:
        """End it; its exit code."""
        self._stop.set()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "the consumer did not end"
        return self.exit_code

    def _run(self, settings: ConsumerSettings, handler: Handler) -> None:
        self.exit_code = run(settings, handler, stop=self._stop, observer=self.moments)


class ListInbox(Inbox):
    """A queue made of a list; what was taken and not acknowledged is in `held`. `lost`: all methods raise Lost."""

    def __init__(self, queue: list[Delivery]) -> None:
        self.queue = queue
        self.held: dict[Any, Delivery] = {}
        self.acknowledged: list[Any] = []
        self.discarded: list[Any] = []
        self.lost = False
        self.closed = False
        self.on_fetch: Callable[[], None] = lambda: None

    def _check(self) -> None:
        if self.lost:
            raise Lost("the test says so")

    def fetch(self, timeout: float, limit: int) -> list[Delivery]:
        self.on_fetch()
        self._check()
        taken = self.queue[:limit]
        del self.queue[:limit]
        self.held.update((each.tag, each) for each in taken)
        return taken

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self._check()
        for each in deliveries:
            del self.held[each.tag]
            self.acknowledged.append(each.tag)

    def discard(self, delivery: Delivery) -> None:
        self._check()
        del self.held[delivery.tag]
        self.discarded.append(delivery.tag)

    def tick(self) -> None:
        self._check()

    def beat(self) -> None:
        self._check()

    def waiting(self) -> int:
        self._check()
        return len(self.queue)

    def close(self) -> None:
        self._check()
        self.closed = True

    def drop(self) -> None:
        self.queue[:0] = self.held.values()
        self.held.clear()


@contextmanager
def fresh(url: str, unique: str, **more: Any) -> Iterator[ConsumerSettings]:
    """Settings with names of their own on this broker; all they name is removed at the end."""
    settings = ConsumerSettings(url=url, exchange=f"{unique}-events", queue=unique, **more)
    try:
        yield settings
    finally:
        if url.startswith("amqp"):
            remove(settings, shards=settings.shard.count if settings.shard else 0)
