"""The dead letters of one queue, to be looked at, sent again or thrown away."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple, final

from amqp.exceptions import NotFound

from consumers.base.broker import topology
from consumers.base.broker.amqp_inbox import AmqpInbox
from consumers.base.broker.inbox import Inbox
from consumers.base.broker.line import Line, is_amqp
from consumers.base.broker.sender import Sender
from consumers.base.broker.virtual_inbox import VirtualInbox
from consumers.base.errors import Lost, NoQueue, Refused, setting_up, talking
from consumers.base.reading import letter
from consumers.base.reading.agreement import AHEAD, STALE
from consumers.base.reading.delivery import Delivery
from consumers.base.reading.letter import Letter
from consumers.base.settings import ConsumerSettings
from consumers.trust import REASONS
from eventbus.errors import BadEvent, ConfigurationError
from eventbus.events import batch
from eventbus.events.envelope import Event, decode
from eventbus.events.naming import dead_letter_queue
from eventbus.events.reading import Limits

_GROUP: Final = 1000
_GROUP_BYTES: Final = 32 << 20
"""Letters, and bytes of their bodies, that are sent again together, in the order of their versions."""
_QUIET: Final = 2.0
"""Seconds without another letter after which the rest is taken to be in somebody else's hands."""
_RETURN: Final = 2.0
"""Seconds the broker has for putting back what was only looked at."""
_ANY: Final = Limits(body=64 << 20)
DISTRUST: Final = REASONS | {STALE, AHEAD}
_BROKERS_REASONS: Final = {
    "delivery_limit": "delivered too often",
    "rejected": "body too large, refused unread",
    "expired": "expired in the queue",
    "maxlen": "queue was full",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One dead letter. `event` is None where the body is no event; `digest` is the SHA-256 of the body, in hex.

    Of a batch, which all are of one kind, `event` is the first; `others` says how many more there are.

    `written` says that the broker vouches for whoever wrote the letter: a consumer with the login of this command.
    """

    delivery: Delivery
    digest: str
    event: Event | None
    written: bool = True
    others: int = 0

    @property
    def reason(self) -> str:
        """Why it is here: our words, or the broker's where the broker put it here by itself."""
        said = self._headers.get(letter.REASON)
        return str(said) if said else _BROKERS_REASONS.get(str(self._death.get("reason")), "unknown")

    @property
    def detail(self) -> str:
        """More about the reason, often empty."""
        return str(self._headers.get(letter.DETAIL, ""))

    @property
    def time(self) -> str:
        """When it was put here; ISO 8601, empty if unknown."""
        said = self._headers.get(letter.TIME) or self._death.get("time") or ""
        return said.isoformat() if isinstance(said, datetime) else str(said)

    @property
    def queue(self) -> str | None:
        """The queue it came from, None if nobody says."""
        said = self._headers.get(letter.QUEUE) or self._death.get("queue")
        return said if isinstance(said, str) else None

    @property
    def attempts(self) -> int:
        """How often it has become a dead letter."""
        said = self._headers.get(letter.ATTEMPTS)
        return said if type(said) is int else 1

    @property
    def whole(self) -> bool:
        """Whether the body was read; one of many MiB is not."""
        return len(self.delivery.body) == self.delivery.size

    @property
    def record(self) -> str:
        """`crm.contact/ab12`, of a batch the first and how many others; empty where the body is no event."""
        if self.event is None:
            return ""
        record = f"{self.event.model}/{self.event.record}"
        return f"{record} and {self.others:,} more" if self.others else record

    @property
    def moved_by_broker(self) -> bool:
        """Whether the broker made it a dead letter by itself: delivered too often, expired."""
        return bool(self._death)

    @property
    def distrusted(self) -> bool:
        """Whether it was refused for who sent it, or when, and not for what it holds."""
        return self.reason in DISTRUST

    @property
    def _headers(self) -> Mapping[str, Any]:
        # Where the broker itself moved it, every header of ours is the sender's.
        return {} if self._death else self.delivery.headers

    @property
    def _death(self) -> Mapping[str, Any]:
        deaths = self.delivery.headers.get("x-death")
        first = deaths[0] if isinstance(deaths, list) and deaths else None
        return first if isinstance(first, dict) else {}


Choice = Callable[[Entry], bool]
Report = Callable[[int], None]
"""Told now and then how many letters are settled."""


class Retried(NamedTuple):
    """How many letters were sent again, and how many of those meant were left.

    `left` ones nobody can read whole, `distrusted` ones were refused for who sent them, or when.
    """

    sent: int
    left: int
    distrusted: int


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

    def retry(
        self, choose: Choice, limit: int | None = None, report: Report = lambda _: None, *, distrusted: bool = False
    ) -> Retried:
        """Send the chosen letters to the queue they came from; each leaves here once the broker has confirmed it there.

        Older versions go first, within groups of a thousand letters; what is no event goes last. A body that was too
        large to be read is left alone: it would only come back. So is, unless `distrusted` says otherwise, what was
        refused for who sent it. Raises ConfigurationError where the broker lets this login not send it.
        """
        sender = Sender(self._settings)
        passed: Counter[str] = Counter()

        def send(group: list[Entry]) -> None:
            sender.send([self._again(entry) for entry in group])

        def may_go(entry: Entry) -> bool:
            why = "whole" if not entry.whole else "trust" if entry.distrusted and not distrusted else ""
            passed[why] += 1
            return not why

        try:
            self._bind_for_retry()
            sent = self._settle(lambda entry: choose(entry) and may_go(entry), limit, send, report)
        except Refused as error:
            raise ConfigurationError(error.told) from error
        finally:
            sender.close()
        return Retried(sent, passed["whole"], passed["trust"])

    def _bind_for_retry(self) -> None:
        """For a queue that a consumer of an older version made; one who may not leaves it to the consumer."""
        line = Line(self._settings)
        try:
            with contextlib.suppress(Lost), talking():
                topology.bind_for_retry(line, self._settings.queue_name)
        finally:
            line.drop()

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
            for entry in (_entry(delivery, self._settings.validated_user) for delivery in deliveries):
                if choose(entry):
                    yield entry
                    found += 1
                    if found == limit:
                        return

    def _again(self, entry: Entry) -> Letter:
        return letter.again(
            entry.delivery,
            attempts=entry.attempts,
            queue=self._own_queue(entry.queue),
            written=entry.written,
            own_user=self._settings.validated_user,
        )

    def _own_queue(self, named: str | None) -> str:
        """The queue a letter goes back to: one of this consumer's, whatever the letter says."""
        queue = self._settings.queue
        is_shard = named is not None and named.removeprefix(f"{queue}.").isdecimal() and named.startswith(f"{queue}.")
        return str(named) if is_shard else queue


def _entry(delivery: Delivery, own_user: str | None) -> Entry:
    try:
        event, *others = [decode(body, _ANY) for body in batch.bodies_of(delivery.body, _ANY)]
    except BadEvent:
        entry = Entry(delivery, delivery.digest, None)
    else:
        entry = Entry(delivery, delivery.digest, event, others=len(others))
    return replace(entry, written=not entry.moved_by_broker and letter.is_own(delivery, own_user))


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
