"""Upserts: which rows an INSERT … ON CONFLICT (or ON DUPLICATE KEY) will find in its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Insert, UniqueConstraint
from sqlalchemy.orm import ORMExecuteState

from eventbus.changes import MISSING
from eventbus.errors import CaptureError
from eventbus.listeners.rows import Hit, Known, literal_of, parameter_sets


def is_upsert(statement: Insert) -> bool:
    """Whether the INSERT may leave rows alone, or change them, instead of failing on a key that is taken."""
    return statement._post_values_clause is not None or bool(statement._prefixes)


def rows_in_conflict(connection: Connection, state: ORMExecuteState, statement: Insert, hit: Hit) -> Known:
    """The rows that share a primary or unique key with one that is to be inserted, locked.

    Raises CaptureError where the new rows come from a SELECT: what they conflict with cannot be told. A key that the
    database computes conflicts with nothing we know of: its row counts as created.
    """
    if statement.select is not None:
        raise CaptureError(
            f"INSERT … SELECT into {hit.name} with an upsert clause: which rows it makes and which it changes cannot "
            "be told. Insert values, or split it into an UPDATE and an INSERT"
        )
    given = list(_rows_given(state, statement, hit))
    known: Known = {}
    for names in _unique_keys(hit):
        tuples = [tuple(row.get(name) for name in names) for row in given]
        definite = [each for each in tuples if not any(part is None or part is MISSING for part in each)]
        known.update(hit.read_where(connection, names, definite, {}))
    return known


def _unique_keys(hit: Hit) -> Iterator[tuple[str, ...]]:
    """The attribute keys of the primary key and of each unique constraint and index."""
    yield hit.pk_keys
    table = hit.table
    constraints: list[Iterable[Any]] = [
        each.columns for each in table.constraints if isinstance(each, UniqueConstraint)
    ]
    constraints += [each.columns for each in table.indexes if each.unique]
    for columns in constraints:
        names = [hit.key_of_column(column) for column in columns]
        known = tuple(name for name in names if name is not None)
        if len(known) == len(names):
            yield known


def _rows_given(state: ORMExecuteState, statement: Insert, hit: Hit) -> Iterator[dict[str, Any]]:
    """The values of the rows to insert, by attribute key, as far as the statement holds them."""
    several = [_by_key(row, hit) for rows in statement._multi_values or () for row in rows]
    for row in several or [_by_key(statement._values or {}, hit)]:
        for parameters in parameter_sets(state) or [{}]:
            yield {**row, **_by_key(parameters, hit)}


def _by_key(row: Any, hit: Hit) -> dict[str, Any]:
    pairs = row.items() if isinstance(row, Mapping) else zip(hit.table.columns, row, strict=False)
    keyed = ((hit.key_of_column(column), value) for column, value in pairs)
    return {key: literal_of(value) for key, value in keyed if key is not None}
