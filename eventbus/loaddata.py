"""`eventbus loaddata`: bring a dump back into a database, without publishing anything.

All of it in one transaction: either every record is there afterwards, or none. Records may come in any order. Nothing
is changed in silence: before the end it is seen that there are as many rows as records, and that every reference leads
to a row (see `eventbus.dumps`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import click
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, scoped_session

from eventbus import cli, commands
from eventbus.bus import Bus, installed
from eventbus.dumps import reflected, surroundings, triggers
from eventbus.dumps.loading import checks
from eventbus.dumps.loading.loader import Loader
from eventbus.dumps.outcome import MAX_ERRORS, Existing, Loaded, Options, adding
from eventbus.dumps.reading import files
from eventbus.dumps.reading.moments import Moment, moment_options, paths_of
from eventbus.dumps.reading.places import Places
from eventbus.dumps.reading.slices import Slice, Start, slices
from eventbus.dumps.targets import Targets
from eventbus.dumps.writing import constraints, sequences
from eventbus.dumps.writing.publishing import write_events
from eventbus.dumps.writing.writer import TooEarlyError
from eventbus.errors import ConfigurationError
from eventbus.muting import muted
from eventbus.outbox import Entry

__all__ = ["Loaded", "loaddata", "main"]

WINDOW: Final = 5_000
"""Records gathered before they are written."""


def loaddata(
    target: Engine | Session | scoped_session[Any],
    paths: Sequence[str | os.PathLike[str]],
    *,
    models: Any,
    service: str | None = None,
    existing: Existing = "update",
    ignore_nonexistent: bool = False,
    only: Iterable[str] = (),
    exclude: Iterable[str] = (),
    dry_run: bool = False,
    max_errors: int = MAX_ERRORS,
    batch_size: int | None = None,
    commit_every: int | None = None,
    resume: int | str = 0,
    publish: Bus | None = None,
    without_transactions: bool = False,
    progress: Callable[[Loaded], None] | None = None,
) -> Loaded:
    """Load dumps, fixtures or mirror directories; `-` is standard input. Nothing of it is published.

    With an Engine the load is one transaction of its own, committed at the end. With a Session it is a part of the
    session's transaction, which the caller commits; a failed load takes back only itself. From a coroutine:
    `await async_session.run_sync(loaddata, paths, models=Base)`.

    `models` is a declarative base, registry or MetaData, or a list of them. `existing` says what becomes of keys that
    are there already: their given fields are overwritten (as Django does), they are kept, or the load fails. `only` and
    `exclude` name models (`crm.contact` or `contact`), `exclude` also fields (`contact.photo`). With `dry_run` all is
    done and nothing kept. With `publish`, a bus, snapshots of the rows that were loaded go out, and of no others.
    `commit_every` so many records a transaction ends, in which all references must be fulfilled; after a failure those
    before it stay, and `resume` leaves so many records at the beginning out. `batch_size` records are written at a
    time. Tables of an engine without transactions are refused unless `without_transactions`.

    Raises LoadError, which tells up to `max_errors` records with file, number, line, model, key and field; and
    ConfigurationError.
    """
    if not isinstance(target, Engine) and (publish is not None or commit_every is not None):
        raise ConfigurationError("publish and commit_every are for an Engine: a Session's owner commits")
    options = Options(
        existing,
        ignore_nonexistent,
        frozenset(exclude),
        frozenset(only),
        progress,
        max_errors,
        batch_size or WINDOW,
        without_transactions,
        keep_keys=publish is not None,
    )
    load = _Load(paths, Targets(models, service=service), options, dry_run, publish)
    if commit_every is not None:
        assert isinstance(target, Engine)
        return load.in_parts(target, commit_every, Start.parse(resume))
    if isinstance(target, Engine):
        return load.at_once(target)
    return load.within(target() if isinstance(target, scoped_session) else target)


@dataclass(frozen=True, slots=True)
class _Load:
    """One call of loaddata."""

    paths: Sequence[str | os.PathLike[str]]
    targets: Targets
    options: Options
    dry_run: bool
    publish: Bus | None

    def at_once(self, engine: Engine, part: Slice | None = None) -> Loaded:
        """In a transaction of its own."""
        entries: list[Entry] = []
        with Session(engine) as session, session.begin():
            loaded = self.within(session, part, entries)
        if self.publish is not None and not self.dry_run:
            self.publish.sink.submit(entries)
        return loaded

    def in_parts(self, engine: Engine, every: int, start: Start) -> Loaded:
        """In a transaction for each so many records; an error says how many are there."""
        if self.options.existing == "replace":
            raise ConfigurationError("--commit-every and --existing replace exclude each other: it needs all records")
        if self.dry_run:
            raise ConfigurationError(
                "--commit-every and --dry-run exclude each other: later parts need the earlier ones"
            )
        total = Loaded(committed=start.records, resume=str(start), total=files.plain_size(self.paths))
        each = replace(self, options=replace(self.options, progress=adding(total, self.options.progress)))
        try:
            for part in slices(self.paths, every, start):
                total.add(each.at_once(engine, part))
                total.committed += part.size
                total.resume = str(Start(total.committed, part.mark))
                if self.options.progress is not None:
                    self.options.progress(total)
        except BaseException as error:
            error.add_note(f"{total.committed:,} records are committed: go on with --resume {total.resume}")
            raise
        return total

    def within(self, session: Session, part: Slice | None = None, entries: list[Entry] | None = None) -> Loaded:
        """As a part of a session's transaction."""
        with muted(session):
            connection = session.connection()
            with surroundings.loading(connection), connection.begin_nested() as savepoint:
                loader = self._attempts(connection, part)
                replaced = self.options.existing == "replace"
                checks.check(connection, self.targets, loader, Places(self.paths), replaced=replaced)
                tables = {each.table: None for target in loader.used for each in target.parts}
                sequences.lift_sequences(connection, tables)
                loader.loaded.triggered = dict.fromkeys(triggers.with_triggers(connection, tables))
                if self.publish is not None and loader.writer.kept_keys is not None:
                    for count, written in write_events(self.publish, connection, loader.used, loader.writer.kept_keys):
                        loader.loaded.published += count
                        (entries if entries is not None else []).extend(written)
                    loader.loaded.untold = loader.loaded.deleted + loader.unlinked
                if loader.writer.kept_keys is not None:
                    loader.writer.kept_keys.drop()
                if self.dry_run:
                    savepoint.rollback()
        session.expire_all()
        loader.loaded.dry_run = self.dry_run
        return loader.loaded

    def _attempts(self, connection: Connection, part: Slice | None) -> Loader:
        """Rows as they come, or else sorted; standard input cannot be read again."""
        sorted_rows = connection.dialect.name == "postgresql"
        circular = constraints.not_deferrable(connection, self.targets.late) if sorted_rows else {}
        again = part is not None or files.STDIN not in [os.fspath(path) for path in self.paths]
        if not sorted_rows or (again and not circular):
            loader = self._loader(connection, part, by_table=False, retry=sorted_rows)
            with contextlib.suppress(TooEarlyError), connection.begin_nested():
                loader.load()
                return loader
        loader = self._loader(connection, part, by_table=True, circular=list(circular))
        loader.load()
        return loader

    def _loader(self, connection: Connection, part: Slice | None, **how: Any) -> Loader:
        return Loader(connection, self.targets, self.paths, self.options, part=part, **how)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0 when all is loaded, 1 when nothing is, 2 for wrong use or configuration."""
    return commands.run(command, argv, "eventbus-loaddata")


_HELP = """Load records into a database. Nothing is published, unless --publish says so.

PATH is a file that `eventbus dumpdata` wrote (or a Django fixture): a JSON list or one record a line, also compressed
(gzip, bzip2, xz, lzma, zst, zip); a directory of the mirror, or a service or entity in it; or `-` for standard input. A
record is {"model": "crm.contact", "pk": "ab12", "fields": {...}}. Without --models the tables of the database are taken
as they are.

Either all records are loaded or, after an error, none. Records may come in any order, also before those they refer to.
What is in the database and not in the files stays as it is, unless --existing replace says otherwise.

\b
  eventbus loaddata dump.json --models myapp.models:Base --database sqlite:///app.db
  eventbus dumpdata | gzip > dump.json.gz ;  zcat dump.json.gz | eventbus loaddata -
  eventbus loaddata data/crm --existing keep
  eventbus loaddata dump.json --existing replace --dry-run
  eventbus loaddata --at 2026-11-23T08:00:00Z data --database sqlite:///then.db
"""


@click.command(help=_HELP, context_settings={**commands.HELP_OPTIONS, "max_content_width": 100})
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@cli.model_options
@moment_options
@click.option(
    "--existing",
    type=click.Choice(["update", "keep", "fail", "replace"]),
    default="update",
    show_default=True,
    help="A record whose key is in the database already: overwrite the fields given, keep it as it is, or fail. "
    "replace: as update, and what is not in the files goes, of each model that is in them (or in --only).",
)
@click.option(
    "-i",
    "--ignorenonexistent",
    is_flag=True,
    help="Leave out records of models, and fields, that the application does not have.",
)
@click.option("--only", multiple=True, metavar="MODEL", help="Load this model alone; may be given repeatedly.")
@click.option(
    "-e",
    "--exclude",
    multiple=True,
    metavar="MODEL[.FIELD]",
    help="Leave out a model (crm.contact) or a field of one (crm.contact.photo); may be given repeatedly.",
)
@click.option("--dry-run", is_flag=True, help="Do all of it, check it, and keep nothing.")
@click.option(
    "--max-errors", type=click.IntRange(1), default=MAX_ERRORS, show_default=True, help="Wrong records that are told."
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=WINDOW, show_default=True, help="Records written at a time."
)
@click.option(
    "--without-transactions",
    is_flag=True,
    help="Load into tables of an engine without transactions (MyISAM) too, where what a failed load wrote stays.",
)
@click.option(
    "--commit-every",
    type=click.IntRange(1),
    metavar="N",
    help="Commit after so many records: what was committed stays when a later one fails. References must lead to "
    "records of the same or an earlier part. Each commit is told on standard error.",
)
@click.option(
    "--resume",
    default="0",
    metavar="N[:MARK]",
    help="Leave out the first N records, with --commit-every; by the MARK it is seen that they are those of then.",
)
@click.option(
    "--publish",
    metavar="SESSION",
    help="Publish what was loaded, and no more, as snapshots: through what eventbus.install() was called for, or the "
    "bus it returned, in an importable module: myapp.db:Session.",
)
@click.option("--no-progress", is_flag=True, help="No line that counts on the terminal.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    *,
    paths: tuple[str, ...],
    at: str | None,
    tx: str | None,
    position: int | None,
    models: str | None,
    database: str | None,
    service: str | None,
    existing: Existing,
    ignorenonexistent: bool,
    only: tuple[str, ...],
    exclude: tuple[str, ...],
    dry_run: bool,
    max_errors: int,
    batch_size: int,
    without_transactions: bool,
    commit_every: int | None,
    resume: str,
    publish: str | None,
    no_progress: bool,
    quiet: bool,
) -> None:
    """Load records into a database; `_HELP` is what users read."""
    for path in paths:
        if path != files.STDIN and not os.path.exists(path):
            raise ConfigurationError(f"{path}: there is no such file or directory")
    if resume != "0" and commit_every is None:
        raise ConfigurationError("--resume goes on with a load that was begun with --commit-every: give that as well")
    found, engine = reflected.models_or_tables(models, database)
    bus = None if publish is None else _bus(publish)
    closing = contextlib.nullcontext() if bus is None else contextlib.closing(bus)
    with contextlib.ExitStack() as stack:
        for each in (cli.disposing(engine), closing, cli.ending()):
            stack.enter_context(each)
        chosen = stack.enter_context(paths_of(paths, Moment(at, tx, position)))
        progress = _Commits() if commit_every is not None else stack.enter_context(cli.Progress())
        loaded = loaddata(
            engine,
            chosen,
            models=found,
            service=service,
            existing=existing,
            ignore_nonexistent=ignorenonexistent,
            only=only,
            exclude=exclude,
            dry_run=dry_run,
            max_errors=max_errors,
            batch_size=batch_size,
            without_transactions=without_transactions,
            commit_every=commit_every,
            resume=resume,
            publish=bus,
            progress=None if quiet or (no_progress and commit_every is None) else progress,
        )
        if bus is not None and not dry_run:
            bus.flush()
    if not quiet:
        click.echo(loaded)
    for warning in loaded.warnings():
        click.echo(warning, err=True)


class _Commits:
    """Tells each commit, so that it is known where to go on if this process is killed."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, loaded: Loaded) -> None:
        if loaded.committed > self._told:
            self._told = loaded.committed
            click.echo(f"{self._told:,} records are committed (--resume {loaded.resume})", err=True)


def _bus(name: str) -> Bus:
    found = cli.find("--publish", name, "Session")
    return found if isinstance(found, Bus) else installed(found)


if __name__ == "__main__":
    sys.exit(main())
