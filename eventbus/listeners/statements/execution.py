"""One UPDATE, DELETE or INSERT from before it is sent until it is recorded."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.exc import DBAPIError

from eventbus.errors import CaptureError
from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.listeners.flushing.plan import getter
from eventbus.listeners.recording.frame import Frame
from eventbus.listeners.statements.natures import Nature
from eventbus.listeners.statements.returning import Returning
from eventbus.listeners.statements.rows import Hit, Known, Lock, Row, hold_file, look, look_by, values_of
from eventbus.listeners.statements.sent import Sent

Record = Callable[[Callable[[Frame], None]], None]
"""Has a note written into the frame of the transaction."""


class Execution:
    """Base of the three. `has_run` may be called for several batches, `finish` once all went well."""

    def __init__(self, connection: Connection, sent: Sent, hit: Hit, nature: Nature, record: Record) -> None:
        self.context = sent.context
        self.connection = connection
        self.sent = sent
        self.hit = hit
        self.nature = nature
        self.record = record
        self.returning: Returning | None = None
        self._own_text = ""
        self._in_batches = self.context.execute_style is ExecuteStyle.INSERTMANYVALUES

    def text(self, statement: str) -> str:
        """The statement as it is to be sent."""
        if self.returning is None:
            return statement
        self._own_text = statement
        return self.returning.added_to(statement, self.context)

    def blame(self, error: DBAPIError) -> None:
        """Have an error show the statement as the program wrote it."""
        if self.returning is not None and error.statement == self.returning.added_to(self._own_text, self.context):
            error.statement = self._own_text

    def has_run(self, cursor: Any) -> None:
        if self.returning is None or self._in_batches:
            return
        self.returning.take(cursor, self.context)
        if self.context.compiled.effective_returning:
            return
        shy = cursor.rowcount < 0
        if shy:
            # An adapter of SQLAlchemy 2.0 (aiosqlite) tells count and last id only where no rows are given back.
            self.context._rowcount = len(self.returning.rows)
        if self.connection.dialect.name in ("mysql", "mariadb") or (shy and self.context.isinsert):
            # MariaDB's drivers tell this only then, too.
            last = self.last_id()
            self.context.get_lastrowid = lambda: last

    def last_id(self) -> int:
        """What the driver would tell as the last id of an INSERT (MySQL)."""
        return 0

    def seem_untold(self) -> None:
        """Have a list of rows that was made to give them back tell no more than the driver does otherwise."""

    def finish(self) -> None:
        """Record what it did."""
        raise NotImplementedError

    def finish_partly(self) -> None:
        """Record what a list did before a row of it was refused: SQLite and MariaDB let a program go on with that."""

    def gives_back(self) -> bool:
        """Whether the statement may have a RETURNING, of its own or of ours."""
        return self.sent.gives_back() and self.sent.verb not in self.nature.replaced

    def ask(self, names: Iterable[str], expressions: Iterable[str] = ()) -> None:
        """Have the statement give back these columns of each row."""
        self.returning = Returning(self.hit, tuple(names), self.sent.alias, tuple(expressions))
        if self._in_batches:
            self.returning.in_batches(self.context)

    def taken_away(self) -> Known:
        """The rows as the statement found them."""
        assert self.returning is not None
        rows, _ = self.returning.read(self.context)
        return self.hit.known(self.connection, rows)

    def left(self) -> Known:
        """The rows as the statement left them."""
        assert self.returning is not None
        rows, _ = self.returning.read(self.context)
        return self.hit.known(self.connection, self.settled(rows))

    def settled(self, rows: list[Row]) -> list[Row]:
        """What was given back of each row. What a trigger may have changed since is read, at the commit if possible."""
        if self.nature.settled:
            return rows
        if self.is_elsewhere:
            return self.rows_by_key(self.hit.names(), self.by_key(rows))
        kept = {*self.hit.pk_keys, self.hit.kind}
        return [{name: value for name, value in row.items() if name in kept} for row in rows]

    def hold(self, verb: str) -> None:
        """On SQLite nobody else writes from here on."""
        if self.connection.dialect.name == "sqlite":
            hold_file(self.connection, self.sent.table, verb, self.sent.schemas)

    @property
    def is_exact(self) -> bool:
        """Whether what an unlocked look sees is what the statement finds."""
        return self.connection.dialect.name == "sqlite"

    @property
    def is_elsewhere(self) -> bool:
        """Whether this statement alone goes to another schema, where nothing can be read at the commit."""
        own = self.connection.get_execution_options().get("schema_translate_map")
        return self.sent.schemas is not None and self.sent.schemas != own

    def look(self, names: Iterable[str], criteria: Iterable[Any], *, lock: str = Lock.NONE) -> list[Row]:
        """The rows that match, under the name that the statement gives its table."""
        return look(
            self.connection, self.hit, tuple(names), criteria, lock=lock, named=self.sent.named,
            schemas=self.sent.schemas,
        )  # fmt: skip

    def rows_by_key(self, names: Iterable[str], keys: Iterable[Key]) -> list[Row]:
        return look_by(self.connection, self.hit, tuple(names), self.hit.pk_keys, list(keys), self.sent.schemas)

    def by_key(self, rows: Iterable[Row]) -> dict[Key, Row]:
        return {self.hit.key_of(row): row for row in rows}

    def staying(self, seen: Mapping[Key, Row]) -> Container[Key]:
        """Which of these rows are still there."""
        return self.by_key(self.rows_by_key(self.hit.pk_keys, seen)).keys() if seen else frozenset()

    @property
    def count(self) -> int:
        """How many rows it hit; -1 where the driver does not tell."""
        return int(self.context.rowcount)

    def check_count(self, seen: int) -> None:
        """Raise CaptureError if more rows were hit than were seen before: another transaction's came in between."""
        if self.count > seen:
            raise CaptureError(
                f"{self.hit.name}: the statement changed {self.count} rows where {seen} were seen just before, since "
                "another transaction committed in between, and this database does not tell which. Nothing is wrong "
                "with the data: roll back and run the transaction again, or use REPEATABLE READ for it"
            )


def of_entity(entity: Entity, row: Mapping[str, Any]) -> Row:
    """What of a row is the record's: columns that only another class of its table has are not."""
    return {name: value for name, value in row.items() if name in entity.positions}


def note_created(frame: Frame, rows: Known) -> None:
    """These rows are new."""
    by_entity: dict[Entity, dict[Key, Row]] = {}
    for key, (entity, row) in rows.items():
        if entity is not None:
            by_entity.setdefault(entity, {})[key] = row
    for entity, created in by_entity.items():
        try:
            values, whole = dict(zip(created, map(getter(entity.keys), created.values()), strict=True)), True
        except KeyError:
            values, whole = {key: values_of(entity, row) for key, row in created.items()}, False
        frame.created_rows(entity, values, whole=whole)


def note_deleted(frame: Frame, rows: Known) -> None:
    """These rows have gone."""
    for key, (entity, row) in rows.items():
        if entity is not None:
            frame.deleted(entity, key, row)


def note_updated(frame: Frame, rows: Known, before: Mapping[Key, Row], *, certain: bool = True) -> None:
    """`before`: of each row the old values of what was set, or may have changed; MISSING where they are not known.

    `certain`: the values are the row's under lock; else of what was not set they were seen before.
    """
    for key, (entity, row) in rows.items():
        if entity is not None:
            frame.updated(entity, key, of_entity(entity, before[key]), values_of(entity, row), certain=certain)


def within_a_flush(note: Callable[[Frame], None]) -> Callable[[Frame], None]:
    """The same note, without values: what the flush writes after the statement is not in them. They are read later."""

    def noted(frame: Frame) -> None:
        note(frame)
        for entity, records in frame.records.items():
            frame.partial.add(entity)
            for key, record in records.items():
                if isinstance(record, tuple):
                    records[key] = unread(entity, key)
                elif record.after is not None:
                    record.after = unread(entity, key)

    return noted


def unread(entity: Entity, key: Key) -> Values:
    """A row of which the key alone is known."""
    held = dict(zip(entity.pk_index, key, strict=True))
    return tuple([held.get(position, MISSING) for position in range(len(entity.keys))])


def differing(old: Row, new: Mapping[str, Any], sets: Iterable[str]) -> Row:
    """Of what was set the old values as they were seen without a lock.

    MISSING where they are the new ones: another transaction may have changed the row after it was seen.
    """
    return {
        name: old[name] if name in old and name in new and _differ(old[name], new[name]) else MISSING for name in sets
    }


def _differ(old: Any, new: Any) -> bool:
    try:
        return type(old) is type(new) and bool(old != new)
    except Exception:  # noqa: BLE001 - a value that cannot be compared may be any other
        return False
