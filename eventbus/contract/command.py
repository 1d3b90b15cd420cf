"""The command `eventbus schema`. Exit codes: 0 done, 1 a change breaks readers, 2 wrong use or configuration."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from eventbus import cli, commands
from eventbus.bus import Bus, installed
from eventbus.contract.asyncapi import Document, describe
from eventbus.contract.compatibility import breaking
from eventbus.dumps.targets import entities_of
from eventbus.errors import ConfigurationError, counted
from eventbus.records.entity import Entity

_HELP = """Print what a service publishes, as an AsyncAPI 3 document with the JSON Schema of every event.

SESSION is what eventbus.install() was called for, or the bus it returned, in an importable module: myapp.db:Session.
Neither a broker nor a database is asked.

\b
  eventbus schema myapp.db:Session --models myapp.models:Base > events.json
  eventbus schema myapp.db:Session --models myapp.models:Base --check events.json    does a change break readers?
  eventbus schema myapp.db:Session --models myapp.models:Base --columns              what goes out, what stays home
"""


@click.command(help=_HELP, context_settings={**commands.HELP_OPTIONS, "max_content_width": 100})
@click.argument("session")
@click.option("--models", metavar="MODULE:BASE[,…]", help="Where the models are. Default: EVENTBUS_MODELS.")
@click.option(
    "--dialect",
    type=click.Choice(["sqlite", "postgresql", "mysql", "mariadb"]),
    default="sqlite",
    show_default=True,
    help="The database that the records live in: some types differ.",
)
@click.option("--version", "release", default="1.0.0", show_default=True, help="The version of your contract.")
@click.option(
    "--check",
    "old",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="OLD",
    help="Compare with a document printed before: end with 1 where a reader of the old events would break.",
)
@click.option("--columns", is_flag=True, help="List the columns of each model instead: what goes out, what stays home.")
def command(session: str, models: str | None, dialect: str, release: str, old: Path | None, columns: bool) -> int:
    """Print what a service publishes; `_HELP` is what users read."""
    target = cli.find("SESSION", session, "Session")
    bus = target if isinstance(target, Bus) else installed(target)
    found = list(entities_of(bus.entities, cli.models_named(models)))
    if columns:
        click.echo("\n".join(_columns(found)))
        return commands.DONE
    settings = bus.settings
    document = describe(
        settings.service,
        found,
        exchange=settings.exchange,
        dialect=dialect,
        version=release,
        batches=settings.wire == "batch",
    )
    if old is None:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return commands.DONE
    return _report(breaking(_read(old), document), old)


def _read(path: Path) -> Document:
    try:
        document: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigurationError(f"--check {path}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"--check {path}: not a document that `eventbus schema` wrote")
    return document


def _report(broken: Sequence[str], old: Path) -> int:
    for sentence in broken:
        click.echo(sentence)
    if broken:
        click.echo(f"{counted(len(broken), 'change')} against {old} would break readers", err=True)
        return commands.FAILED
    click.echo(f"nothing that was in {old} breaks", err=True)
    return commands.DONE


def _columns(entities: Iterable[Entity]) -> Iterable[str]:
    for entity in entities:
        yield f"{entity.routing_keys['c'].rpartition('.')[0]}"
        yield f"  goes out:   {', '.join(entity.published)}"
        for key, reason in entity.withheld.items():
            yield f"  stays home: {key} ({reason})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: done, 1: a change would break readers, 2: wrong use or configuration."""
    return commands.run(command, argv, "eventbus schema")


if __name__ == "__main__":
    sys.exit(main())
