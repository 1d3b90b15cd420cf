"""Natural keys: a reference that is the list of a unique key's values instead of the key, as Django can write them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from marshmallow import ValidationError
from sqlalchemy import Column, Connection, Table, UniqueConstraint

from eventbus.dumps.forms import Form, Read
from eventbus.dumps.order import referred
from eventbus.dumps.rows.statements import Statements
from eventbus.dumps.targets import Target, Targets

Parts = tuple[Any, ...]
"""A value or a Natural for each column of a unique key."""
Reading = tuple[tuple[Column[Any], ...], Parts]


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
    found = _referred(column, targets)
    return read if found is None else _reader(read, *found)


def _referred(column: Column[Any], targets: Targets) -> tuple[str, str] | None:
    """The entity to which a column refers by itself, and the key of the column that it means there."""
    for key in column.foreign_keys:
        constraint = key.constraint
        if constraint is None or len(constraint.columns) != 1 or (table := referred(constraint)) is None:
            continue
        target = targets.of_table(table)
        if target is not None:
            return target.entity.name, key.column.key
    return None


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


class Naturals:
    """Looks natural keys up, once for many rows. `keep` holds rows back whose reference is not there yet."""

    def __init__(self, connection: Connection, targets: Targets, form: Callable[[Column[Any]], Form]) -> None:
        self._connection = connection
        self._targets = targets
        self._form = form
        self._statements = Statements(connection.dialect)
        self._asked: list[Natural] = []

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
        if natural in self._asked:  # two models each of which is known by the other
            return None
        self._asked.append(natural)
        found = self._keys(natural)
        self._asked.pop()
        return found.pop() if len(found) == 1 else None

    def _keys(self, natural: Natural) -> set[Any]:
        return {key for key, parts, there in self._rows(natural) if there == parts}

    def _rows(self, natural: Natural) -> Iterator[tuple[Any, Parts, Parts]]:
        """The keys of the rows that the database finds for a natural key's parts, each with what it has in their place:
        a collation takes `w` for `W`.
        """
        target = self._targets.by_entity[natural.entity]
        wanted = target.parts[-1].table.c[natural.wanted]
        for columns, parts in self._readings(natural):
            forms = [self._form(column) for column in columns]
            shown = list(zip(columns, forms, strict=True))
            statement = self._statements.known(columns, forms, 1, [(wanted, self._form(wanted)), *shown])
            try:
                values = [self._value(form, part) for form, part in zip(forms, parts, strict=True)]
            except (ValueError, TypeError, ValidationError):
                continue
            for key, *there in self._connection.exec_driver_sql(statement, tuple(values)):
                yield key, parts, _in_its_words(parts, forms, values, there)

    def _value(self, form: Form, part: Any) -> Any:
        """As it is put into its column. Raises ValueError where a natural key in it leads to nothing."""
        if part.__class__ is not Natural:
            return form.read(part)
        if (key := self._key(part)) is None:
            raise ValueError(str(part))
        return key

    def _readings(self, natural: Natural) -> list[Reading]:
        """The unique keys that its values can be of, each with a part for each of its columns.

        A column that refers to another model may have that model's natural key for its part (Django's permissions:
        codename, then app label and model of a content type), where it stands or behind the others.
        """
        found: dict[Reading, None] = {}
        for columns in unique_keys(self._targets.by_entity[natural.entity].parts[-1].table):
            references = {column: each for column in columns if (each := _referred(column, self._targets))}
            for order in (columns, tuple(sorted(columns, key=references.__contains__))):
                for parts in _parts(order, references, natural.values):
                    by_column = dict(zip(order, parts, strict=True))
                    found[columns, tuple(by_column[column] for column in columns)] = None
        return list(found)

    def explain(self, natural: Natural) -> str:
        """Why there is nothing for a natural key."""
        if not self._readings(natural):
            return (
                f"{natural}: the model has no unique key of {len(natural.values)} column(s), so natural keys cannot be "
                "looked up; write the fixture without --natural-foreign, or add a UniqueConstraint"
            )
        for key, parts, there in self._rows(natural):
            if there != parts:
                return f"{natural}: this database takes it for that of {natural.entity} {key!r}, {_flat(there)!r}"
        if len(keys := self._keys(natural)) > 1:
            return f"{natural} is that of more than one: {', '.join(sorted(map(repr, keys)))}"
        return f"{natural} refers to no {natural.entity}"


def _parts(
    columns: Sequence[Column[Any]], references: Mapping[Column[Any], tuple[str, str]], values: tuple[Any, ...]
) -> Iterator[Parts]:
    """All ways to give each column its share of the values, in their order."""
    if not columns:
        if not values:
            yield ()
        return
    first, *rest = columns
    for others in _parts(rest, references, values[1:]) if values else ():
        yield values[0], *others
    for size in range(1, len(values) - len(rest) + 1) if first in references else ():
        part = Natural(*references[first], values[:size])
        for others in _parts(rest, references, values[size:]):
            yield part, *others


def _in_its_words(parts: Sequence[Any], forms: Sequence[Form], asked: Sequence[Any], there: Sequence[Any]) -> Parts:
    """What a row has in place of the parts of a natural key: those themselves, but where a text is another one."""
    return tuple(
        found if part.__class__ is not Natural and form.text and found != wanted else part
        for form, part, wanted, found in zip(forms, parts, asked, there, strict=True)
    )


def _flat(parts: Sequence[Any]) -> list[Any]:
    return [value for part in parts for value in (part.values if part.__class__ is Natural else (part,))]
