"""Writes rows: new ones with an INSERT that replaces nothing, known ones with an UPDATE of what is given.

In a table that was empty every row is a new one, so the database itself finds two with one key. Elsewhere the rows
that are there are asked for first, and the keys met are remembered (see `ledger`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError, StatementError

from eventbus.dumps.facts import Facts
from eventbus.dumps.inheritance import alone
from eventbus.dumps.outcome import Existing
from eventbus.dumps.rows.groups import Group, Origin
from eventbus.dumps.rows.statements import Statements
from eventbus.dumps.targets import Targets
from eventbus.dumps.writing.blame import Blame, is_missing_reference, is_taken
from eventbus.dumps.writing.failures import Failures
from eventbus.dumps.writing.ledger import Ledger
from eventbus.dumps.writing.parking import Parking
from eventbus.dumps.writing.replacing import Kept

REFUSALS: Final = (StatementError, OverflowError, ValueError, TypeError)
"""What comes of a value that does not fit: some drivers raise errors of their own, or Python's, before they ask."""
PARAMETERS: Final = 30_000
"""In one statement at most: SQLite takes 32,766."""

Row = tuple[Any, ...]


class TooEarlyError(Exception):
    """A row was written before the row it refers to."""


@dataclass(slots=True)
class Written:
    """What became of one table: whether it was empty, its rows before, and those that were added since."""

    empty: bool
    before: int
    added: int = 0
    ledger: Ledger = field(default_factory=Ledger)


class Writer:
    """Writes groups of rows, tables that others refer to first. `kept` counts records left as they were.

    With `retry` a reference to a row that is not there raises TooEarlyError instead of being a failure.
    """

    def __init__(
        self,
        connection: Connection,
        targets: Targets,
        facts: Facts,
        failures: Failures,
        blame: Blame,
        *,
        existing: Existing,
        keep_keys: bool = False,
        retry: bool = False,
    ) -> None:
        self.kept = 0
        self.kept_keys = Kept(connection, targets) if keep_keys or existing == "replace" else None
        self.parking = Parking(connection, blame) if existing == "replace" else None
        self.tables: dict[Table, Written] = {}
        self._connection = connection
        self._targets = targets
        self._facts = facts
        self._failures = failures
        self._blame = blame
        self._existing = existing
        self._statements = Statements(connection.dialect)
        self._place = {table: position for position, table in enumerate(targets.order)}
        self._retry = retry
        self._inserts: dict[Group, str] = {}

    def write(self, groups: Iterable[Group]) -> None:
        """Write the groups' rows and empty the groups. Raises LoadError when there are as many failures as are told."""
        for group in sorted(groups, key=lambda each: self._place[each.table]):
            self.write_rows(group, *group.taken())

    def write_rows(self, group: Group, rows: list[Row], origins: list[Origin]) -> None:
        """Write rows of a group."""
        if not rows:
            return
        self._write_rows(group, rows, origins)
        if self.kept_keys is not None and group.role != "link" and group.target.primary:
            try:
                self.kept_keys.note(group, rows)
            except ValueError as error:
                self._blame.row(group, rows[0], origins[0], error)

    def _write_rows(self, group: Group, rows: list[Row], origins: list[Origin]) -> None:
        written = self.written(group.table)
        if self._existing == "fail" or not group.key or (written.empty and not group.partial):
            self.insert(group, rows, origins)
            return
        known = self.known(group, rows, origins)
        if known is None:
            return
        if group.role == "record":
            self._note(group, written, rows, origins, known)
        new = [place for place, one in enumerate(known) if not one]
        old = [place for place, one in enumerate(known) if one]
        if new:
            self.insert(group, [rows[place] for place in new], [origins[place] for place in new])
        if old:
            self._meet(group, [rows[place] for place in old], [origins[place] for place in old])

    def written(self, table: Table) -> Written:
        """What became of a table so far."""
        found = self.tables.get(table)
        if found is None:
            if self._existing == "replace" and not self._targets.key(table):
                self._connection.execute(alone(sa.delete(table), table))
            empty = self._facts.is_empty(table)
            found = self.tables[table] = Written(empty, 0 if empty else self._facts.count(table))
        return found

    def _note(self, group: Group, written: Written, rows: list[Row], origins: list[Origin], known: list[bool]) -> None:
        """Remember the keys of a table that was not empty; in one that was, a known row is one of the load's."""
        if not written.empty:
            written.ledger.add(group.key_of(row) for row in rows)
            if {group.columns[place] for place in group.key} == set(self._targets.key(group.table)):
                self._blame.null_keys(group, rows, origins)
            return
        for row, origin, one in zip(rows, origins, known, strict=True):
            if one:
                self._blame.twice(group, row, origin)

    def insert(self, group: Group, rows: list[Row], origins: list[Origin]) -> None:
        """Insert rows; those that the database refuses are failures."""
        if self._blame.lacking(group, rows, origins):
            return
        statement = self._inserts.get(group)
        if statement is None:
            statement = self._inserts[group] = self._statements.insert(group)
        made = [each.make for each in group.defaults if each.make is not None]
        given = [(*row, *(make() for make in made)) for row in rows] if made else rows
        self.written(group.table).added += len(rows) - self._run(group, statement, given, rows, origins)

    def _meet(self, group: Group, rows: list[Row], origins: list[Origin]) -> None:
        """Rows that are there already."""
        if self._existing == "keep":
            self.kept += len(rows) if group.counted else 0
            return
        self.update(group, rows, origins)

    def update(self, group: Group, rows: list[Row], origins: list[Origin]) -> None:
        """Set what rows give that are there: already, or by now, where something had to be NULL when they came."""
        made = self._statements.update(group, self._facts.of(group.table))
        if made is None:
            return
        statement, places = made
        pick = itemgetter(*places) if len(places) > 1 else lambda row: (row[places[0]],)
        self._run(group, statement, [pick(row) for row in rows], rows, origins)

    def without_kept(self, group: Group, rows: list[Row], origins: list[Origin]) -> tuple[list[Row], list[Origin]]:
        """The rows but those that are there and stay as they are, which are counted."""
        if self._existing != "keep" or not group.key or self.written(group.table).empty:
            return rows, origins
        known = self.known(group, rows, origins) or []
        self.kept += sum(known) if group.counted else 0
        new = [place for place, one in enumerate(known) if not one]
        return [rows[place] for place in new], [origins[place] for place in new]

    def _run(self, group: Group, statement: str, given: list[Row], rows: list[Row], origins: list[Origin]) -> int:
        """Run a statement for all rows at once; where that fails, for halves of them, down to the rows that fail."""
        try:
            with self._connection.begin_nested():
                self._connection.exec_driver_sql(statement, given)
        except REFUSALS as error:
            if self._retry and is_missing_reference(error):
                raise TooEarlyError from error
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            if len(rows) == 1:
                if self.parking is not None and is_taken(error) and self.parking.make_way(group, rows[0], origins[0]):
                    return self._run(group, statement, given, rows, origins)
                self._blame.row(group, rows[0], origins[0], error)
                return 1
        else:
            return 0
        half = len(rows) // 2
        first = self._run(group, statement, given[:half], rows[:half], origins[:half])
        return first + self._run(group, statement, given[half:], rows[half:], origins[half:])

    def known(self, group: Group, rows: list[Row], origins: list[Origin]) -> list[bool] | None:
        """Which rows are there already, by their keys; None where the database cannot even be asked for one.

        A key that the database takes for another one, since its collation folds them, is a failure.
        """
        columns = [group.columns[place] for place in group.key]
        forms = [group.forms[place] for place in group.key]
        keys = [group.key_of(row) for row in rows]
        found: set[Row] = set()
        size = PARAMETERS // len(columns)
        for start in range(0, len(keys), size):
            asked = keys[start : start + size]
            statement = self._statements.known(columns, forms, len(asked))
            parameters = tuple(value for key in asked for value in key)
            try:
                with self._connection.begin_nested():
                    found.update(tuple(row) for row in self._connection.exec_driver_sql(statement, parameters))
            except REFUSALS as error:
                return self._known_one_by_one(group, rows, origins, error)
        result = [key in found for key in keys]
        return self._resolve(group, rows, origins, keys, result) if len(found) > sum(result) else result

    def _known_one_by_one(
        self, group: Group, rows: list[Row], origins: list[Origin], error: Exception
    ) -> list[bool] | None:
        """Some key is none that the database can take: leave it to the insert, which names the record."""
        if len(rows) == 1:
            self._blame.row(group, rows[0], origins[0], error)
            return None
        for row, origin in zip(rows, origins, strict=True):
            self._write_rows(group, [row], [origin])
        return None

    def _resolve(
        self,
        group: Group,
        rows: list[Row],
        origins: list[Origin],
        keys: list[Row],
        result: list[bool],
    ) -> list[bool]:
        """Rows were found by keys that are written otherwise: another form of one value, or a value that folds."""
        columns = [group.columns[place] for place in group.key]
        forms = [group.forms[place] for place in group.key]
        statement = self._statements.known(columns, forms, 1)
        text = any(form.text for form in forms)
        for place, key in enumerate(keys):
            if result[place]:
                continue
            row = self._connection.exec_driver_sql(statement, tuple(key)).first()
            if row is not None and text and not _equal_but_text(tuple(row), key):
                self._blame.folded(group, rows[place], origins[place], tuple(row))
            result[place] = row is not None
        return result


def _equal_but_text(stored: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether keys differ in nothing that is text."""
    return all(here == there for here, there in zip(stored, given, strict=True) if isinstance(here, str))
