"""Writes rows of a load: tables that others refer to first, and an error that names the record.

On PostgreSQL, where a row must not refer to one that is not there yet, references to the own table (or in a circle of
tables) are set at the end, and rows can be sorted by table in temporary files first.
"""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import IO, Any, Final, Self

import sqlalchemy as sa
from sqlalchemy import Column, Connection, ForeignKeyConstraint, Table
from sqlalchemy.exc import DBAPIError, StatementError

from eventbus.dumps.rows import Group, Origin
from eventbus.dumps.sources import LONGEST_PATH
from eventbus.dumps.targets import Part, Targets
from eventbus.errors import LoadError
from eventbus.redaction import shown

BATCH: Final = 5_000
"""Late references set at a time."""
SEEN: Final = 1_000_000
"""Keys of a self-referring table that are remembered; beyond, its references are all set afterwards."""


_REFUSALS: Final = (StatementError, OverflowError, ValueError)
"""What comes of a value that does not fit: some drivers raise errors of their own, or Python's, before they ask."""


class TooEarlyError(Exception):
    """A row was written before the row it refers to."""


class Writer:
    """Writes groups of rows, tables that others refer to first. `kept` counts records left as they were, with `keep`.

    With `retry` a reference to a row that is not there raises TooEarlyError instead of LoadError.
    """

    def __init__(self, connection: Connection, targets: Targets, *, keep: bool, retry: bool = False) -> None:
        self.kept = 0
        self._connection = connection
        self._keep = keep
        self._place = {table: position for position, table in enumerate(targets.order)}
        self._late = _Late(connection, targets) if connection.dialect.name == "postgresql" else None
        self._retry = retry

    def write(self, groups: Iterable[Group]) -> None:
        for group in sorted(groups, key=lambda each: self._place[each.part.table]):
            if self._keep and not isinstance(group.statement, str):
                self._leave_out_known(group)
            if group.rows:
                rows = group.rows if self._late is None else self._late.hold_back(group)
                self._execute(group, rows)

    def _leave_out_known(self, group: Group) -> None:
        """Rows that are there already: not even references that have to wait may change them.

        The statement leaves them alone as well. MariaDB does not tell how many they were.
        """
        primary = list(group.part.table.primary_key)
        if not primary or not all(column.key in group.rows[0] for column in primary):
            return
        keys = [tuple(row[column.key] for column in primary) for row in group.rows]
        known = self._known(primary, keys)
        new = [place for place, key in enumerate(keys) if key not in known]
        if group.counted:
            self.kept += len(keys) - len(new)
        group.rows, group.origins = [group.rows[place] for place in new], [group.origins[place] for place in new]

    def _known(self, primary: Sequence[Column[Any]], keys: Sequence[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
        known: set[tuple[Any, ...]] = set()
        key = sa.tuple_(*primary)
        # A key that the database cannot take is the insert's to refuse, which names the record.
        with contextlib.suppress(StatementError), self._connection.begin_nested():
            for start in range(0, len(keys), BATCH):
                asked = keys[start : start + BATCH]
                in_asked = primary[0].in_([each[0] for each in asked]) if len(primary) == 1 else key.in_(asked)
                known.update(tuple(row) for row in self._connection.execute(sa.select(*primary).where(in_asked)))
        return known

    def finish(self) -> None:
        if self._late is not None:
            self._late.set()

    def _execute(self, group: Group, rows: list[Any]) -> None:
        savepoint = self._connection.begin_nested()
        try:
            with _given_identities(self._connection, group.part.table):
                written = self._run(group.statement, rows)
        except _REFUSALS as error:
            savepoint.rollback()
            if self._retry and _is_missing_reference(error):
                raise TooEarlyError from error
            self._blame(group, rows, error)
        except BaseException:
            savepoint.rollback()
            raise
        savepoint.commit()
        if group.counted and isinstance(group.statement, str):
            self.kept += len(rows) - written

    def _run(self, statement: str | sa.Insert, rows: list[Any]) -> int:
        """How many rows were written, as far as the database tells."""
        if isinstance(statement, str):
            return self._connection.exec_driver_sql(statement, rows).rowcount
        return self._connection.execute(statement, rows).rowcount

    def _blame(self, group: Group, rows: list[Any], error: Exception) -> None:
        """Find the row by writing one at a time; raises LoadError."""
        for row, origin in zip(rows, group.origins, strict=True):
            try:
                with _given_identities(self._connection, group.part.table):
                    self._run(group.statement, [row])
            except _REFUSALS as single:
                raise failure(*origin, _database_says(single)) from single
        path, model, _ = group.origins[0]
        raise failure(path, model, None, _database_says(error)) from error


class Sorter:
    """Keeps the rows in one temporary file a table until all are read, then writes table after table."""

    def __init__(self, targets: Targets, writer: Writer) -> None:
        self._order = targets.order
        self._writer = writer
        self._files: dict[Table, IO[bytes]] = {}
        self._groups: dict[int, Group] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, groups: Iterable[Group]) -> None:
        for group in groups:
            self._groups[id(group)] = group
            file = self._files.get(group.part.table)
            if file is None:
                file = self._files[group.part.table] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
            pickle.dump((id(group), group.rows, group.origins), file, pickle.HIGHEST_PROTOCOL)

    @property
    def kept(self) -> int:
        return self._writer.kept

    def finish(self) -> None:
        for table in self._order:
            for number, rows, origins in self._read(table):
                known = self._groups[number]
                self._writer.write([replace(known, rows=rows, origins=origins)])
        self._writer.finish()

    def _read(self, table: Table) -> Iterator[tuple[int, list[dict[str, Any]], list[Origin]]]:
        file = self._files.get(table)
        if file is None:
            return
        file.seek(0)
        with contextlib.suppress(EOFError):
            while True:
                yield pickle.load(file)  # noqa: S301 - an unnamed file of our own


class _Late:
    """References that no order of tables satisfies: to the own table, or in a circle. They are set at the end.

    A reference to a row of the own table that was written before needs no delay.
    """

    def __init__(self, connection: Connection, targets: Targets) -> None:
        self._connection = connection
        self._constraints: dict[Table, list[ForeignKeyConstraint]] = {}
        for constraint in targets.late:
            if all(column.nullable for column in constraint.columns):
                self._constraints.setdefault(constraint.table, []).append(constraint)
        self._seen: dict[ForeignKeyConstraint, set[Any]] = {each: set() for each in targets.late}
        self._updates: dict[tuple[Part, tuple[str, ...]], list[tuple[dict[str, Any], Origin]]] = {}

    def hold_back(self, group: Group) -> list[dict[str, Any]]:
        """The rows with NULL for the references that have to wait."""
        for constraint in self._constraints.get(group.part.table, ()):
            local = [column.key for column in constraint.columns]
            if set(local) <= group.rows[0].keys():
                self._hold_back(group, constraint, local)
        return group.rows

    def _hold_back(self, group: Group, constraint: ForeignKeyConstraint, local: Sequence[str]) -> None:
        remote = [element.column.key for element in constraint.elements]
        own = constraint.referred_table is constraint.table
        seen = self._seen[constraint]
        primary = [column.key for column in group.part.table.primary_key]
        updates = self._updates.setdefault((group.part, tuple(local)), [])
        for row, origin in zip(group.rows, group.origins, strict=True):
            wanted = tuple(row[key] for key in local)
            itself = tuple(row.get(key) for key in remote) if own else None
            if own and len(seen) < SEEN:
                seen.add(itself)
            if None in wanted or (own and (wanted in seen or wanted == itself)):
                continue
            update = {f"new_{key}": row[key] for key in local} | {f"old_{key}": row[key] for key in primary}
            updates.append((update, origin))
            row.update(dict.fromkeys(local))

    def set(self) -> None:
        """Set what had to wait, now that all rows are there. Raises LoadError for a reference that leads nowhere."""
        for (part, local), updates in self._updates.items():
            statement = part.table.update().values({key: sa.bindparam(f"new_{key}") for key in local})
            for column in part.table.primary_key:
                statement = statement.where(column == sa.bindparam(f"old_{column.key}"))
            for start in range(0, len(updates), BATCH):
                self._set(statement, updates[start : start + BATCH])

    def _set(self, statement: sa.Update, updates: Sequence[tuple[dict[str, Any], Origin]]) -> None:
        savepoint = self._connection.begin_nested()
        try:
            self._connection.execute(statement, [update for update, _ in updates])
        except DBAPIError:
            savepoint.rollback()
            self._blame(statement, updates)
            raise
        savepoint.commit()

    def _blame(self, statement: sa.Update, updates: Sequence[tuple[dict[str, Any], Origin]]) -> None:
        for update, origin in updates:
            try:
                self._connection.execute(statement, update)
            except DBAPIError as error:
                raise failure(*origin, _database_says(error)) from error


@contextlib.contextmanager
def _given_identities(connection: Connection, table: Table) -> Iterator[None]:
    """PostgreSQL refuses keys for GENERATED ALWAYS unless the INSERT insists, which SQLAlchemy cannot say."""
    always = any(column.identity is not None and column.identity.always for column in table.columns)
    if not always or connection.dialect.name != "postgresql":
        yield
        return

    def insist(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> tuple[str, Any]:
        return statement.replace(") VALUES (", ") OVERRIDING SYSTEM VALUE VALUES (", 1), parameters

    sa.event.listen(connection, "before_cursor_execute", insist, retval=True)
    try:
        yield
    finally:
        sa.event.remove(connection, "before_cursor_execute", insist)


def _is_missing_reference(error: Exception) -> bool:
    return getattr(getattr(error, "orig", None), "sqlstate", None) == "23503"


def _database_says(error: Exception) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())


def failure(path: str, model: str, pk: Any, reason: str) -> LoadError:
    """The error that names file, model and key, each at a bounded length."""
    where = f"{shown(path, LONGEST_PATH)}: {shown(model)} {shown(repr(pk))}"
    return LoadError(f"{where}: {shown(reason, 1000)}", path=path, model=model, pk=pk)
