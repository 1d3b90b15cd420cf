"""Natural keys: a reference that is the list of a unique key's values instead of the key, as Django can write them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from marshmallow import ValidationError
from sqlalchemy import Column, Connection, Table, UniqueConstraint

from eventbus.dumps.forms import Form, Read
from eventbus.dumps.order import referred
from eventbus.dumps.rows.statements import Statements
from eventbus.dumps.targets import Target, Targets


@dataclass(frozen=True, slots=True)
class Natural:
    """A reference to an entity's row with these values under a unique key; `wanted` is the key of its column."""

    entity: str
    wanted: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"the natural key {list(self.values)!r} of {self.entity}"


def reading_lists(read: Read, column: Column[Any], targets: Targets) -> Read:
    """A reader that also takes natural keys, for a column that refers to a model by one key."""
    if isinstance(column.type, sa.ARRAY | sa.JSON):
        return read
    for key in column.foreign_keys:
        constraint = key.constraint
        if constraint is None or len(constraint.columns) != 1 or (table := referred(constraint)) is None:
            continue
        target = targets.of_table(table)
        if target is not None:
            return _reader(read, target.entity.name, key.column.key)
    return read


def _reader(read: Read, entity: str, wanted: str) -> Read:
    def read_list(value: Any) -> Any:
        if value.__class__ is list and any(isinstance(part, list | dict) for part in value):
            raise ValueError("not a natural key, whose parts are texts and numbers")
        return Natural(entity, wanted, tuple(value)) if value.__class__ is list else read(value)

    return read_list


def unique_keys(table: Table) -> Iterator[tuple[Column[Any], ...]]:
    """The unique keys of a table beside its primary one, as its model has them."""
    for constraint in sorted(table.constraints, key=lambda each: [c.name for c in getattr(each, "columns", ())]):
        if isinstance(constraint, UniqueConstraint):
            yield tuple(constraint.columns)
    for index in sorted(table.indexes, key=lambda each: str(each.name)):
        plain = [each for each in index.expressions if isinstance(each, Column)]
        if index.unique and len(plain) == len(index.expressions) and not index.dialect_kwargs:
            yield tuple(plain)


def natural_key(target: Target, given: Collection[str]) -> tuple[str, ...] | None:
    """The attribute keys of the first unique key all of whose fields are given, for a record without a pk."""
    part = target.parts[0]
    names = {column: key for key, column in part.columns.items()}
    for columns in unique_keys(part.table):
        keys = tuple(names[column] for column in columns if column in names)
        if len(keys) == len(columns) and set(keys) <= set(given):
            return keys
    return None


def keys_for(target: Target, values: Sequence[Any]) -> list[tuple[Column[Any], ...]]:
    """The unique keys of a target that have as many columns as there are values."""
    table = target.parts[-1].table
    return list(dict.fromkeys(each for each in unique_keys(table) if len(each) == len(values)))


class Naturals:
    """Looks natural keys up, once for many rows. `keep` holds rows back whose reference is not there yet."""

    def __init__(self, connection: Connection, targets: Targets, form: Callable[[Column[Any]], Form]) -> None:
        self._connection = connection
        self._targets = targets
        self._form = form
        self._statements = Statements(connection.dialect)

    def resolve(self, rows: Sequence[tuple[Any, ...]], places: Sequence[int]) -> list[tuple[Any, ...] | Natural]:
        """The rows with keys in place of natural ones; for a row with one that is not there, that one."""
        wanted = {row[place] for row in rows for place in places if row[place].__class__ is Natural}
        if not wanted:
            return list(rows)
        found = {each: key for each in wanted if (key := self._key(each)) is not None}
        result: list[tuple[Any, ...] | Natural] = []
        for row in rows:
            missing = [each for each in row if each.__class__ is Natural and each not in found]
            result.append(
                missing[0] if missing else tuple(found.get(v, v) if v.__class__ is Natural else v for v in row)
            )
        return result

    def _key(self, natural: Natural) -> Any:
        found = {key for key, there in self._rows(natural) if there == natural.values}
        return found.pop() if len(found) == 1 else None

    def _rows(self, natural: Natural) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """The keys of the rows that the database finds, each with the values it has: a collation takes `w` for `W`."""
        target = self._targets.by_entity[natural.entity]
        wanted = target.parts[-1].table.c[natural.wanted]
        for columns in keys_for(target, natural.values):
            forms = [self._form(column) for column in columns]
            shown = list(zip(columns, forms, strict=True))
            statement = self._statements.known(columns, forms, 1, [(wanted, self._form(wanted)), *shown])
            try:
                values = tuple(form.read(value) for form, value in zip(forms, natural.values, strict=True))
            except (ValueError, TypeError, ValidationError):
                continue
            for key, *there in self._connection.exec_driver_sql(statement, values):
                yield key, _in_its_words(natural, forms, values, there)

    def explain(self, natural: Natural) -> str:
        """Why there is nothing for a natural key."""
        target = self._targets.by_entity[natural.entity]
        if not keys_for(target, natural.values):
            return (
                f"{natural}: the model has no unique key of {len(natural.values)} column(s), so natural keys cannot be "
                "looked up; write the fixture without --natural-foreign, or add a UniqueConstraint"
            )
        for key, there in self._rows(natural):
            if there != natural.values:
                return f"{natural}: this database takes it for that of {natural.entity} {key!r}, {list(there)!r}"
        return f"{natural} refers to no {natural.entity}"


def _in_its_words(
    natural: Natural, forms: Sequence[Form], asked: Sequence[Any], there: Sequence[Any]
) -> tuple[Any, ...]:
    """What a row has in place of a natural key's values: those themselves, but where a text is another one."""
    return tuple(
        found if form.text and found != wanted else value
        for form, value, wanted, found in zip(forms, natural.values, asked, there, strict=True)
    )
