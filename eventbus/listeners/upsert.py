"""Upserts: which rows an INSERT … ON CONFLICT (or ON DUPLICATE KEY) will find in its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Insert, Table, UniqueConstraint
from sqlalchemy.orm import ORMExecuteState

from eventbus.errors import CaptureError
from eventbus.listeners.rows import Hit, Known


def is_upsert(statement: Insert) -> bool:
    """Whether the INSERT may leave rows alone, or change them, instead of failing on a key that is taken."""
    return statement._post_values_clause is not None or bool(statement._prefixes)


def rows_in_conflict(state: ORMExecuteState, statement: Insert, hit: Hit) -> Known:
    """The rows that share a primary or unique key with one that is to be inserted, locked.

    Raises CaptureError where the new rows come from a SELECT: what they conflict with cannot be told.
    """
    if statement.select is not None:
        raise CaptureError(
            f"INSERT … SELECT into {hit.name} with an upsert clause: which rows it makes and which it changes cannot be "
            "told. Insert values, or split it into an UPDATE and an INSERT"
        )
    given = list(_rows_given(state, statement, hit))
    known: Known = {}
    for names in _unique_keys(hit):
        tuples = [tuple(row[name] for name in names) for row in given if all(row.get(name) is not None for name in names)]
        if tuples:
            known.update(hit.read_where(state.session, names, tuples, {}))
    return known


def _unique_keys(hit: Hit) -> Iterator[tuple[str, ...]]:
    """The attribute keys of the primary key and of each unique constraint and index."""
    yield hit.pk_keys
    table = hit.table
    constraints: Iterable[Sequence[Any]] = [
        *(list(each.columns) for each in table.constraints if isinstance(each, UniqueConstraint)),
        *(list(each.columns) for each in table.indexes if each.unique),
    ]
    for columns in constraints:
        names = [hit.key_of_column(column) for column in columns]
        if all(name is not None for name in names):
            yield tuple(names)  # type: ignore[arg-type]


def _rows_given(state: ORMExecuteState, statement: Insert, hit: Hit) -> Iterator[Mapping[str, Any]]:
    """The literal values of the rows to insert, by attribute key."""
    parameters = state.parameters
    sets: list[Mapping[Any, Any]] = list(parameters) if isinstance(parameters, list) else [parameters or {}]
    fixed: dict[Any, Any] = dict(statement._values or {})
    rows = [row for rows in statement._multi_values or () for row in rows] or [fixed]
    for row in rows:
        for each in sets:
            values = {**_by_key(row, hit), **_by_key(each, hit)}
            yield {key: getattr(value, "value", value) for key, value in values.items()}


def _by_key(row: Any, hit: Hit) -> dict[str, Any]:
    items: Iterable[tuple[Any, Any]] = (
        row.items() if isinstance(row, Mapping) else zip(hit.table.columns, row, strict=False)
    )
    return {hit.key_of_column(column) or str(column): value for column, value in items}


__all__ = ["Table", "is_upsert", "rows_in_conflict"]
