"""`eventbus dumpdata`: write the records of a database as `eventbus loaddata` reads them.

A dump is a backup: all columns are in it, secrets too, but those that are computed by the database. What cannot be in
it is said, and the command then ends with 1. It is taken in one transaction, so it shows one moment. Records come in an
order in which they can be loaded, sorted by the bytes of their keys.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

import click
import orjson
from sqlalchemy import Connection, Engine

from eventbus import cli, commands
from eventbus.dumps import reflected, surroundings
from eventbus.dumps.dumping import output
from eventbus.dumps.dumping.dumped import Dumped
from eventbus.dumps.dumping.dumper import Dump, Wanted
from eventbus.dumps.dumping.mirrored import records_of_mirror
from eventbus.dumps.dumping.output import Format, open_output
from eventbus.dumps.inheritance import note_parents
from eventbus.dumps.targets import Target, Targets
from eventbus.errors import ConfigurationError

__all__ = ["Dumped", "dumpdata", "main", "open_output"]

_SNAPSHOT: Final = {"postgresql": "REPEATABLE READ", "mysql": "REPEATABLE READ", "mariadb": "REPEATABLE READ"}


def dumpdata(
    engine: Engine,
    stream: IO[bytes],
    *,
    models: Any,
    service: str | None = None,
    only: Iterable[str] = (),
    exclude: Iterable[str] = (),
    pks: Sequence[Any] = (),
    format: Format = "json",
    indent: int | None = None,
    published: bool = False,
    skip_broken: bool = False,
    progress: Callable[[Dumped], None] | None = None,
) -> Dumped:
    """Write the records of the models as a JSON list (one record a line, or indented) or as JSON lines.

    `only` and `exclude` name models (`crm.contact` or `contact`), `exclude` also fields (`contact.photo`); views are
    left out unless `only` names them. `pks` are the primary keys wanted of one model. `published` leaves out the
    columns that events leave out. Memory stays flat.

    Raises ConfigurationError for names that are no model, SerializationError for a value that the model cannot read,
    unless `skip_broken` leaves its record out.
    """
    targets = Targets(models, service=service)
    chosen = _choose(targets, list(only), list(exclude), pks, published=published)
    with _snapshot(engine) as connection:
        note_parents(connection, targets.order)
        dump = Dump(connection, targets, skip_broken=skip_broken)
        if not only:
            chosen = {target: wanted for target, wanted in chosen.items() if not dump.is_view(target)}
        rows = dump.prepare(chosen)
        output.write(stream, _indented(dump.lines(rows, progress), indent), format)
    return dump.dumped


def _choose(
    targets: Targets, only: list[str], exclude: list[str], pks: Sequence[Any], *, published: bool
) -> dict[Target, Wanted]:
    wanted = targets.chosen(only, "MODEL")
    unwanted = targets.chosen(exclude, "--exclude")
    if pks and len(wanted) != 1:
        raise ConfigurationError("--pks are those of one model: name it")
    found = {}
    for target in targets:
        without = unwanted.get(target, frozenset())
        if without is not None and (not wanted or target in wanted):
            found[target] = Wanted(without, pks, published)
    return found


@contextlib.contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """One read transaction that sees one moment."""
    level = _SNAPSHOT.get(engine.dialect.name)
    with engine.connect() as connection:
        if level is not None:
            connection.execution_options(isolation_level=level)
        with connection.begin(), surroundings.reading(connection):
            yield connection


def _indented(lines: Iterator[bytes], indent: int | None) -> Iterator[bytes]:
    if indent is None:
        return lines
    return (json.dumps(json.loads(line), indent=indent, ensure_ascii=False).encode() for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0 when all is written, 1 when something is not in it or it failed, 2 for wrong use.

    After a failure no file is left.
    """
    return commands.run(command, argv, "eventbus-dumpdata")


_HELP = """Write the records of a database as `eventbus loaddata` reads them.

Without a MODEL all models are written, else the named ones (contact, or crm.contact); views only if named. A record is
{"fields": {...}, "model": "crm.contact", "pk": "ab12"}; the list is in an order that can be loaded. Without --models
the tables of the database are taken as they are.

A dump is a backup: it holds ALL columns, also passwords, tokens and whatever else events leave out. Keep it as safe as
the database, or use --published. What cannot be in it (pickles, columns that the models do not have) is listed, and the
exit code is 1 unless --exclude names it. Columns that the database computes are made anew by a load.

\b
  eventbus dumpdata --models myapp.models:Base --database sqlite:///app.db -o dump.json
  eventbus dumpdata contact order -o orders.jsonl.gz
  eventbus dumpdata contact --pks ab12,cd34
  eventbus dumpdata --mirror data/crm -o dump.json
"""


@click.command(help=_HELP, context_settings={**commands.HELP_OPTIONS, "max_content_width": 100})
@click.argument("only", nargs=-1, metavar="[MODEL]...")
@cli.model_options
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    help="Default: standard output. Compressed by suffix: .gz .bz2 .xz .lzma .zst .zip.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "jsonl"]),
    help="A JSON list, or one record a line. Default: by the suffix of the output, else a list.",
)
@click.option("--indent", type=click.IntRange(0, 16), help="Spaces to indent a list by. Default: one record a line.")
@click.option(
    "-e",
    "--exclude",
    multiple=True,
    metavar="MODEL[.FIELD]",
    help="Leave out a model or a field of one; may be given repeatedly.",
)
@click.option(
    "--pks", metavar="KEY,…", help="Only these primary keys of the one MODEL; a JSON list for composite ones."
)
@click.option("--published", is_flag=True, help="Only the columns that events show: secrets stay home.")
@click.option(
    "--skip-broken", is_flag=True, help="Leave out records with a value that cannot be read, list them, end with 1."
)
@click.option("--mirror", metavar="DIR", help="Take the records from a directory of the mirror, not from a database.")
@click.option("--no-progress", is_flag=True, help="No line that counts on the terminal.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and what is not in the dump.")
def command(
    *,
    only: tuple[str, ...],
    models: str | None,
    database: str | None,
    service: str | None,
    path: str | None,
    form: str | None,
    indent: int | None,
    exclude: tuple[str, ...],
    pks: str | None,
    published: bool,
    skip_broken: bool,
    mirror: str | None,
    no_progress: bool,
    quiet: bool,
) -> int:
    """Write the records of a database; `_HELP` is what users read."""
    chosen = cast("Format", form or output.format_of(path))
    if chosen == "jsonl" and indent is not None:
        raise ConfigurationError("--indent is for lists; JSON lines have one record a line")
    output.check_suffix(path)
    if mirror is not None:
        return _of_mirror(mirror, only, path, chosen, indent, quiet=quiet)
    found, engine = reflected.models_or_tables(models, database)
    with cli.disposing(engine), cli.ending(), open_output(path) as stream, cli.Progress() as progress:
        dumped = dumpdata(
            engine,
            stream,
            models=found,
            service=cli.service_name(service),
            only=only,
            exclude=exclude,
            pks=_keys(pks),
            format=chosen,
            indent=indent,
            published=published,
            skip_broken=skip_broken,
            progress=None if quiet or no_progress else progress,
        )
    return _tell(dumped, quiet=quiet)


def _keys(text: str | None) -> list[Any]:
    """Primary keys: a JSON list, or texts with commas between them."""
    if not text:
        return []
    if text.lstrip()[:1] == "[":
        try:
            found: list[Any] = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ConfigurationError(f"--pks: not a JSON list: {error}") from error
        return found
    return [key for key in text.split(",") if key]


def _tell(dumped: Dumped, *, quiet: bool) -> int:
    if not quiet:
        click.echo(dumped, err=True)
    for column, reason in dumped.left_out.items():
        if not quiet or column in dumped.incomplete:
            click.echo(f"not in the dump: {column} ({reason})", err=True)
    for record in dumped.broken:
        click.echo(f"not in the dump: {record}", err=True)
    for pk in dumped.absent:
        click.echo(f"not in the database: {pk if isinstance(pk, str) else orjson.dumps(pk).decode()}", err=True)
    if dumped.incomplete:
        click.echo("this is no whole backup: name what may be left out with --exclude MODEL.FIELD", err=True)
    return commands.FAILED if dumped.incomplete or dumped.broken or dumped.absent else commands.DONE


def _of_mirror(
    directory: str, only: Sequence[str], path: str | None, form: Format, indent: int | None, *, quiet: bool
) -> int:
    if not Path(directory).is_dir():
        raise ConfigurationError(f"--mirror {directory}: there is no such directory")
    dumped = Dumped()
    with cli.ending(), open_output(path) as stream:
        output.write(stream, _indented(records_of_mirror(directory, only, dumped), indent), form)
    return _tell(dumped, quiet=quiet)


if __name__ == "__main__":
    sys.exit(main())
