"""`eventbus-dumpdata`: write the records of a database as `eventbus-loaddata` reads them.

A dump is a backup: all columns are in it, secrets too, but those that are computed by the database and those of a type
that JSON has no form for (pickles). It is taken in one transaction, so it shows one moment. Records are written as they
are read, in an order in which they can be loaded, sorted by key.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

import click
import orjson
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import Dialect

from eventbus import cli, commands
from eventbus.dumps.surroundings import begin
from eventbus.dumps.targets import Target, Targets, rows_of
from eventbus.errors import ConfigurationError
from eventbus.records.schemas import RecordSchema, field_for
from eventbus.records.serialization import Serializer, build_serializer

Format = Literal["json", "jsonl"]
ROWS: Final = 1_000
"""Fetched from the server at a time."""
_SNAPSHOT: Final = {"postgresql": "REPEATABLE READ", "mysql": "REPEATABLE READ", "mariadb": "REPEATABLE READ"}


@dataclass(slots=True)
class Dumped:
    """What a dump holds: records in all and by model name, and the columns that are not in it, with the reason."""

    objects: int = 0
    models: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"Dumped {self.objects} object(s) of {len(self.models)} model(s)"


def dumpdata(
    engine: Engine,
    stream: IO[bytes],
    *,
    models: Any,
    service: str | None = None,
    only: Iterable[str] = (),
    exclude: Iterable[str] = (),
    format: Format = "json",
    indent: int | None = None,
    published: bool = False,
    progress: Callable[[Dumped], None] | None = None,
) -> Dumped:
    """Write the records of the models as a JSON list (one record a line, or indented) or as JSON lines.

    `only` and `exclude` name models (`crm.contact` or `contact`); `published` leaves out the columns that events leave
    out. Memory stays flat. Raises ConfigurationError for names that are no model, SerializationError for a value that
    JSON cannot hold (NaN).
    """
    targets = Targets(models, service=service)
    chosen = _choose(targets, only, exclude)
    dumped = Dumped()
    with _snapshot(engine) as connection:
        lines = _records(connection, targets, chosen, dumped, published=published, progress=progress)
        _write(stream, _indented(lines, indent), format)
    return dumped


def _choose(targets: Targets, only: Iterable[str], exclude: Iterable[str]) -> list[Target]:
    wanted, unwanted = _named(targets, only), _named(targets, exclude)
    return [each for each in targets if each not in unwanted and (not wanted or each in wanted)]


def _named(targets: Targets, names: Iterable[str]) -> set[Target]:
    found = set()
    for name in names:
        target = targets.find(name)
        if target is None:
            known = ", ".join(sorted(targets.by_entity))
            raise ConfigurationError(f"there is no model {name}; the models are {known}")
        found.add(target)
    return found


@contextlib.contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """One read transaction that sees one moment."""
    level = _SNAPSHOT.get(engine.dialect.name)
    with engine.connect() as connection:
        if level is not None:
            connection.execution_options(isolation_level=level)
        with connection.begin():
            begin(connection)
            yield connection


def _records(
    connection: Connection,
    targets: Targets,
    chosen: Sequence[Target],
    dumped: Dumped,
    *,
    published: bool,
    progress: Callable[[Dumped], None] | None,
) -> Iterator[bytes]:
    streaming = connection.execution_options(yield_per=ROWS)
    for target in chosen:
        model = targets.model(target)
        serializer = _serializer(target, model, connection.dialect, dumped, published=published)
        dumped.models[model] += 0
        for rows in streaming.execute(rows_of(target.entity)).partitions():
            for row in rows:
                fields = serializer.after(row)
                record = {"fields": fields, "model": model, "pk": serializer.pk(row)}
                yield orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
            dumped.objects += len(rows)
            dumped.models[model] += len(rows)
            if progress is not None:
                progress(dumped)


def _serializer(target: Target, model: str, dialect: Dialect, dumped: Dumped, *, published: bool) -> Serializer:
    """A serializer for all columns: what a user's schema shows to others is no backup."""
    entity = target.entity
    keys = []
    for key, column in zip(entity.keys, entity.columns, strict=True):
        if published and key in entity.withheld:
            reason: str | None = entity.withheld[key]
        elif key in target.computed:
            reason = "computed by the database"
        else:
            made = field_for(column.type, dialect)
            reason = f"no JSON form for {type(column.type).__name__}" if made is None else None
        if reason is None:
            keys.append(key)
        else:
            dumped.left_out[f"{model}.{key}"] = reason
    source: Any = entity.mapper or entity.table
    schema = RecordSchema(entity.name, source, entity.keys, entity.columns, entity.pk_index, None, tuple(keys), {})
    return build_serializer(schema, dialect)


def _indented(lines: Iterator[bytes], indent: int | None) -> Iterator[bytes]:
    if indent is None:
        return lines
    return (json.dumps(orjson.loads(line), indent=indent, ensure_ascii=False).encode() for line in lines)


def _write(stream: IO[bytes], lines: Iterator[bytes], format: Format) -> None:
    before, between, after = (b"", b"\n", b"\n") if format == "jsonl" else (b"[\n", b",\n", b"\n]\n")
    first = next(lines, None)  # before anything is written: a database that fails leaves no half of a list
    stream.write(before)
    if first is None:
        stream.write(b"" if format == "jsonl" else b"]\n")
        return
    stream.write(first)
    for line in lines:
        stream.write(between)
        stream.write(line)
    stream.write(after)


_COMPRESSED: Final[dict[str, Callable[[IO[bytes]], Any]]] = {
    ".gz": lambda raw: gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0),
    ".bz2": lambda raw: bz2.BZ2File(raw, "wb"),
    ".xz": lambda raw: lzma.LZMAFile(raw, "wb"),  # noqa: SIM115 - the caller closes it
}


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file for its owner alone that has its name only once it is whole; compressed by suffix."""
    if path is None or path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    final = Path(path)
    if not final.parent.is_dir():
        raise ConfigurationError(f"--output {path}: there is no directory {final.parent}")
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        with open(temporary, "xb", opener=_for_the_owner_alone) as raw, _compressed(final, raw) as stream:
            yield stream
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _for_the_owner_alone(path: str, flags: int) -> int:
    """A dump holds secrets."""
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def _compressed(path: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            inner = path.stem if Path(path.stem).suffix else f"{path.stem}.json"
            with archive.open(inner, "w", force_zip64=True) as stream:
                yield stream
    elif path.suffix in _COMPRESSED:
        with _COMPRESSED[path.suffix](raw) as stream:
            yield stream
    else:
        yield raw


def _format_of(path: str | None) -> Format:
    suffixes = set(Path(path or "").suffixes)
    return "jsonl" if suffixes & {".jsonl", ".ndjson"} else "json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0 when all is written, 1 when it failed (no file is left), 2 for wrong use."""
    return commands.run(command, argv, "eventbus-dumpdata")


_HELP = """Write the records of a database as eventbus-loaddata reads them.

Without a MODEL all models are written, else the named ones (contact, or crm.contact). A record is
{"fields": {...}, "model": "crm.contact", "pk": "ab12"}; the list is in an order that can be loaded.

A dump is a backup: it holds ALL columns, also passwords, tokens and whatever else events leave out. Keep it as safe as
the database, or use --published. Not in it: columns the database computes, and pickles.

\b
  eventbus-dumpdata --models myapp.models:Base --database sqlite:///app.db -o dump.json
  eventbus-dumpdata contact order -o orders.jsonl.gz
"""


@click.command(help=_HELP, context_settings={**commands.HELP_OPTIONS, "max_content_width": 100})
@click.argument("only", nargs=-1, metavar="[MODEL]...")
@cli.model_options
@click.option(
    "-o", "--output", metavar="FILE", help="Default: standard output. Compressed by suffix: .gz .bz2 .xz .zip."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "jsonl"]),
    help="A JSON list, or one record a line. Default: by the suffix of the output, else a list.",
)
@click.option("--indent", type=click.IntRange(0, 16), help="Spaces to indent a list by. Default: one record a line.")
@click.option("-e", "--exclude", multiple=True, metavar="MODEL", help="Leave out a model; may be given repeatedly.")
@click.option("--published", is_flag=True, help="Only the columns that events show: secrets stay home.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    *,
    only: tuple[str, ...],
    models: str | None,
    database: str | None,
    service: str | None,
    output: str | None,
    form: str | None,
    indent: int | None,
    exclude: tuple[str, ...],
    published: bool,
    quiet: bool,
) -> None:
    """Dump the records of a database; `_HELP` is what users read."""
    chosen = cast("Format", form or _format_of(output))
    if chosen == "jsonl" and indent is not None:
        raise ConfigurationError("--indent is for lists; JSON lines have one record a line")
    found, engine = cli.models_and_engine(models, database)
    with cli.disposing(engine), open_output(output) as stream, cli.Progress() as progress:
        dumped = dumpdata(
            engine,
            stream,
            models=found,
            service=cli.service_name(service),
            only=only,
            exclude=exclude,
            format=chosen,
            indent=indent,
            published=published,
            progress=None if quiet else progress,
        )
    if not quiet:
        click.echo(dumped, err=True)
        for column, reason in dumped.left_out.items():
            click.echo(f"not in the dump: {column} ({reason})", err=True)


if __name__ == "__main__":
    sys.exit(main())
