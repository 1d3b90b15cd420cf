"""`eventbus snapshot`: publish the rows that are there already, as events with `op` `r`.

Safe beside running services. Rows are read in chunks, by primary key, under a shared lock, and their events go through
the same outbox in that same transaction. So the snapshot of a record has its version in commit order with the changes
of that record: what came before is in the row that was read, what comes after has a higher version.

No deadlock can come of it: rows that somebody has locked are skipped, and read afterwards one by one, each in a
transaction that holds no other lock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import click
import orjson
import sqlalchemy as sa
from marshmallow import ValidationError
from sqlalchemy import Connection, Engine

from eventbus import cli, commands
from eventbus.bus import Bus, installed
from eventbus.dumps.targets import entities_of, note_inheritance, primary_key, rows_of
from eventbus.errors import ConfigurationError, counted
from eventbus.events import naming
from eventbus.events.change import Key
from eventbus.events.context import current_author
from eventbus.events.envelope import Batch
from eventbus.events.ids import uuid7
from eventbus.events.notes import current_notes
from eventbus.listeners.committing.encoding import envelope_of, key_values
from eventbus.listeners.flushing import reading
from eventbus.listeners.recording.frame import Net, Recorded
from eventbus.outbox import Entry
from eventbus.outbox.side import begin_immediate, side_engine
from eventbus.records.columns import stored
from eventbus.records.entity import Entity
from eventbus.records.schemas.column_types import field_for

CHUNK: Final = 500
"""Rows that are locked together, for some milliseconds."""


@dataclass(slots=True)
class Published:
    """How far a snapshot is: records that the broker has confirmed, and the last of them, as `contact/ab12`."""

    objects: int = 0
    last: str | None = None


def snapshot(
    bus: Bus,
    engine: Engine,
    *,
    models: Any,
    only: Iterable[str] = (),
    after: str | None = None,
    chunk: int = CHUNK,
    timeout: float = 30.0,
    progress: Callable[[Published], None] | None = None,
) -> Published:
    """Publish all rows of the models, with the fields that the bus publishes.

    `models` is a declarative base, registry or MetaData, or a list of them; `only` names entities; `after` is the last
    record of a snapshot that was interrupted. The broker has confirmed a chunk before the next one is read, so neither
    memory nor the outbox grows; where that takes more than `timeout` seconds FlushTimeout is raised. So are
    ConfigurationError for names that are no entity, and SerializationError for a record that no event can hold.
    """
    done = Published()
    to_do = _to_do(bus, engine, models, set(only), after)
    in_memory = engine.dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:")
    side = engine if in_memory else side_engine(engine)
    try:
        note_inheritance(side, bus.entities, models)
        for entity, start in to_do:
            for key, count in Rows(bus, side, entity).publish(start, chunk):
                bus.flush(timeout)  # before that, nothing says that the broker has them
                done.objects += count
                done.last = subject_of(entity, key, engine)
                if progress is not None:
                    progress(done)
    except BaseException as error:
        error.add_note(_where_to_go_on(done, after))
        raise
    finally:
        if side is not engine:
            side.dispose()
    return done


def _where_to_go_on(done: Published, after: str | None) -> str:
    last = done.last or after
    return f"{counted(done.objects, 'object')} published; " + (f"go on with --after {last}" if last else "begin anew")


def _to_do(bus: Bus, engine: Engine, models: Any, only: set[str], after: str | None) -> list[tuple[Entity, Key | None]]:
    """The entities in their order, each with the key after which to begin."""
    found = {entity.name: entity for entity in entities_of(bus.entities, models)}
    first, _, text = (after or "").partition("/")
    for name in only | ({first} if after else set()):
        if name not in found:
            raise ConfigurationError(f"there is no entity {name}; the bus publishes {', '.join(found) or 'none'}")
    names = [name for name in found if not only or name in only]
    if after and first in names:
        names = names[names.index(first) :]
    return [(found[name], key_of(found[name], text, engine) if name == first else None) for name in names]


def key_of(entity: Entity, text: str, engine: Engine) -> Key:
    """The primary key in a subject, as values."""
    columns = [entity.columns[position] for position in entity.pk_index]
    try:
        parts = orjson.loads(text) if len(columns) > 1 else [text]
        return tuple(_value(column, part, engine) for column, part in zip(columns, parts, strict=True))
    except (ValueError, TypeError, ValidationError) as error:
        raise ConfigurationError(f"{entity.name}/{text} is no record's name: {error}") from error


def _value(column: sa.Column[Any], part: Any, engine: Engine) -> Any:
    """A part of a key as the application has it."""
    field = field_for(column.type, engine.dialect)
    value = part if field is None else field._deserialize(part, None, None)
    return str(value) if isinstance(column.type, sa.Uuid) and not column.type.as_uuid else value


def subject_of(entity: Entity, key: Key, engine: Engine) -> str:
    """`contact/ab12`, from a primary key as values."""
    return naming.subject(entity.name, entity.serializer(engine.dialect).pk(key_values(entity, key)))


class Rows:
    """The rows of one entity, in the order of their keys."""

    def __init__(self, bus: Bus, engine: Engine, entity: Entity) -> None:
        self._bus = bus
        self._engine = engine
        self._entity = entity
        self._key = primary_key(entity)
        self._rows = rows_of(entity, entity.read, show=stored)

    def publish(self, start: Key | None, size: int) -> Iterator[tuple[Key, int]]:
        """Chunk by chunk; yields after each its last key, and how many events it has."""
        for keys in self._pages(start, size):
            chunk = ~beyond(self._key, keys[-1])
            if start is not None:
                chunk &= beyond(self._key, start)
            published = self._publish(chunk, skip_locked=True)
            for key in keys:
                if key not in published:
                    # Locked by somebody who changes it, or gone.
                    published |= self._publish(matching(self._key, [key]))
            start = keys[-1]
            yield start, len(published)

    def publish_these(self, keys: Sequence[Key]) -> set[Key]:
        """Publish the rows with these keys; returns the keys of those that are there."""
        published = self._publish(matching(self._key, keys), skip_locked=True)
        for key in keys:
            if key not in published:
                published |= self._publish(matching(self._key, [key]))
        return published

    def _pages(self, start: Key | None, size: int) -> Iterator[list[Key]]:
        keys = self._rows.with_only_columns(*self._key, maintain_column_froms=True).limit(size)
        while True:
            with self._engine.connect() as connection:
                query = keys if start is None else keys.where(beyond(self._key, start))
                page = [tuple(row) for row in connection.execute(query)]
            if not page:
                return
            yield page
            start = page[-1]

    def _publish(self, condition: sa.ColumnElement[bool], *, skip_locked: bool = False) -> set[Key]:
        """Publish these rows in one transaction, which holds them until their events have a version."""
        query = self._rows.where(condition).with_for_update(read=True, skip_locked=skip_locked)
        with self._engine.begin() as connection:
            begin_immediate(connection)
            rows = reading.rows_of(connection, query, self._entity.columns)
            entries = self._write(connection, rows) if rows else []
        self._bus.sink.submit(entries)
        return {self._key_of(row) for row in rows}

    def _write(self, connection: Connection, rows: Sequence[Any]) -> list[Entry]:
        entity = self._entity
        shared = envelope_of(uuid7(), current_author(), len(rows), current_notes())
        read: list[Net] = [(Recorded("r", entity, self._key_of(row), {}, tuple(row)), ()) for row in rows]
        keys, bodies = self._bus.encoder.events(read, shared, connection.dialect)
        return self._bus.sink.write(connection, Batch(0, shared.transaction, keys, bodies))

    def _key_of(self, row: Sequence[Any]) -> Key:
        return tuple(row[position] for position in self._entity.pk_index)


def matching(columns: Sequence[sa.ColumnElement[Any]], keys: Sequence[Key]) -> sa.ColumnElement[bool]:
    """One of these keys; at least one has to be given, and at most some hundred."""
    if len(columns) == 1:
        return columns[0].in_([value for (value,) in keys])
    return sa.or_(*(sa.and_(*map(sa.ColumnElement.__eq__, columns, key)) for key in keys))


def beyond(columns: Sequence[sa.ColumnElement[Any]], key: Key) -> sa.ColumnElement[bool]:
    """Behind this key in the order of keys; written so that every database uses the index."""
    # As a parameter: SQLAlchemy has no order for True and False as they are.
    column, value = columns[0], sa.bindparam(None, key[0], type_=columns[0].type, unique=True)
    if len(columns) == 1:
        return sa.and_(column > value)
    return sa.and_(column >= value, sa.or_(column > value, beyond(columns[1:], key[1:])))


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0 when all is published, 1 when not, 2 for wrong use or configuration."""
    return commands.run(command, argv, "python -m eventbus.snapshot")


_HELP = """Publish the rows that a database has already, as snapshots of its records.

SESSION is what eventbus.install() was called for, or the bus it returned, in an importable module: myapp.db:Session.
What is published of a record, and under which service's name, is as it says there. Without an ENTITY all are published.

Run it once after the first install(), or after a restored backup, beside the running services: a change that comes
meanwhile wins over the snapshot. Every consumer of these events gets them. To run it again does no harm.

\b
  eventbus snapshot myapp.db:Session --models myapp.models:Base --database postgresql+psycopg://…
  eventbus snapshot myapp.db:Session contact order_line
"""


@click.command(help=_HELP, context_settings={**commands.HELP_OPTIONS, "max_content_width": 100})
@click.argument("session")
@click.argument("only", nargs=-1, metavar="[ENTITY]...")
@cli.database_options
@click.option("--after", metavar="RECORD", help="Go on behind this one (contact/ab12), where an earlier run ended.")
@click.option(
    "--chunk", type=click.IntRange(1), default=CHUNK, show_default=True, help="Rows read and locked at a time."
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    *,
    session: str,
    only: tuple[str, ...],
    models: str | None,
    database: str | None,
    after: str | None,
    chunk: int,
    quiet: bool,
) -> None:
    """Publish the rows of a database; `_HELP` is what users read."""
    target = cli.find("SESSION", session, "Session")
    bus = target if isinstance(target, Bus) else installed(target)
    found, engine = cli.models_and_engine(models, database)
    with cli.disposing(engine), closing(bus), cli.Progress() as progress:
        show = None if quiet else progress
        published = snapshot(bus, engine, models=found, only=only, after=after, chunk=chunk, progress=show)
    if not quiet:
        click.echo(f"Published {published.objects} object(s)")


if __name__ == "__main__":
    sys.exit(main())
