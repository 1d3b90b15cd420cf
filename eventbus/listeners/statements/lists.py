"""An INSERT with a list of rows: the driver runs it row by row.

Where rows are given back SQLAlchemy sends many at once. Ours are, and go at once only where they come to the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from inspect import signature
from typing import Any, Final

from sqlalchemy import BindParameter, ClauseElement, Insert, TextClause, types
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.sql.visitors import iterate

_TOLD_APART: Final = (types.Integer, types.String, types.Uuid)
Given = Sequence[Mapping[str, Any]]


def go_together(dialect: str, statement: Insert, rows: Given) -> bool:
    """Whether several rows of the list may be one statement.

    * SQLite: no. Of a list that fails in its middle the rows before stay, and a program may go on with them.
    * MariaDB: as its drivers do it themselves, where each row is nothing but values.
    * PostgreSQL: unless a row may look at those before it, or change one of them.
    """
    if dialect == "sqlite":
        return False
    computed = list(_computed(statement, rows))
    if dialect != "postgresql":
        return not computed
    return not any(_looks(each) for each in computed) and _are_apart(statement, rows)


def one_by_one(statement: Insert) -> Insert:
    """The same, with each row as a statement of its own, within one execution and with one Result."""
    statement, compiled = copy(statement), statement._compile_w_cache

    def compile_(*args: Any, **kwargs: Any) -> Any:
        cached, *rest = compiled(*args, **kwargs)
        made: Any = copy(cached)
        made._deliver_insertmanyvalues_batches = partial(_singly, made._deliver_insertmanyvalues_batches)
        return made, *rest

    statement._compile_w_cache = compile_  # type: ignore[method-assign]
    return statement


def _singly(deliver: Any, *args: Any, **kwargs: Any) -> Any:
    bound = signature(deliver).bind(*args, **kwargs)
    bound.arguments["batch_size"] = 1
    return deliver(*bound.args, **bound.kwargs)


def _computed(statement: Insert, rows: Given) -> Iterator[ClauseElement]:
    """What the database computes of each row."""
    values: Mapping[Any, Any] = statement._values or {}
    yield from (each for each in values.values() if not isinstance(each, BindParameter))
    named = {*rows[0], *(getattr(column, "key", column) for column in values)}
    for column in statement.table.columns:
        default: Any = getattr(column, "default", None)
        if column.key in named:
            if column.type._has_bind_expression:
                yield column.type.bind_expression(BindParameter(None, None))  # type: ignore[misc]
        elif default is not None and (default.is_clause_element or default.is_sequence):
            yield default.next_value() if default.is_sequence else default.arg


def _looks(computed: ClauseElement) -> bool:
    """Whether it may look at rows of a table."""
    return any(isinstance(each, SelectBase | TextClause) for each in iterate(computed))


def _are_apart(statement: Insert, rows: Given) -> bool:
    """Whether no row of an upsert changes another one of the list: at once the database refuses that."""
    clause: Any = statement._post_values_clause
    sets: Any = getattr(clause, "update_values_to_set", None)
    if sets is None:
        return True
    if any(isinstance(value, ClauseElement) and _looks(value) for value in dict(sets).values()):
        return False
    columns: list[Any] = [
        statement.table.columns.get(getattr(each, "key", each)) for each in clause.inferred_target_elements or ()
    ]
    if not columns or not all(column is not None and _tells_apart(column.type) for column in columns):
        return False
    keys = [tuple(row.get(column.key) for column in columns) for row in rows]
    return len(set(keys)) == len(keys) and not any(None in key for key in keys)


def _tells_apart(type_: Any) -> bool:
    """Whether two values that differ here differ in the database as well: not for types of one's own, or CITEXT."""
    is_usual = isinstance(type_, _TOLD_APART) and type(type_).__module__ == types.Integer.__module__
    return is_usual and getattr(type_, "collation", None) is None
