"""Unique values that move from row to row: a row gives up what another record wants, until its own record comes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Connection

from eventbus.dumps.inheritance import alone
from eventbus.dumps.rows.groups import Group, Origin
from eventbus.dumps.rows.statements import Statements
from eventbus.dumps.writing.blame import Blame


@dataclass(frozen=True, slots=True)
class Parked:
    """A row whose unique value was taken away: its key, the column, and what stands there until its record comes."""

    group: Group
    key: tuple[Any, ...]
    column: Column[Any]
    filler: Any
    origin: Origin


class Parking:
    """Takes values away from rows."""

    def __init__(self, connection: Connection, blame: Blame) -> None:
        self._connection = connection
        self._blame = blame
        self._statements = Statements(connection.dialect)
        self._parked: list[Parked] = []

    def make_way(self, group: Group, row: Sequence[Any], origin: Origin) -> bool:
        """Take the unique values that a row wants away from others; whether there were any."""
        made = False
        primary = list(group.table.primary_key)
        if not primary or not set(primary) <= set(group.columns):
            return False
        own = tuple(row[group.columns.index(column)] for column in primary)
        for columns in self._blame.unique(group.table):
            if not set(columns) <= set(group.columns):
                continue
            values = tuple(row[group.columns.index(column)] for column in columns)
            holder = None if None in values else self._holder(group, columns, values)
            if holder is not None and tuple(map(str, holder)) != tuple(map(str, own)):
                made = self._park(group, holder, columns, origin) or made
        return made

    def _holder(self, group: Group, columns: Sequence[Column[Any]], values: tuple[Any, ...]) -> Any:
        forms = [group.forms[group.columns.index(column)] for column in columns]
        shown = [(column, group.forms[group.columns.index(column)]) for column in group.table.primary_key]
        return self._connection.exec_driver_sql(self._statements.known(columns, forms, 1, shown), values).first()

    def _park(self, group: Group, holder: Any, columns: Sequence[Column[Any]], origin: Origin) -> bool:
        for column in columns:
            if column.primary_key or column.foreign_keys:
                continue
            filler = self._filler(column)
            if filler is not None or column.nullable:
                statement = alone(sa.update(group.table), group.table).values({column: sa.literal(filler, column.type)})
                found = self._connection.execute(statement.where(*self._is(group, holder)))
                if found.rowcount:
                    self._parked.append(Parked(group, tuple(holder), column, filler, origin))
                    return True
        return False

    def _is(self, group: Group, key: Sequence[Any]) -> Iterator[sa.ColumnElement[bool]]:
        for column, value in zip(group.table.primary_key, key, strict=True):
            yield sa.type_coerce(column, sa.String()) == value if isinstance(value, str) else column == value

    def _filler(self, column: Column[Any]) -> Any:
        """A value that no row has; None where there is none to be thought of."""
        if isinstance(column.type, sa.Integer | sa.Numeric):
            lowest: Any = self._connection.execute(sa.select(sa.func.min(column))).scalar()
            return min(lowest or 0, 0) - 1
        if isinstance(column.type, sa.String) and not isinstance(column.type, sa.Enum):
            length = column.type.length or 32
            return uuid.uuid4().hex[:length] if length >= 8 else None
        return None

    def left(self) -> Iterator[Parked]:
        """Rows that did not get another value since, and are there."""
        for each in self._parked:
            statement = alone(sa.select(each.column).where(*self._is(each.group, each.key)), each.group.table)
            row = self._connection.execute(statement).first()
            if row is not None and row[0] == each.filler:
                yield each
