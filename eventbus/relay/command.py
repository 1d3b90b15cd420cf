"""The command `eventbus relay`. Exit codes: 0 done, 1 failed, 2 wrong use or configuration."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Self, TypeVar

import click
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from eventbus.cli import make_engine
from eventbus.commands import HELP_OPTIONS, run
from eventbus.delivery.tempo import Tempo
from eventbus.errors import ConfigurationError, EventBusError, counted
from eventbus.monitoring import logs
from eventbus.outbox import ParkedRow, Store
from eventbus.outbox.side import missing_file
from eventbus.process.stopping import stop_on_signals
from eventbus.publishers import publisher_for
from eventbus.redaction import redact_url
from eventbus.relay.monitoring import watched
from eventbus.relay.service import Progress, Relay
from eventbus.settings import DEFAULT_URL, Settings, reading_environment

T = TypeVar("T")

log = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_CLEAR: Final = "\r\x1b[K"

_HELP = """Deliver committed events that wait in a database's outbox.

Services publish their own events. What a process leaves behind when it dies, this command delivers: run it beside
services whose processes may all be gone, or once by hand. Services with EVENTBUS_DELIVERY=relay publish nothing
themselves: it delivers what they write, at once. Several may run for one database; one is active, and another takes
over within seconds when it ends or dies.

\b
  eventbus relay --database postgresql+psycopg://…     keep delivering, until stopped
  eventbus relay --database sqlite:///app.db --once    deliver what waits now, then end
  eventbus relay --parked list                         what the broker would not take, and why
  eventbus relay --parked retry                        … try it again now (a relay or service does it)
  eventbus relay --parked purge --id 17 --id 18        … give these rows up for good

DATABASE_URL and EVENTBUS_URL (or DATABASE_URL_FILE, EVENTBUS_URL_FILE, for mounted secrets) say where the database and
the broker are; passwords are better there than on a command line, which others can see.
"""


@click.command("eventbus-relay", help=_HELP, context_settings=HELP_OPTIONS)
@click.option("--database", metavar="URL", help="Database with the outbox (SQLAlchemy URL). Default: DATABASE_URL.")
@click.option(
    "--url",
    metavar="BROKER",
    help="Broker: amqp://, amqps:// or sqlite:///. Default: EVENTBUS_URL, or the embedded broker that is here.",
)
@click.option("--exchange", metavar="NAME", help="Exchange to publish to. Default: EVENTBUS_EXCHANGE, or eventbus.")
@click.option(
    "--ordering",
    type=click.Choice(["fast", "strict"]),
    help="strict: this relay publishes everything, each record in commit order; services must run with "
    "EVENTBUS_ORDERING=strict too. Default: EVENTBUS_ORDERING, or fast.",
)
@click.option("--once", is_flag=True, help="End when nothing is left that can be delivered.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a process of another machine must be silent to count as dead.",
)
@click.option("--parked", type=click.Choice(["list", "retry", "purge"]), help="Show or treat parked rows, and end.")
@click.option("--id", "ids", type=int, multiple=True, metavar="ROW", help="With --parked: only this row. Repeatable.")
@click.option("--yes", is_flag=True, help="With --parked purge: do not ask.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def command(**options: Any) -> int:
    """Deliver what waits in an outbox; `_HELP` is what users read."""
    _check(options)
    with logs.to_stderr(verbose=options["verbose"]):
        settings = _settings(options)
        with _database(options["database"]) as engine:
            if options["parked"]:
                return _treat_parked(engine, options["parked"], list(options["ids"]) or None, yes=options["yes"])
            _demand_broker(settings.url, named=options["url"] is not None)
            return _relay(engine, settings, once=options["once"], grace=options["grace"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(command, argv, "eventbus-relay")


def _check(options: dict[str, Any]) -> None:
    if options["parked"] and options["once"]:
        raise click.UsageError("--once does not go with --parked, which always ends by itself.")
    if (options["ids"] or options["yes"]) and not options["parked"]:
        raise click.UsageError("--id and --yes need --parked.")


def _settings(options: dict[str, Any]) -> Settings:
    settings = Settings.from_env()
    given = {name: options[name] for name in ("url", "exchange", "ordering") if options[name] is not None}
    return replace(settings, **given)


@contextlib.contextmanager
def _database(url: str | None) -> Iterator[Engine]:
    url = url or _database_url()
    if not url:
        raise ConfigurationError("Which database? Give --database URL, or set DATABASE_URL.")
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _relay(engine: Engine, settings: Settings, *, once: bool, grace: float) -> int:
    publisher_for(settings).close()  # wrong settings are told at once
    if once:
        _demand_outbox(engine)
    elif not _has_outbox(engine):
        log.warning("no outbox yet in %s; is it the right database?", redact_url(str(engine.url)))
    with _Display() as display, watched(_http(), engine, display.show) as told, stop_on_signals() as stop:
        relay = Relay(
            engine,
            lambda: publisher_for(settings),
            ordering=settings.ordering,
            tempo=Tempo(grace=grace, sweep=min(2.0, grace / 2)),
            unroutable=settings.unroutable,
            on_progress=told,
        )
        done = relay.run(stop, once=once)
    waits = f"; {counted(done.waiting, 'row')} {'waits' if done.waiting == 1 else 'wait'}" if done.waiting else ""
    click.echo(f"Delivered {counted(done.delivered, 'event')}; {counted(done.parked, 'row')} parked{waits}.", err=True)
    return 0


def _demand_broker(url: str, *, named: bool) -> None:
    """What is delivered is deleted: so never to a broker that nobody named and nobody reads."""
    if url.startswith("memory:"):
        raise ConfigurationError("memory:// is a broker within one process: what the relay delivers there is lost")
    with reading_environment() as env:
        named = named or bool(env.str("EVENTBUS_URL", ""))
    file = DEFAULT_URL.removeprefix("sqlite:///")
    if not named and not os.path.exists(file):
        raise ConfigurationError(
            f"Which broker? Give --url BROKER, or set EVENTBUS_URL, as the service has it. (Where services set none,"
            f" it is their working directory's {file}: there is none here.)"
        )


def _has_outbox(engine: Engine) -> bool:
    try:
        return _with_store(engine, lambda store: store.exists())
    except SQLAlchemyError:
        return True  # nobody knows; the relay waits for the database


def _demand_outbox(engine: Engine) -> None:
    file = missing_file(engine)
    if file is not None:
        raise ConfigurationError(f"--database: there is no database file {file}")
    if not _with_store(engine, lambda store: store.exists()):
        raise ConfigurationError(
            "This database has no outbox. Is it the right one? The outbox is made at a service's first commit."
        )


def _treat_parked(engine: Engine, what: str, ids: list[int] | None, *, yes: bool) -> int:
    _demand_outbox(engine)
    if ids:
        _demand_parked(engine, ids)
    if what == "list":
        return _with_store(engine, lambda store: _list_parked(store, ids))
    if what == "retry":
        count = _with_store(engine, lambda store: store.parked.wake(ids))
        click.echo(f"Due now: {counted(count, 'row')}. The next service or relay that looks tries again.")
        return 0
    if ids is None:
        ids = _with_store(engine, lambda store: [row.id for row in _parked(store, None)])
    if ids and not yes:
        click.confirm(f"Give up {counted(len(ids), 'parked row')} for good?", abort=True, err=True)
    purged = _with_store(engine, lambda store: store.parked.delete(ids))
    click.echo(f"{counted(purged, 'row')} purged.")
    return 0


def _demand_parked(engine: Engine, ids: list[int]) -> None:
    there = _with_store(engine, lambda store: {row.id for row in _parked(store, ids)})
    if missing := [str(each) for each in ids if each not in there]:
        raise EventBusError(f"no parked row {', '.join(missing)}")


def _list_parked(store: Store, ids: list[int] | None) -> int:
    found = False
    for row in _parked(store, ids):
        if not found:
            click.echo(f"{'ROW':<18} {'PARKED (UTC)':<20} {'TRIES':>5} {'EVENTS':>6}  REASON")
        found = True
        events = row.payload.count(b"\n") + 1
        click.echo(f"{row.id:<18} {_time(row.parked_at):<20} {row.attempts:>5} {events:>6}  {row.reason}")
    if not found:
        click.echo("Nothing is parked.")
    return 0


def _parked(store: Store, ids: list[int] | None) -> Iterator[ParkedRow]:
    after = 0
    while rows := store.parked.page(after=after):
        yield from (row for row in rows if ids is None or row.id in ids)
        after = rows[-1].id


def _with_store(engine: Engine, work: Callable[[Store], T]) -> T:
    store = Store(engine)
    try:
        return work(store)
    finally:
        store.close()


def _time(microseconds: int) -> str:
    return f"{datetime.fromtimestamp(microseconds / 1e6, UTC):%Y-%m-%d %H:%M:%S}"


def _http() -> str:
    with reading_environment() as env:
        return str(env.str("EVENTBUS_HTTP", ""))


def _database_url() -> str:
    with reading_environment() as env:
        return str(env.str("DATABASE_URL", ""))


class _Display:
    """One line on the terminal, rewritten as the relay goes on; nothing where standard error is none."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._last: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo(_CLEAR, err=True, nl=False)

    def show(self, progress: Progress) -> None:
        if not self._shown or progress == self._last:
            return
        self._last = progress
        state = "delivering" if progress.active else "waiting: not the active relay"
        done = f"{counted(progress.delivered, 'event')} · {progress.parked:,} parked"
        click.echo(f"{_CLEAR}{state} · {done}", err=True, nl=False)
