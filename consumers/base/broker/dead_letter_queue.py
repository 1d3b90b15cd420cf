"""The dead letters of one queue, to be looked at, sent again or thrown away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, final

from amqp.exceptions import NotFound

from consumers.base.broker.amqp_inbox import AmqpInbox
from consumers.base.broker.inbox import Inbox
from consumers.base.broker.line import Line, is_amqp
from consumers.base.broker.sender import Sender
from consumers.base.broker.virtual_inbox import VirtualInbox
from consumers.base.errors import NoQueue, setting_up
from consumers.base.reading import letter
from consumers.base.reading.delivery import Delivery
from consumers.base.reading.letter import Letter
from consumers.base.settings import ConsumerSettings
from eventbus.errors import BadEvent
from eventbus.events.envelope import Event, Limits, decode
from eventbus.events.naming import dead_letter_queue

_GROUP: Final = 1000
_GROUP_BYTES: Final = 32 << 20
"""Letters, and bytes of their bodies, that are sent again together, in the order of their versions."""
_QUIET: Final = 2.0
"""Seconds without another letter after which the rest is taken to be in somebody else's hands."""
_RETURN: Final = 2.0
"""Seconds the broker has for putting back what was only looked at."""
_OUR_HEADERS: Final = (letter.REASON, letter.DETAIL, letter.TIME, letter.QUEUE, letter.DIGEST)
_BROKERS_REASONS: Final = {
    "delivery_limit": "delivered too often",
    "rejected": "body too large, refused unread",
    "expired": "expired in the queue",
    "maxlen": "queue was full",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One dead letter. `event` is None where the body is no event; `digest` is the SHA-256 of the body, in hex."""

    delivery: Delivery
    digest: str
    event: Event | None

    @property
    def reason(self) -> str:
        """Why it is here: our words, or the broker's where the broker put it here by itself."""
        said = self.delivery.headers.get(letter.REASON)
        return str(said) if said else _BROKERS_REASONS.get(str(self._death.get("reason")), "unknown")

    @property
    def detail(self) -> str:
        """More about the reason, often empty."""
        return str(self.delivery.headers.get(letter.DETAIL, ""))

    @property
    def time(self) -> str:
        """When it was put here; ISO 8601, empty if unknown."""
        said = self.delivery.headers.get(letter.TIME) or self._death.get("time") or ""
        return said.isoformat() if isinstance(said, datetime) else str(said)

    @property
    def queue(self) -> str | None:
        """The queue it came from, None if nobody says."""
        said = self.delivery.headers.get(letter.QUEUE) or self._death.get("queue")
        return said if isinstance(said, str) else None

    @property
    def attempts(self) -> int:
        """How often it has become a dead letter."""
        said = self.delivery.headers.get(letter.ATTEMPTS)
        return said if type(said) is int else 1

    @property
    def whole(self) -> bool:
        """Whether the body was read; one of many MiB is not."""
        return len(self.delivery.body) == self.delivery.size

    @property
    def record(self) -> str:
        """`crm.contact/ab12`; empty where the body is no event."""
        return f"{self.event.model}/{self.event.record}" if self.event else ""

    @property
    def _death(self) -> Mapping[str, Any]:
        deaths = self.delivery.headers.get("x-death")
        first = deaths[0] if isinstance(deaths, list) and deaths else None
        return first if isinstance(first, dict) else {}


Choice = Callable[[Entry], bool]
Report = Callable[[int], None]
"""Told now and then how many letters are settled."""


class Retried(NamedTuple):
    """How many letters were sent again, and how many of those meant were left, as nobody can read them whole."""

    sent: int
    left: int


@final
class DeadLetterQueue:
    """Reads the letters that are there when it is asked; what comes later is left alone.

    Every method raises Lost where the broker cannot be reached, ConfigurationError where it will not be of use, and all
    but `count` NoQueue where there is none. Letters that somebody else is reading at the moment are not seen.
    """

    def __init__(self, settings: ConsumerSettings) -> None:
        self._settings = settings
        self.name = dead_letter_queue(settings.queue)

    def count(self) -> int | None:
        """How many letters there are; None where there is no such queue."""
        line = Line(self._settings)
        try:
            with setting_up():
                return _ready(line.channel(), self.name)
        finally:
            line.drop()

    def _count_or_raise(self) -> int:
        """A mistyped name must not look like a queue that is well."""
        found = self.count()
        if found is not None:
            return found
        consumer = self._settings.queue.removesuffix(dead_letter_queue(""))
        if consumer != self._settings.queue:
            raise NoQueue(f"there is no queue {self.name}: give the queue of the consumer, {consumer}")
        raise NoQueue(f"there is no queue {self.name}: no such consumer has run on this broker")

    def read(self, choose: Choice, limit: int | None = None) -> Iterator[Entry]:
        """The chosen letters, oldest first. They stay where they are."""
        with self._open() as inbox:
            if inbox is not None:
                yield from self._chosen(inbox, choose, limit)

    def retry(self, choose: Choice, limit: int | None = None, report: Report = lambda _: None) -> Retried:
        """Send the chosen letters to the queue they came from; each leaves here once the broker has confirmed it there.

        Older versions go first, within groups of a thousand letters; what is no event goes last. A body that was too
        large to be read is left alone: it would only come back.
        """
        sender = Sender(self._settings)
        left = 0

        def send(group: list[Entry]) -> None:
            sender.send([self._again(entry) for entry in group])

        def is_whole(entry: Entry) -> bool:
            nonlocal left
            left += not entry.whole
            return entry.whole

        try:
            return Retried(self._settle(lambda entry: choose(entry) and is_whole(entry), limit, send, report), left)
        finally:
            sender.close()

    def purge(self, choose: Choice, limit: int | None = None, report: Report = lambda _: None) -> int:
        """Throw the chosen letters away; how many there were."""
        return self._settle(choose, limit, lambda _group: None, report)

    def _settle(self, choose: Choice, limit: int | None, act: Callable[[list[Entry]], None], report: Report) -> int:
        count = 0
        with self._open() as inbox:
            if inbox is None:
                return 0
            for group in _grouped(self._chosen(inbox, choose, limit)):
                act(sorted(group, key=_version))
                inbox.acknowledge([entry.delivery for entry in group])
                self._kept -= len(group)
                count += len(group)
                report(count)
        return count

    @contextmanager
    def _open(self) -> Iterator[Inbox | None]:
        self._left = self._kept = self._count_or_raise()
        if not self._left:
            yield None
            return
        kind = AmqpInbox if is_amqp(self._settings.url) else VirtualInbox
        inbox: Inbox = kind(self._settings, browse=self.name)
        try:
            yield inbox
            inbox.close()
        finally:
            inbox.drop()
        # The broker puts them back after it has said goodbye: who looks again at once must not see fewer.
        end = time.monotonic() + _RETURN
        while (self.count() or 0) < self._kept and time.monotonic() < end:
            time.sleep(0.01)

    def _chosen(self, inbox: Inbox, choose: Choice, limit: int | None) -> Iterator[Entry]:
        found = 0
        while self._left > 0 and found != limit:
            deliveries = inbox.fetch(_QUIET, self._left)
            if not deliveries:
                return
            inbox.tick()
            self._left -= len(deliveries)
            for entry in map(_entry, deliveries):
                if choose(entry):
                    yield entry
                    found += 1
                    if found == limit:
                        return

    def _again(self, entry: Entry) -> Letter:
        given = letter.without_brokers_own(entry.delivery.headers)
        headers = {
            letter.ROUTING_KEY: letter.original_key(entry.delivery),
            letter.ATTEMPTS: entry.attempts,
            **{name: value for name, value in given.items() if name not in _OUR_HEADERS},
        }
        properties = letter.repeated({**entry.delivery.properties, "application_headers": {}}, headers)
        if is_amqp(self._settings.url):
            # So that the consumer believes the header that says who sent it first.
            properties["user_id"] = self._settings.own_user
        return Letter("", entry.queue or self._settings.queue, entry.delivery.body, properties)


def _entry(delivery: Delivery) -> Entry:
    try:
        event = decode(delivery.body, Limits(body=64 << 20))
    except BadEvent:
        event = None
    return Entry(delivery, delivery.digest, event)


def _ready(channel: Any, queue: str) -> int | None:
    try:
        return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except NotFound:
        return None


def _version(entry: Entry) -> tuple[bool, int]:
    return (False, entry.event.version) if entry.event else (True, 0)


def _grouped(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    size = 0
    for entry in entries:
        group.append(entry)
        size += len(entry.delivery.body)
        if len(group) >= _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
