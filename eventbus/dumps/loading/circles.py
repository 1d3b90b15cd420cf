"""Tables that refer to each other in a circle, or to themselves, where the database checks every row at once.

Their rows are put aside and written each after those it refers to. Where rows themselves go in a circle, a reference
that may be NULL is set at the end; where none may, the constraint is made to wait for the end, as far as the role may.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, ForeignKeyConstraint, Table

from eventbus.dumps.loading.shelf import Shelf
from eventbus.dumps.loading.spool import Spool
from eventbus.dumps.rows.groups import Group, Origin
from eventbus.dumps.rows.statements import Statements
from eventbus.dumps.writing import constraints
from eventbus.dumps.writing.writer import Writer

BATCH: Final = 2_000
_LATE: Final = "late"


class Circle:
    """Writes the rows of such tables, by these references between them."""

    def __init__(
        self, connection: Connection, writer: Writer, spool: Spool, references: Sequence[ForeignKeyConstraint]
    ) -> None:
        self._connection = connection
        self._writer = writer
        self._spool = spool
        self._references = list(references)
        self._waiting = [all(column.nullable for column in each.columns) for each in self._references]
        self._shelf = Shelf()
        self._late = Spool()
        self._statements = Statements(connection.dialect)
        self._wanted: dict[Group, tuple[list[Any], list[Any]]] = {}
        self._made: list[constraints.Foreign] = []

    def put_aside(self, table: Table) -> None:
        """Take the rows of a table."""
        for group, rows, origins in self._spool.take(table):
            offers, wants = self._ends(group)
            number = self._spool.number(group)
            for row, origin in zip(*self._writer.without_kept(group, rows, origins), strict=True):
                offered = [(reference, key) for reference, places in offers if (key := _key(row, places))]
                wanted = [
                    (reference, key, self._waiting[reference])
                    for reference, places in wants
                    if (key := _key(row, places))
                ]
                self._shelf.add((number, row, origin), offered, wanted)

    def _ends(self, group: Group) -> tuple[list[tuple[int, list[int]]], list[tuple[int, list[int]]]]:
        """The places of each reference's columns in a row: of those that lead here, and of those that lead away."""
        offers, wants = [], []
        for number, each in enumerate(self._references):
            here, there = list(each.columns), [element.column for element in each.elements]
            if each.table is group.table and set(here) <= set(group.columns):
                wants.append((number, [group.columns.index(column) for column in here]))
            if there[0].table is group.table and set(there) <= set(group.columns):
                offers.append((number, [group.columns.index(column) for column in there]))
        return offers, wants

    def write(self) -> None:
        """Write all that was put aside."""
        pending: list[tuple[Group, Any, Origin]] = []
        for group, row, origin in self._rows():
            if pending and (pending[0][0] is not group or len(pending) >= BATCH):
                self._write(pending)
                pending = []
            pending.append((group, row, origin))
        self._write(pending)
        self._shelf.close()
        self._shelf = Shelf()
        for group, rows, origins in self._late.take(_LATE):
            self._writer.update(group, rows, origins)
        if self._made:
            constraints.check_now(self._connection)
            constraints.make_as_before(self._connection, self._made)
            self._made = []

    def _rows(self) -> Iterator[tuple[Group, Any, Origin]]:
        for (number, row, origin), late in self._shelf.in_order():
            group = self._spool.group(number)
            if -1 in late:
                self._make_deferrable()
                late -= {-1}
            if late:
                self._late.add(_LATE, group, [row], [origin])
                empty = {group.columns.index(column) for each in late for column in self._references[each].columns}
                yield group, tuple(None if n in empty else value for n, value in enumerate(row)), origin
            else:
                yield group, row, origin

    def _make_deferrable(self) -> None:
        if not self._made:
            found = constraints.not_deferrable(self._connection, self._references)
            self._made = [one for those in found.values() for one in those]
            constraints.make_deferrable(self._connection, self._made)

    def _write(self, pending: Sequence[tuple[Group, Any, Origin]]) -> None:
        if pending:
            rows, origins = [row for _, row, _ in pending], [origin for _, _, origin in pending]
            self._writer.write_rows(pending[0][0], rows, origins)

    def close(self) -> None:
        """Give up the temporary files."""
        self._shelf.close()


def belonging(references: Sequence[ForeignKeyConstraint]) -> dict[Table, int]:
    """The tables of these references, each with a number that the tables of one circle share."""
    found: dict[Table, int] = {}
    for number, each in enumerate(references):
        here, there = each.table, each.referred_table
        old = {found[table] for table in (here, there) if table in found}
        for table in [here, there, *(table for table, one in found.items() if one in old)]:
            found[table] = number
    return found


def _key(row: Sequence[Any], places: Sequence[int]) -> str:
    """The values at these places as one text; empty where one of them is NULL."""
    values = [row[place] for place in places]
    return "" if None in values else "\x1f".join(map(str, values))
