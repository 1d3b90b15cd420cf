"""The command `eventbus compare`. Exit codes: 0 equal, 1 different or failed, 2 wrong use."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import click
import orjson
from sqlalchemy.orm import sessionmaker

from eventbus import bus as buses
from eventbus import cli
from eventbus.bus import Bus, installed
from eventbus.commands import DONE, FAILED, HELP_OPTIONS
from eventbus.comparison.comparing import compare
from eventbus.comparison.difference import Difference, Tally
from eventbus.comparison.doubts import Patience
from eventbus.comparison.mirror import Place, opened
from eventbus.comparison.scan import CHUNK
from eventbus.errors import ConfigurationError, counted
from eventbus.records.entities import Entities
from eventbus.redaction import printable, shown
from eventbus.settings import Settings

_COLLECT_AFTER: Final = 20_000
"""New objects after which Python looks for circles among them. Rows make none; to look takes a tenth of the time."""
_HELP: Final = """Compare the rows of a database with a mirror, and publish again what differs.

Without an ENTITY all models are compared. It is safe beside running services: rows are read without locks, in small
chunks, and a record counts only once its event cannot be on the way any more.

--session names what eventbus.install() was called for, as for `eventbus snapshot`. It is needed where install() was
given schemas, include or exclude: they say what is published of a record.

\b
  eventbus compare                       # DATABASE_URL, EVENTBUS_MODELS, EVENTBUS_SERVICE and DATA_DIR say where
  eventbus compare --heal contact        # publish what differs, and wait until the mirror has it
  eventbus compare --against files       # the files themselves, not the mirror's state
  eventbus compare --against cache       # the Redis at EVENTBUS_CACHE_URL

Ends with 0 where both are equal (with --heal: at the end), with 1 where they are not.
"""


@click.command(help=_HELP, context_settings={**HELP_OPTIONS, "max_content_width": 100})
@click.argument("only", nargs=-1, metavar="[ENTITY]...")
@click.option("--session", metavar="MODULE:SESSION", help="What eventbus.install() was called for.")
@cli.database_options
@click.option("--data-dir", metavar="DIR", help="The mirror's directory. Default: DATA_DIR.")
@click.option("--against", metavar="NAME", default="state", show_default=True, help="state, files or cache.")
@click.option("--heal", is_flag=True, help="Publish what differs: snapshots of rows, deletions of records without row.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: each difference, then the summary.")
@click.option(
    "--wait", type=click.FloatRange(0), default=3.0, show_default=True, help="Seconds that a difference has to last."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds to wait for what is on its way, and with --heal until the mirror has what was published.",
)
@click.option("--chunk", type=click.IntRange(1, 10_000), default=CHUNK, show_default=True, help="Rows read at a time.")
@click.option("-q", "--quiet", is_flag=True, help="Print no differences, only the summary.")
def command(
    *,
    only: tuple[str, ...],
    session: str | None,
    models: str | None,
    database: str | None,
    data_dir: str | None,
    against: str,
    heal: bool,
    as_json: bool,
    wait: float,
    timeout: float,
    chunk: int,
    quiet: bool,
) -> int:
    """Compare, and heal; `_HELP` is what users read."""
    found, engine = cli.models_and_engine(models, database)
    with (
        cli.disposing(engine),
        opened(against, Place(data_dir)) as mirror,
        _publishing(session, heal=heal) as (entities, bus),
        cli.Progress() as progress,
        _rarely_collecting(),
    ):
        tally = compare(
            entities,
            engine,
            mirror,
            models=found,
            only=only,
            heal=bus,
            patience=Patience(wait, timeout),
            chunk=chunk,
            told=_telling(as_json=as_json, quiet=quiet),
            progress=None if as_json or quiet else progress,
        )
    _summary(tally, as_json=as_json, heal=heal)
    return DONE if tally.is_equal else FAILED


@contextmanager
def _rarely_collecting() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _publishing(session: str | None, *, heal: bool) -> Iterator[tuple[Entities, Bus | None]]:
    """What is published of the models, and the bus that heals, if one is to."""
    if session is not None:
        target = cli.find("--session", session, "Session")
        bus = target if isinstance(target, Bus) else installed(target)
        with bus:
            yield bus.entities, bus if heal else None
        return
    _demand_service()
    if heal:
        with buses.install(sessionmaker()) as bus:
            yield bus.entities, bus
    else:
        yield Entities(Settings.from_env().service), None


def _demand_service() -> None:
    """Under the name that services have by default every row would be missing, and be published once more."""
    if cli.service_name(None) is None:
        raise ConfigurationError(
            "say whose records these are: EVENTBUS_SERVICE=crm, as for install(), or --session myapp.db:Session"
        )


def _telling(*, as_json: bool, quiet: bool) -> Callable[[Difference], None] | None:
    def tell(difference: Difference) -> None:
        if as_json:
            click.echo(printable(orjson.dumps(asdict(difference)).decode()))
        else:
            click.echo(_line(difference))

    return None if quiet else tell


def _line(difference: Difference) -> str:
    """`different  crm.contact/ab12: name, phone`."""
    pk = difference.pk if isinstance(difference.pk, str) else orjson.dumps(difference.pk).decode()
    line = f"{difference.kind:9}  {difference.model}/{shown(pk)}"
    if difference.fields:
        line += f": {', '.join(shown(name) for name in difference.fields)}"
    return f"{line} (cannot be published: {shown(difference.reason)})" if difference.reason else line


def _summary(tally: Tally, *, as_json: bool, heal: bool) -> None:
    if as_json:
        told: dict[str, Any] = asdict(tally)
        del told["share"]
        click.echo(orjson.dumps({"rows": told.pop("objects"), **told, "equal": tally.is_equal}).decode())
        return
    for problem in tally.problems:
        click.echo(f"not published: {printable(str(problem))}", err=True)
    what = f"{counted(tally.objects, 'row')} compared: "
    what += f"{tally.missing} missing, {tally.extra} extra, {tally.different} different" if tally.found else "equal"
    if heal and tally.found:
        what += f"; {tally.published} published, {tally.healed} healed"
    if tally.in_flight:
        what += f"; {counted(tally.in_flight, 'record')} in flight to the last: is the broker away, the mirror behind?"
    click.echo(what)
