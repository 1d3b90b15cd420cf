"""`eventbus-loaddata`: bring a dump back into a database, without publishing anything.

All of it in one transaction: either every record is there afterwards, or none. Records may come in any order. SQLite
and MariaDB check references at the end (see `references`). On PostgreSQL the rows of a window of records go in by the
order in which tables refer to each other; where that was not enough, because a record refers to one far behind, the
load begins anew and sorts all rows by table in temporary files first.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, scoped_session

from eventbus import cli, commands
from eventbus.dumps import files, references
from eventbus.dumps.inserts import Existing
from eventbus.dumps.rows import Group, Origin, Plan, Planner
from eventbus.dumps.sources import LONGEST_PATH
from eventbus.dumps.targets import Target, Targets
from eventbus.dumps.writer import Sorter, TooEarlyError, Writer, failure
from eventbus.errors import ConfigurationError, LoadError
from eventbus.muting import muted
from eventbus.redaction import shown

WINDOW: Final = 5_000
"""Records gathered before they are written."""
WINDOW_BYTES: Final = 4 << 20
MOST_PLANS: Final = 10_000
"""Sets and orders of fields that are remembered."""


@dataclass(slots=True)
class Loaded:
    """What a load did: records in all and by model name, the files they came from, and records left out on request.

    `kept` of the records were there already and are as they were (`existing="keep"`).
    """

    objects: int = 0
    files: int = 0
    skipped: int = 0
    kept: int = 0
    models: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kept = f", kept {self.kept} that were there" if self.kept else ""
        left_out = f" ({self.skipped} of other models left out)" if self.skipped else ""
        return f"Installed {self.objects - self.kept} object(s) from {self.files} fixture(s){kept}{left_out}"


def loaddata(
    target: Engine | Session | scoped_session[Any],
    paths: Sequence[str | os.PathLike[str]],
    *,
    models: Any,
    service: str | None = None,
    existing: Existing = "update",
    ignore_nonexistent: bool = False,
    exclude: Iterable[str] = (),
    progress: Callable[[Loaded], None] | None = None,
) -> Loaded:
    """Load dumps, fixtures or mirror directories; `-` is standard input. Nothing of it is published.

    With an Engine the load is one transaction of its own, committed at the end. With a Session it is a part of the
    session's transaction, which the caller commits; a failed load takes back only itself. From a coroutine:
    `await async_session.run_sync(loaddata, paths, models=Base)`.

    `models` is a declarative base, registry or MetaData, or a list of them. `existing` says what becomes of keys that
    are there already: their given fields are overwritten (as Django does), they are kept, or the load fails.
    `exclude` names models (`crm.contact` or `contact`). Raises LoadError with file, model and key; ConfigurationError.
    """
    options = _Options(existing, ignore_nonexistent, frozenset(exclude), progress)
    if isinstance(target, Engine):
        with Session(target) as session, session.begin():
            return _load(session, paths, models, service, options)
    return _load(target() if isinstance(target, scoped_session) else target, paths, models, service, options)


@dataclass(frozen=True, slots=True)
class _Options:
    existing: Existing
    ignore_nonexistent: bool
    exclude: frozenset[str]
    progress: Callable[[Loaded], None] | None


def _load(
    session: Session, paths: Sequence[str | os.PathLike[str]], models: Any, service: str | None, options: _Options
) -> Loaded:
    with muted(session):
        targets = Targets(models, service=service)
        connection = session.connection()
        with references.checked_later(connection) as check:
            loader = _load_in_file_order(connection, targets, paths, options)
            if loader is None:
                loader = _load_by_table(connection, targets, paths, options)
            check(targets, loader.used)
        references.lift_sequences(connection, loader.used)
    session.expire_all()
    return loader.loaded


def _load_in_file_order(
    connection: Connection, targets: Targets, paths: Sequence[Any], options: _Options
) -> _Loader | None:
    """None, with nothing changed, where a record refers to one that comes too late in the files."""
    sortable = connection.dialect.name == "postgresql"
    if sortable and files.STDIN in map(os.fspath, paths):
        return None  # standard input cannot be read again
    writer = Writer(connection, targets, keep=options.existing == "keep", retry=sortable)
    loader = _Loader(connection, targets, options, writer)
    savepoint = connection.begin_nested()
    try:
        loader.load(paths)
    except BaseException as error:
        savepoint.rollback()
        if isinstance(error, TooEarlyError):
            return None
        raise
    savepoint.commit()
    return loader


def _load_by_table(connection: Connection, targets: Targets, paths: Sequence[Any], options: _Options) -> _Loader:
    writer = Writer(connection, targets, keep=options.existing == "keep")
    with connection.begin_nested(), Sorter(targets, writer) as sorter:
        loader = _Loader(connection, targets, options, sorter)
        loader.load(paths)
        return loader


class _Loader:
    """Reads records, makes rows of them, and hands those on in windows."""

    def __init__(self, connection: Connection, targets: Targets, options: _Options, writer: Writer | Sorter) -> None:
        self.loaded = Loaded()
        self._targets = targets
        self._options = options
        self._writer = writer
        self._planner = Planner(
            targets, connection.dialect, options.existing, ignore_unknown=options.ignore_nonexistent
        )
        self._plans: dict[tuple[Target, bool, tuple[str, ...] | frozenset[str]], Plan] = {}
        self._groups: list[Group] = []
        self._met: set[Target] = set()
        self._models: dict[Any, Target | None] = {}
        self._last_path = ""

    def load(self, paths: Sequence[Any]) -> None:
        waiting = size = 0
        for batch in files.read(paths):
            for item in batch.records:
                self._add(*files.origin(batch.path, item))
            waiting += len(batch.records)
            size += batch.size
            if waiting >= WINDOW or size >= WINDOW_BYTES:
                self._flush()
                waiting = size = 0
        self._flush()
        self._writer.finish()
        self.loaded.kept = self._writer.kept

    @property
    def used(self) -> list[Target]:
        """What records were loaded into, in dependency order."""
        return [target for target in self._targets if target in self._met]

    def _add(self, path: str, record: Any) -> None:
        if path != self._last_path:
            self._last_path = path
            self.loaded.files += 1
        try:
            model, pk, fields = record["model"], record.get("pk"), record["fields"]
            target = self._models[model] if model in self._models else self._meet(model)
            names = tuple(fields.keys())
        except (TypeError, KeyError, AttributeError):
            form = 'not a record of the form {"model", "pk", "fields"}'
            raise LoadError(f"{shown(path, LONGEST_PATH)}: {form}", path=path) from None
        except LookupError as error:
            raise LoadError(f"{shown(path, LONGEST_PATH)}: {error}", path=path, model=str(record["model"])) from None
        if target is None:
            self.loaded.skipped += 1
            return
        if "stub" in record:
            raise failure(path, model, pk, f"a stub, of which only the key was published: {record['stub']}")
        self._make_rows((path, model, pk), target, fields, names)
        self.loaded.objects += 1
        self.loaded.models[model] += 1

    def _make_rows(self, origin: Origin, target: Target, fields: Mapping[str, Any], names: tuple[str, ...]) -> None:
        pk = origin[2]
        plan: Plan | None = None
        try:
            plan = self._plans.get((target, pk is not None, names)) or self._plan(target, pk is not None, names)
            plan.add(origin, fields)
        except Exception as error:
            raise failure(*origin, str(error) if plan is None else plan.explain(fields)) from error

    def _plan(self, target: Target, keyed: bool, names: tuple[str, ...]) -> Plan:
        """One plan for each set of fields, found again quickly by their order as well."""
        same = target, keyed, frozenset(names)
        plan = self._plans.get(same)
        if plan is None:
            plan = self._plans[same] = self._planner.plan(target, keyed, names)
            self._groups += [group for group, _ in plan.groups] + [group for _, group, _ in plan.links]
        self._plans[target, keyed, names] = plan
        return plan

    def _meet(self, model: str) -> Target | None:
        """The target of a model name seen for the first time, or None for one to leave out."""
        short = model.rpartition(".")[2]
        target = None
        if model not in self._options.exclude and short not in self._options.exclude:
            target = self._targets.find(model)
            if target is None and not self._options.ignore_nonexistent:
                raise _UnknownModel(self._unknown(model))
        self._models[model] = target
        return target

    def _unknown(self, model: str) -> str:
        name = model.rpartition(".")[2]
        model = shown(model)
        if name in self._targets.by_entity:
            return (
                f"{model} is not of the service {self._targets.service!r}: load one service at a time, "
                f"named by --service (or --ignorenonexistent to leave other ones out)"
            )
        known = ", ".join(sorted(self._targets.by_entity)[:20])
        return f"there is no model {model}; the models are {known} (--ignorenonexistent leaves others out)"

    def _flush(self) -> None:
        filled = [group for group in self._groups if group.rows]
        self._writer.write(filled)
        self._met.update(group.target for group in filled)
        for group in filled:
            group.rows, group.origins = [], []
        if len(self._plans) > MOST_PLANS:
            # As many as there are records, in the worst file. Those in use are soon made again.
            self._plans.clear()
            self._groups.clear()
        if self._options.progress is not None:
            self._options.progress(self.loaded)


class _UnknownModel(LookupError):
    """No model has this name."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0 when all is loaded, 1 when nothing is, 2 for wrong use or configuration."""
    return commands.run(command, argv, "eventbus-loaddata")


_HELP = """Load records into a database. Nothing is published.

PATH is a file that eventbus-dumpdata wrote (or a Django fixture): a JSON list or one record a line, also compressed
(gzip, bzip2, xz, zip); a directory of the mirror, or a service or entity in it; or `-` for standard input. A record is
{"model": "crm.contact", "pk": "ab12", "fields": {...}}.

Either all records are loaded or, after an error, none. Records may come in any order, also before those they refer to.
What is in the database and not in the files stays as it is.

\b
  eventbus-loaddata dump.json --models myapp.models:Base --database sqlite:///app.db
  eventbus-dumpdata | gzip > dump.json.gz ;  zcat dump.json.gz | eventbus-loaddata -
  eventbus-loaddata data/crm --existing keep
"""


@click.command(help=_HELP, context_settings={**commands.HELP_OPTIONS, "max_content_width": 100})
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@cli.model_options
@click.option(
    "--existing",
    type=click.Choice(["update", "keep", "fail"]),
    default="update",
    show_default=True,
    help="A record whose key is in the database already: overwrite the fields given, keep it as it is, or fail.",
)
@click.option(
    "-i",
    "--ignorenonexistent",
    is_flag=True,
    help="Leave out records of models, and fields, that the application does not have.",
)
@click.option(
    "-e", "--exclude", multiple=True, metavar="MODEL", help="Leave out a model (crm.contact); may be given repeatedly."
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    *,
    paths: tuple[str, ...],
    models: str | None,
    database: str | None,
    service: str | None,
    existing: Existing,
    ignorenonexistent: bool,
    exclude: tuple[str, ...],
    quiet: bool,
) -> None:
    """Load records into a database; `_HELP` is what users read."""
    found, engine = cli.models_and_engine(models, database)
    for path in paths:
        if path != files.STDIN and not os.path.exists(path):
            raise ConfigurationError(f"{path}: there is no such file or directory")
    with cli.disposing(engine), cli.Progress() as progress:
        loaded = loaddata(
            engine,
            paths,
            models=found,
            service=cli.service_name(service),
            existing=existing,
            ignore_nonexistent=ignorenonexistent,
            exclude=exclude,
            progress=None if quiet else progress,
        )
    if not quiet:
        click.echo(loaded)


if __name__ == "__main__":
    sys.exit(main())
