"""Unique values that move from row to row: a row gives up what another record wants, until its own record comes."""

from __future__ import annotations

import base64
import math
import random
import string
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Column, Connection

from eventbus.dumps.inheritance import alone
from eventbus.dumps.rows.groups import Group, Origin
from eventbus.dumps.rows.statements import Statements
from eventbus.dumps.writing.blame import Blame
from eventbus.records import columns as columns_of
from eventbus.records.schemas.column_types import BINARY

_TRIES: Final = 200
_LETTERS: Final = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Parked:
    """A row whose unique value was taken away: its key, the column, and what stands there until its record comes."""

    group: Group
    key: tuple[Any, ...]
    column: Column[Any]
    filler: tuple[Any, ...] | None
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
            filler = next((each for each in islice(self._fillers(group, column), _TRIES) if each is not None), None)
            if filler is not None or column.nullable:
                key = tuple(holder)
                statement = self._statements.set_one(group, column)
                if self._connection.exec_driver_sql(statement, (filler, *key)).rowcount:
                    self._parked.append(Parked(group, key, column, self._value(group, column, key), origin))
                    return True
        return False

    def _value(self, group: Group, column: Column[Any], key: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """What a row has in a column now; None where it is not there."""
        primary = list(group.table.primary_key)
        forms = [group.forms[group.columns.index(each)] for each in primary]
        shown = [(column, group.forms[group.columns.index(column)])]
        found = self._connection.exec_driver_sql(self._statements.known(primary, forms, 1, shown), key).first()
        return None if found is None else tuple(found)

    def _fillers(self, group: Group, column: Column[Any]) -> Iterator[Any]:
        """Values for the driver, None in place of those that some row has."""
        form = group.forms[group.columns.index(column)]
        statement = self._statements.known([column], [form], 1)
        for each in self._candidates(column):
            value = form.read(each)
            yield value if self._connection.exec_driver_sql(statement, (value,)).first() is None else None

    def _candidates(self, column: Column[Any]) -> Iterator[Any]:
        """Values as a dump has them, of which most likely one is free."""
        type_ = columns_of.undecorated(column.type, self._connection.dialect)
        if isinstance(type_, sa.Integer | sa.Numeric | sa.Float):
            ends = sa.select(*(sa.type_coerce(each(column), type_) for each in (sa.func.min, sa.func.max)))
            lowest, highest = self._connection.execute(alone(ends, column.table)).one()
            yield math.ceil(highest) + 1 if getattr(type_, "unsigned", False) else min(math.floor(lowest), 0) - 1
        make = next((make for kinds, make in _CANDIDATES.items() if isinstance(type_, kinds)), None)
        yield from () if make is None else make(type_)

    def left(self) -> Iterator[Parked]:
        """Rows that did not get another value since, and are there."""
        for each in self._parked:
            if self._value(each.group, each.column, each.key) == each.filler:
                yield each


def _texts(type_: Any) -> Iterator[str]:
    """Of the column's length, as far as that is no matter of luck: not even a CHAR pads those."""
    while True:
        yield "".join(random.choices(_LETTERS, k=min(type_.length or 32, 32)))  # noqa: S311 - no secret


def _bytes(type_: Any) -> Iterator[str]:
    while True:
        yield base64.b64encode(random.randbytes(min(type_.length or 16, 16))).decode()  # noqa: S311 - no secret


_CANDIDATES: Final[dict[Any, Callable[[Any], Iterable[Any]]]] = {
    sa.Boolean: lambda _: (False, True),
    sa.Enum: lambda type_: type_.enums,
    sa.Uuid: lambda _: map(str, iter(uuid.uuid4, None)),
    sa.DateTime: lambda _: (f"1980-01-01T00:{minute:02}:00" for minute in range(60)),
    sa.Date: lambda _: (f"1980-01-{day:02}" for day in range(1, 32)),
    sa.Time: lambda _: (f"00:{minute:02}:00" for minute in range(60)),
    sa.String: _texts,
    BINARY: _bytes,
}
"""First match counts: subclasses before their bases."""
