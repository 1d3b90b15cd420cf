"""Upserts: which rows an INSERT … ON CONFLICT (or ON DUPLICATE KEY) may find in its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, ClauseElement, Column, Connection, Insert, UniqueConstraint, exists

from eventbus.events.change import MISSING, Key
from eventbus.listeners.statements.rows import Hit, Row, look, look_by
from eventbus.listeners.statements.sent import Sent

Given = Sequence[Mapping[str, Any]]


def set_on_conflict(statement: Insert, hit: Hit) -> Iterator[str]:
    """The attribute keys that the upsert sets in a row that it meets, as far as it names them."""
    clause: Any = statement._post_values_clause
    sets = getattr(clause, "update_values_to_set", None) or getattr(clause, "update", None) or ()
    for column in dict(sets):
        name = hit.name_of(column)
        if name is not None:
            yield name


def rows_in_conflict(
    connection: Connection, sent: Sent, hit: Hit, names: Sequence[str], unique: Sequence[Iterable[Any]]
) -> dict[Key, Row]:
    """The rows that share a primary or unique key with one that is to be inserted; perhaps some more; not locked.

    `unique`: the columns of those that the database knows of, besides the model's. What the database computes (a
    sequence, a SELECT that may answer otherwise each time, an index of expressions) is not foreseen.
    """
    if sent.statement.select is not None:
        return _rows_that_a_select_meets(connection, sent, hit, names, unique)
    given = rows_given(sent, hit)
    defaults = {hit.name_of(column): _default(column) for column in hit.table.columns}
    known: dict[Key, Row] = {}
    for key in dict.fromkeys(_unique_keys(hit, unique)):
        for definite, tuples in _by_shape(key, given, defaults).items():
            found = look_by(connection, hit, names, definite, list(tuples), sent.schemas)
            known.update({hit.key_of(row): row for row in found})
    return known


def _rows_that_a_select_meets(
    connection: Connection, sent: Sent, hit: Hit, names: Sequence[str], unique: Sequence[Iterable[Any]]
) -> dict[Key, Row]:
    selected = sent.selected()
    given = [hit.name_of(name) for name in sent.statement._select_names or ()]
    if selected is None:
        return {}
    source = selected.subquery()
    columns = dict(zip(given, source.columns, strict=False)) if len(source.columns) == len(given) else {}
    known: dict[Key, Row] = {}
    for key in dict.fromkeys(_unique_keys(hit, unique)):
        same = [hit.columns[name] == columns[name] for name in key if name in columns]
        if same:
            met = exists().select_from(source).where(*same)
            found = look(connection, hit, names, [met], schemas=sent.schemas)
            known.update({hit.key_of(row): row for row in found})
    return known


def rows_given(sent: Sent, hit: Hit) -> list[dict[str, Any]]:
    """The values of the rows to insert, by attribute key; MISSING for what the database is to compute."""
    statement = sent.statement
    several = [row for rows in statement._multi_values or () for row in rows]
    if several:
        return [_by_name(row, hit) for row in several]
    named = [hit.name_of(column) for column in sent.state._dict_parameters or {}]
    expressions: dict[str, Any] = {name: MISSING for name in named if name is not None}
    keyed = {column.key: column for column in hit.table.columns}
    return [
        {**expressions, **_named({keyed[key]: value for key, value in each.items() if key in keyed}, hit), **new}
        for each, new in zip(sent.parameters, sent.new_values(hit), strict=True)
    ]


def _by_name(row: Any, hit: Hit) -> dict[str, Any]:
    pairs = row.items() if isinstance(row, Mapping) else zip(hit.table.columns, row, strict=False)
    return _named({column: _value(value) for column, value in pairs}, hit)


def _named(values: Mapping[Any, Any], hit: Hit) -> dict[str, Any]:
    named = ((hit.name_of(column), value) for column, value in values.items())
    return {name: value for name, value in named if name is not None}


def _value(value: Any) -> Any:
    if isinstance(value, BindParameter):
        return MISSING if value.required else value.effective_value
    return MISSING if isinstance(value, ClauseElement) else value


def _unique_keys(hit: Hit, unique: Sequence[Iterable[Any]]) -> Iterator[tuple[str, ...]]:
    """The attribute keys of the primary key and of each unique constraint and index of plain columns."""
    yield hit.pk_keys
    table = hit.table
    constraints = [*unique, *(each.columns for each in table.constraints if isinstance(each, UniqueConstraint))]
    constraints += [each.expressions for each in table.indexes if each.unique]
    for columns in constraints:
        names = [hit.name_of(column) if _is_plain(column) else None for column in columns]
        if None not in names:
            yield tuple(name for name in names if name is not None)


def _is_plain(column: Any) -> bool:
    return isinstance(column, Column) and column.computed is None


def _default(column: Column[Any]) -> Any:
    """What a row has that does not give the column: MISSING where only the statement's run will tell."""
    if column.default is not None:
        return getattr(column.default, "arg", MISSING) if column.default.is_scalar else MISSING
    return None if column.server_default is None else MISSING


def _by_shape(
    names: Sequence[Any], given: Given, defaults: Mapping[Any, Any]
) -> dict[tuple[str, ...], dict[tuple[Any, ...], None]]:
    """The keys of the rows to insert, by the parts that are known: rows that share these may be in the way."""
    shapes: dict[tuple[str, ...], dict[tuple[Any, ...], None]] = {}
    for row in given:
        parts = {name: row.get(name, defaults.get(name)) for name in names}
        if any(part is None for part in parts.values()):
            continue  # NULL is like nothing else
        definite = {name: part for name, part in parts.items() if part is not MISSING}
        if definite:
            shapes.setdefault(tuple(definite), {})[tuple(definite.values())] = None
    return shapes
