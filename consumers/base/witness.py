"""The broker as `eventbus status`, `why` and `doctor` see it: the queue, who reads it, its dead letters."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, final

from amqp.exceptions import AccessRefused

from consumers.base.broker.dead_letter_queue import DeadLetterQueue, Entry
from consumers.base.broker.line import Line, is_amqp, require_broker
from consumers.base.errors import BROKER_ERRORS, Lost, describe
from consumers.base.settings import ConsumerSettings
from eventbus.errors import ConfigurationError, counted
from eventbus.events.naming import dead_letter_queue
from eventbus.inspection.witness import Evidence, Finding, Options, Report, Subject, Witness
from eventbus.redaction import shown
from eventbus.transports.sqlite.routing import topic_matches

_MOST: Final = 10_000
"""Dead letters that are looked through for one record."""


@contextmanager
def opened(options: Options) -> Iterator[Witness]:
    """The broker that EVENTBUS_URL names."""
    settings = ConsumerSettings.from_env()
    yield BrokerWitness(replace(settings, url=options.url or settings.url), options.data_dir)


@dataclass(frozen=True, slots=True)
class _Depths:
    """Messages and consumers of the queue, and messages in its dead letters; None where there is no such queue."""

    waiting: int | None
    consumers: int | None
    dead: int | None


@final
class BrokerWitness(Witness):
    """Asks over a connection of its own, each time, and takes nothing out of any queue.

    `data_dir` is the mirror's directory, where it is not the one that a mirror would take by itself.
    """

    def __init__(self, settings: ConsumerSettings, data_dir: str | None = None) -> None:
        self._settings = settings
        self._mirror = "eventbus mirror" + (f" --data-dir {shlex.quote(data_dir)}" if data_dir else "")

    def status(self) -> Report:
        """Whether it answers, what waits in the queue and for whom, how many dead letters there are."""
        figures: dict[str, Any] = {"broker": self._settings.broker, "queue": self._settings.queue_name}
        try:
            depths = self._depths()
        except (Lost, ConfigurationError) as error:
            return Report(figures, (_away(error),))
        figures |= {"waiting": depths.waiting, "consumers": depths.consumers, "dead_letters": depths.dead}
        return Report(figures, tuple(self._troubles(depths)))

    def why(self, subject: Subject, evidence: Evidence) -> Iterable[Finding]:
        """Whether its events can get into the queue, may be waiting in it, or became dead letters."""
        try:
            yield from self._bound(subject)
            depths = self._depths()
            yield from self._in_the_queue(depths)
            if depths.dead:
                yield from self._dead(subject)
        except (Lost, ConfigurationError) as error:
            yield _away(error)

    def examine(self) -> Iterable[Finding]:
        """The connection, the exchange, the queue and the bindings."""
        settings = self._settings
        try:
            depths = self._depths()
            yield Finding("ok", f"the broker answers at {settings.broker}")
            yield from self._exchange()
        except (Lost, ConfigurationError) as error:
            yield _away(error)
            return
        if depths.waiting is None:
            yield self._no_queue()
        else:
            readers = counted(depths.consumers or 0, "consumer")
            yield Finding("ok", f"the queue {settings.queue_name} is there, with {readers}")
        if not settings.broker_file and not is_amqp(settings.url):
            yield Finding("wrong", "memory:// is a broker within one process", "set EVENTBUS_URL")

    def _line(self) -> Line:
        require_broker(self._settings)
        return Line(self._settings)

    def _depths(self) -> _Depths:
        line = self._line()
        try:
            waiting, consumers = _ask(line, self._settings.queue_name)
            dead, _ = _ask(line, dead_letter_queue(self._settings.queue))
        finally:
            line.drop()
        return _Depths(waiting, consumers, dead)

    def _troubles(self, depths: _Depths) -> Iterator[Finding]:
        queue = self._settings.queue_name
        if depths.waiting is None:
            yield self._no_queue()
        elif not depths.consumers:
            yield self._unread(depths.waiting)
        if depths.dead:
            yield Finding(
                "wrong",
                f"{counted(depths.dead, 'dead letter')} of {queue}",
                "`eventbus dead-letters list` says why; mend that, then `eventbus dead-letters retry --all`",
            )

    def _unread(self, waiting: int) -> Finding:
        queue, start = self._settings.queue_name, f"start the mirror: `{self._mirror}`"
        if not waiting:
            return Finding("note", f"nobody reads the queue {queue}; nothing waits in it", start)
        return Finding("wrong", f"{counted(waiting, 'event')} in the queue {queue}, which nobody reads", start)

    def _no_queue(self) -> Finding:
        queue = self._settings.queue_name
        return Finding(
            "wrong", f"there is no queue {queue} at the broker", f"start its consumer once: `{self._mirror}`"
        )

    def _bound(self, subject: Subject) -> Iterator[Finding]:
        bindings = self._settings.bindings
        shut = [key for key in subject.routing_keys if not any(topic_matches(each, key) for each in bindings)]
        if len(shut) == len(subject.routing_keys):
            yield Finding(
                "wrong",
                f"no binding of the queue {self._settings.queue_name} lets {subject.model} in: {' '.join(bindings)}",
                f"add {subject.model}.* to EVENTBUS_BINDINGS, then start the consumer",
            )
        elif shut:
            yield Finding("note", f"the bindings keep out {', '.join(shut)}")

    def _in_the_queue(self, depths: _Depths) -> Iterator[Finding]:
        if depths.waiting is None:
            yield self._no_queue()
        elif depths.waiting and not depths.consumers:
            yield self._unread(depths.waiting)
        elif depths.waiting:
            waits = f"{counted(depths.waiting, 'event')} in the queue {self._settings.queue_name}"
            yield Finding("unknown", f"{waits}; ask again in a moment")

    def _dead(self, subject: Subject) -> Iterator[Finding]:
        def meant(entry: Entry) -> bool:
            event = entry.event
            if event is not None:
                return (event.model, event.subject) == (subject.model, subject.name)
            return subject.name.encode() in entry.delivery.body

        for entry in DeadLetterQueue(self._settings).read(meant, _MOST):
            yield Finding(
                "wrong",
                f"an event of it is a dead letter: {shown(entry.reason)}",
                f"mend the cause, then `eventbus dead-letters retry {entry.digest[:12]}`",
            )

    def _exchange(self) -> Iterator[Finding]:
        line, exchange = self._line(), self._settings.exchange
        try:
            with line.channel() as channel:
                channel.exchange_declare(exchange=exchange, type="topic", durable=True, auto_delete=False, passive=True)
            yield Finding("ok", f"the exchange {exchange} is there")
        except AccessRefused:
            yield Finding("unknown", f"this login may not look at the exchange {exchange}")
        except BROKER_ERRORS as error:
            yield Finding("wrong", f"no exchange {exchange}: {describe(error)}", "start a service or consumer once")
        finally:
            line.drop()


def _ask(line: Line, queue: str) -> tuple[int | None, int | None]:
    try:
        with line.channel() as channel:
            answer = channel.queue_declare(queue=queue, passive=True)
            return int(answer.message_count), int(answer.consumer_count)
    except BROKER_ERRORS:
        return None, None


def _away(error: Lost | ConfigurationError) -> Finding:
    told = error.told if isinstance(error, Lost) else str(error)
    return Finding("wrong", told, "start the broker, or correct EVENTBUS_URL")
