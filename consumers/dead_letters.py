"""`eventbus dead-letters`: see what a consumer could not take, send it again, or throw it away.

The command's purpose is to show payloads; nothing else of eventbus does. What it does to the letters is
`base.broker.dead_letter_queue`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import Any, Final

import click

from consumers.base.broker.dead_letter_queue import Choice, DeadLetterQueue, Entry
from consumers.base.broker.line import require_broker
from consumers.base.progress import Progress
from consumers.base.settings import ConsumerSettings
from eventbus.commands import HELP_OPTIONS, run
from eventbus.errors import counted
from eventbus.redaction import printable, shown

_PREVIEW: Final = 60
_PATIENCE: Final = 5.0
"""Seconds for each answer of the broker: somebody waits for the command."""
_ID: Final = 12
"""Hex digits of a body's SHA-256 that stand for it on the screen."""
_SHORTEST_ID: Final = 4

CommandFunction = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant: all that fit every given condition."""

    ids: tuple[str, ...] = ()
    reason: str | None = None
    entity: str | None = None

    def __post_init__(self) -> None:
        if short := [each for each in self.ids if len(each) < _SHORTEST_ID]:
            raise click.UsageError(f"{short[0]!r} is too short for an id: give at least {_SHORTEST_ID} digits of it")

    def __bool__(self) -> bool:
        return bool(self.ids or self.reason or self.entity)

    def __call__(self, entry: Entry) -> bool:
        """Whether this one is meant."""
        return (
            (not self.ids or entry.digest.startswith(self.ids))
            and (self.reason is None or self.reason.lower() in f"{entry.reason}: {entry.detail}".lower())
            and (self.entity is None or self._is_entity(entry))
        )

    def _is_entity(self, entry: Entry) -> bool:
        return entry.event is not None and self.entity in (entry.event.model, entry.event.entity)


def _filtered(command: CommandFunction) -> CommandFunction:
    """The options that say which dead letters are meant."""
    command = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N, the oldest first.")(
        command
    )
    command = click.option("--entity", metavar="NAME", help="Only of this kind: contact, or crm.contact.")(command)
    return click.option("--reason", metavar="TEXT", help="Only those whose reason has this text in it.")(command)


def _note(context: click.Context, option: click.Parameter, value: str | None) -> None:
    """Keep what was given; what stands after the word wins."""
    given = context.ensure_object(dict)
    if value:
        given[option.name] = value


def _located(command: CommandFunction) -> CommandFunction:
    """The options that say whose dead letters are meant. They may stand before the word or after it."""
    command = click.option(
        "--queue",
        metavar="NAME",
        callback=_note,
        expose_value=False,
        help="The consumer's queue, whose dead letters are meant. Default: $EVENTBUS_QUEUE, json-mirror.",
    )(command)
    return click.option(
        "--url",
        metavar="URL",
        callback=_note,
        expose_value=False,
        help="The broker, as amqp://user:password@host/vhost. Default: $EVENTBUS_URL.",
    )(command)


def _on_letters(command: CommandFunction) -> CommandFunction:
    """Call it with the dead letters that are meant, besides its own options."""

    @click.pass_obj
    def call(given: dict[str, Any], /, **options: Any) -> None:
        settings = replace(ConsumerSettings.from_env(), **given, patience=_PATIENCE)
        require_broker(settings)
        command(DeadLetterQueue(settings), **options)

    return _located(update_wrapper(call, command))


@click.group(context_settings=HELP_OPTIONS)
@_located
def dead_letters() -> None:
    """Look after dead letters: messages that a consumer could not take.

    A consumer puts what it cannot read, may not trust, or fails on again and again into a queue of its own, with the
    reason, and goes on with the rest. Nothing there is lost and nothing there changes by itself.

    \b
    eventbus dead-letters list                      what is there, and why
    eventbus dead-letters show 3f9a                 one of them, whole
    eventbus dead-letters retry --entity contact    back to the consumer, once the cause is mended
    eventbus dead-letters purge 3f9a --yes          for ever gone
    """


@dead_letters.command("list")
@_filtered
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for other programs.")
@_on_letters
def list_letters(
    letters: DeadLetterQueue, *, reason: str | None, entity: str | None, limit: int | None, as_json: bool
) -> None:
    """Show the dead letters: id, time, reason, record, size, first bytes. Takes nothing away."""
    count = 0
    for entry in letters.read(Filter((), reason, entity), limit):
        count += 1
        click.echo(printable(json.dumps(_summary(entry), ensure_ascii=False)) if as_json else _lines(entry))
    if not as_json:
        click.echo(counted(count, "dead letter"))


@dead_letters.command("show")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--raw", is_flag=True, help="The body alone, byte for byte as it came.")
@_on_letters
def show_letters(letters: DeadLetterQueue, *, ids: tuple[str, ...], raw: bool) -> None:
    """Show dead letters whole: properties, headers and body. An ID is the beginning of the one `list` shows."""
    found = list(letters.read(Filter(ids)))
    for entry in found:
        if raw:
            click.echo(entry.delivery.body, nl=False)
        else:
            click.echo(_whole(entry))
    _require(len(found), ids)


@dead_letters.command("retry")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_filtered
@click.option("--all", "everything", is_flag=True, help="All of them; without an ID or a filter this must be said.")
@click.option("--distrusted", is_flag=True, help="Those too that were refused for who sent them, or when.")
@_on_letters
def retry_letters(
    letters: DeadLetterQueue,
    *,
    ids: tuple[str, ...],
    reason: str | None,
    entity: str | None,
    limit: int | None,
    everything: bool,
    distrusted: bool,
) -> None:
    """Send dead letters back to their queue, older versions first.

    Each leaves the dead letters only when the broker has confirmed that it is in its queue again. An event that was
    overtaken meanwhile does no harm: the newest version wins. What fails again comes back with its count of attempts.
    """
    chosen = _some(Filter(ids, reason, entity), limit, everything)
    progress = Progress("sent again")
    try:
        sent, left, doubtful = letters.retry(chosen, limit, progress.show, distrusted=distrusted)
    finally:
        progress.end()
    click.echo(f"{counted(sent, 'dead letter')} sent again")
    if left:
        click.echo(f"{counted(left, 'dead letter')} left: too large to be read, and would only come back")
    if doubtful:
        click.echo(
            f"{counted(doubtful, 'dead letter')} left: refused for who sent it, or when. See why with list; to send it "
            "all the same say --distrusted"
        )
    _require(sent + left + doubtful, ids)


@dead_letters.command("purge")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_filtered
@click.option("--all", "everything", is_flag=True, help="All of them; without an ID or a filter this must be said.")
@click.option("--yes", is_flag=True, help="Yes, delete: this cannot be undone.")
@_on_letters
def purge_letters(
    letters: DeadLetterQueue,
    *,
    ids: tuple[str, ...],
    reason: str | None,
    entity: str | None,
    limit: int | None,
    everything: bool,
    yes: bool,
) -> None:
    """Delete dead letters for ever. Needs --yes."""
    chosen = _some(Filter(ids, reason, entity), limit, everything)
    if not yes:
        raise click.UsageError("purge deletes for ever: say --yes if that is meant")
    progress = Progress("deleted")
    try:
        count = letters.purge(chosen, limit, progress.show)
    finally:
        progress.end()
    click.echo(f"{counted(count, 'dead letter')} deleted")
    _require(count, ids)


def _some(chosen: Filter, limit: int | None, everything: bool) -> Choice:
    if not (chosen or limit or everything):
        raise click.UsageError("which ones? Give IDs, --reason, --entity or --limit, or say --all")
    return chosen


def _require(found: int, ids: Sequence[str]) -> None:
    if ids and not found:
        raise click.ClickException(f"no dead letter has an id that begins with {' or '.join(ids)}")


def _summary(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.digest[:_ID],
        "time": shown(entry.time, 40),
        "reason": shown(entry.reason),
        "detail": shown(entry.detail),
        "record": shown(entry.record),
        "version": entry.event.version if entry.event else None,
        "queue": entry.queue and shown(entry.queue),
        "attempts": entry.attempts,
        "bytes": entry.delivery.size,
        "begins": printable(_text(entry.delivery.body[:_PREVIEW])),
    }


def _lines(entry: Entry) -> str:
    reason = f"{entry.reason} ({entry.detail})" if entry.detail else entry.reason
    head = f"{entry.digest[:_ID]}  {shown(entry.time, 40) or 'time unknown'}  {shown(reason)}"
    again = f", attempt {entry.attempts}" if entry.attempts > 1 else ""
    about = f"{shown(entry.record) or 'no event'}, {counted(entry.delivery.size, 'byte')}{again}"
    return f"{head}\n              {about}: {printable(_text(entry.delivery.body[:_PREVIEW]))}"


def _whole(entry: Entry) -> str:
    properties = {**entry.delivery.properties}
    headers = properties.pop("application_headers", None) or {}
    rows = [("id", entry.digest), *sorted(properties.items()), *sorted(headers.items(), key=str)]
    facts = "\n".join(f"{printable(str(name))}: {printable(str(value))}" for name, value in rows)
    return f"{facts}\n\n{_body(entry.delivery.body)}\n"


def _body(body: bytes) -> str:
    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return printable(_text(body))
    return "\n".join(map(printable, text.split("\n")))


def _text(body: bytes) -> str:
    return body.decode("utf-8", "backslashreplace")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: done, 1: the broker, the queue or the letter is not there, 2: wrong use or configuration."""
    return run(dead_letters, argv, "eventbus-dead-letters")


if __name__ == "__main__":
    sys.exit(main())
