"""`eventbus tail`: changes as they go by, on a terminal or into a pipe, without taking any away from anybody."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, final

import click
import orjson

from consumers.base.broker.amqp_inbox import AmqpInbox
from consumers.base.broker.inbox import Inbox
from consumers.base.broker.line import Line, is_amqp
from consumers.base.broker.virtual_inbox import VirtualInbox
from consumers.base.errors import Lost, setting_up
from consumers.base.reading.delivery import Delivery
from consumers.base.reading.moments import moment
from consumers.base.reading.screen import Screen
from consumers.base.settings import ConsumerSettings
from consumers.base.working.session import Stop
from consumers.history.commands.options import data_dir
from consumers.history.commands.options import opened as history_of
from consumers.history.reading import events, moments
from consumers.history.reading.history import History
from eventbus.backoff import Backoff
from eventbus.commands import HELP_OPTIONS, run
from eventbus.errors import BadEvent
from eventbus.events import envelope
from eventbus.events.envelope import Event
from eventbus.monitoring import logs
from eventbus.process.stopping import stop_on_signals
from eventbus.redaction import printable, shown
from eventbus.transports.sqlite.routing import topic_matches

_WAIT: Final = 0.2
"""Seconds without an event before it is looked whether to stop."""
_BATCH: Final = 500
MOST: Final = 10_000
"""Events that the broker keeps for a reader that does not keep up; older ones are dropped."""
_EXPIRES: Final = 60_000
"""Milliseconds after which RabbitMQ deletes a queue that nobody came to read."""
_CATCHING_UP: Final = 70.0
"""Seconds for which the history is asked: it waits a minute for what an incomplete transaction lacks."""
_WIDTH: Final = 60
"""Characters of one value; the rest is cut."""
_FIELDS: Final = 100
"""Fields of one event; how many more there are is told."""

logger = logging.getLogger(__name__)


@final
class Past:
    """What a history tells of the time before, from a moment on (microseconds since 1970).

    A history is some seconds behind, so it is asked again and again for a while; what was shown is not shown twice.
    """

    def __init__(
        self, history: History, since: int, bindings: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._history = history
        self._position = moments.at_time(history, since - 1)
        self._bindings = bindings
        self._shown: dict[tuple[str, str, int], None] = {}
        self._began: float | None = None
        self._next = 0.0

    def more(self) -> Iterator[Delivery]:
        """What is new in it, a second after the last look at the earliest; nothing after a minute and a bit."""
        now = self._clock()
        self._began = now if self._began is None else self._began
        if self._next <= now < self._began + _CATCHING_UP:
            yield from self._told()
            self._next = self._clock() + 1

    def is_new(self, event: Event) -> bool:
        """Whether it was not shown yet; asked once of each."""
        key = (event.model, event.record, event.version)
        if key in self._shown:
            return False
        self._shown[key] = None
        if len(self._shown) > MOST:
            del self._shown[next(iter(self._shown))]
        return True

    def _told(self) -> Iterator[Delivery]:
        for told in events.told(self._history, self._position):
            self._position = told.position
            if not any(topic_matches(binding, told.routing_key) for binding in self._bindings):
                continue
            delivery = Delivery(told.body, told.routing_key)
            delivery.event = envelope.decode(told.body)
            if self.is_new(delivery.event):
                yield delivery


@final
class Tail:
    """The events that match some bindings, from now on. Its queue is its own and goes when it goes, killed or not.

    Nothing is taken from other consumers: each queue bound to the exchange gets its own copy. `past` comes first, and
    is asked once the queue is there, so that nothing is missed between the two. `most` events wait at RabbitMQ for a
    reader that does not keep up; of more the oldest go.
    """

    def __init__(self, settings: ConsumerSettings, past: Past | None = None, *, most: int = MOST) -> None:
        self._most = most
        self._settings = replace(settings, queue=f"eventbus.tail.{secrets.token_hex(8)}", shard=None)
        self._screen = Screen.of(settings)
        self._past = past

    def follow(self, stop: Stop) -> Iterator[Delivery | BadEvent]:
        """Each delivery, with its event, or why it has none; until told to stop.

        A lost broker is waited for; what happened meanwhile is not shown. Raises ConfigurationError where it will never
        answer.
        """
        backoff = Backoff(0.2, 5.0)
        while not stop.is_set():
            try:
                yield from self._connected(stop, backoff)
            except Lost as error:
                pause = backoff.next()
                logger.warning("%s; again in %.1f s", error.told, pause)
                stop.wait(pause)

    def _connected(self, stop: Stop, backoff: Backoff) -> Iterator[Delivery | BadEvent]:
        line = Line(self._settings)
        try:
            inbox = self._open(line)
        finally:
            line.drop()
        backoff.reset()
        try:
            while not stop.is_set():
                if self._past is not None:
                    yield from self._past.more()
                batch = inbox.fetch(_WAIT, _BATCH)
                inbox.tick()
                yield from self._new(each for delivery in batch for each in self._read(delivery))
                inbox.acknowledge(batch)
            inbox.close()
        finally:
            inbox.drop()

    def _open(self, line: Line) -> Inbox:
        settings = self._settings
        amqp = is_amqp(settings.url)
        arguments = {"x-expires": _EXPIRES, "x-max-length": self._most} if amqp else {}
        with setting_up(), line.channel() as channel:
            channel.exchange_declare(exchange=settings.exchange, type="topic", durable=True, auto_delete=False)
            channel.queue_declare(
                queue=settings.queue, durable=True, exclusive=False, auto_delete=True, arguments=arguments
            )
            for binding in settings.bindings:
                channel.queue_bind(queue=settings.queue, exchange=settings.exchange, routing_key=binding)
        return (AmqpInbox if amqp else VirtualInbox)(settings, browse=settings.queue)

    def _new(self, batch: Iterable[Delivery | BadEvent]) -> Iterator[Delivery | BadEvent]:
        past = self._past
        return (each for each in batch if past is None or isinstance(each, BadEvent) or past.is_new(each.event))

    def _read(self, delivery: Delivery) -> Iterator[Delivery | BadEvent]:
        good, bad = self._screen.sift(delivery)
        yield from good
        yield from (fault for _, fault in bad)


@click.command(context_settings=HELP_OPTIONS)
@click.argument("bindings", nargs=-1, metavar="[BINDING]...")
@click.option("--url", metavar="URL", help="The broker. Default: EVENTBUS_URL.")
@click.option("--json", "as_json", is_flag=True, help="One event a line, as JSON, for other programs.")
@click.option("-n", "--count", type=click.IntRange(1), metavar="N", help="End after N events.")
@click.option("--since", metavar="TIME", help="Begin with what the mirror's history has from this time on (ISO 8601).")
@data_dir
def command(
    bindings: tuple[str, ...],
    url: str | None,
    as_json: bool,
    count: int | None,
    since: str | None,
    data_dir: Path | None,
) -> None:
    """Show changes as they happen. Takes nothing away from other consumers.

    BINDING says which: `crm.#` all of a service, `crm.contact.*` one kind of record, `*.*.deleted` all deletions.
    Without one all are shown.

    \b
      eventbus tail
      eventbus tail crm.contact.* crm.order.deleted
      eventbus tail --json | jq .data.after
      eventbus tail --since 2026-11-23T08:00:00Z --data-dir data
    """
    settings = ConsumerSettings.from_env()
    settings = replace(settings, url=url or settings.url, bindings=bindings or ("#",))
    show = _json_line if as_json else _Lines(colour=sys.stdout.isatty())
    with logs.to_stderr(), stop_on_signals() as stop, ExitStack() as opened:
        past = None
        if since is not None:
            past = Past(opened.enter_context(history_of(data_dir)), moments.parse(since), settings.bindings)
        try:
            for each in islice(Tail(settings, past).follow(stop), count):
                click.echo(show(each))
        except BrokenPipeError:
            # Whoever read the pipe has enough. Python would complain of it once more at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _json_line(each: Delivery | BadEvent) -> str:
    if isinstance(each, BadEvent):
        return orjson.dumps({"refused": each.reason}).decode()
    return printable(orjson.dumps(orjson.loads(each.body)).decode())


_MARKS: Final[Mapping[str, tuple[str, str]]] = {
    "c": ("+", "green"),
    "u": ("~", "yellow"),
    "d": ("-", "red"),
    "r": ("=", "blue"),
}


@final
class _Lines:
    """An event as a line for people: time, what happened to which record, field by field, by whom, how late."""

    def __init__(self, *, colour: bool, now: Callable[[], float] = time.time) -> None:
        self._colour = colour
        self._now = now

    def __call__(self, each: Delivery | BadEvent) -> str:
        if isinstance(each, BadEvent):
            return self._paint(f"! refused: {each.reason}", "red")
        event = each.event
        mark, colour = _MARKS[event.op]
        time_text, late = self._times(event)
        record = self._paint(f"{mark} {shown(event.model)} {shown(event.record)}", colour)
        parts = [time_text, record, *self._fields(event)]
        if event.author is not None:
            parts.append(f"by {shown(event.author)}")
        return "  ".join([*parts, late])

    def _paint(self, text: str, colour: str) -> str:
        return click.style(text, fg=colour) if self._colour else text

    def _times(self, event: Event) -> tuple[str, str]:
        then = moment(event.time)
        if then is None:
            return shown(event.time), ""
        late = max(0.0, self._now() - then.timestamp())
        with suppress(ValueError, OverflowError):  # at the edges of the calendar the local time is of no year
            then = then.astimezone()
        return f"{then:%H:%M:%S}.{then.microsecond // 1000:03}", duration(late)

    def _fields(self, event: Event) -> list[str]:
        before, after = event.before or {}, event.after or {}
        whole = before if event.op == "d" else after
        names = event.changed if event.op == "u" else list(whole)
        if event.op == "u":
            told = [f"{shown(name)}: {value(before, name)} → {value(after, name)}" for name in names[:_FIELDS]]
        else:
            told = [f"{shown(name)}={value(whole, name)}" for name in names[:_FIELDS]]
        return [*told, f"and {len(names) - _FIELDS:,} more"] if len(names) > _FIELDS else told


def value(values: Mapping[str, Any], name: str) -> str:
    """A field's value as JSON, cut, and safe for a terminal; `?` where it is not known."""
    if name not in values:
        return "?"
    text = printable(json.dumps(values[name], ensure_ascii=False)[: _WIDTH + 1])
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def duration(seconds: float) -> str:
    """`12 ms`, `3.4 s`, `5 min`, `2 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: stopped, or all that was asked for was shown. 2: wrong use or configuration."""
    return run(command, argv, "eventbus tail")


if __name__ == "__main__":
    sys.exit(main())
