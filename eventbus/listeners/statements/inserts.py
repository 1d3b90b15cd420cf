"""INSERTs: the values that they hold, and the keys of the rows that they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import BindParameter, Boolean, Connection, CursorResult, Insert, Result, literal_column
from sqlalchemy.engine import result_tuple
from sqlalchemy.engine.result import null_result
from sqlalchemy.orm import ORMExecuteState

from eventbus.errors import CaptureError
from eventbus.events.change import MISSING, Key
from eventbus.listeners.statements.rows import Hit, literal_of, parameter_sets

_IS_NEW: Final = literal_column("(xmax = 0)", Boolean)
"""PostgreSQL: the transaction that locked this version of the row; an upsert locks those that it meets."""


class Inserted(NamedTuple):
    """What the caller is given, and the rows that were made: whether each is new, or None where nobody can tell."""

    result: Result[Any]
    rows: dict[Key, bool | None]


def is_upsert(statement: Insert) -> bool:
    """Whether the INSERT may leave rows alone, or change them, instead of failing on a key that is taken."""
    return statement._post_values_clause is not None or bool(statement._prefixes)


def rows_given(state: ORMExecuteState, statement: Insert, hit: Hit) -> list[dict[str, Any]]:
    """The values of the rows to insert, by attribute key; MISSING for what the database is to compute."""
    if statement.select is not None:
        return [dict.fromkeys(_known(hit, statement._select_names or ()), MISSING)]
    several = [row for rows in statement._multi_values or () for row in rows]
    return [
        {**_by_key(row, hit, parameters), **_by_key(parameters, hit)}
        for row in several or [statement._values or {}]
        for parameters in parameter_sets(state) or [{}]
    ]


def run_insert(
    connection: Connection, state: ORMExecuteState, statement: Insert, hit: Hit, *, tells_new: bool = False
) -> Inserted:
    """Run an INSERT; its result as the caller expects it, and the rows it made.

    `tells_new`: have PostgreSQL tell which of an upsert's rows are new.
    """
    if _is_one_plain_row(state, statement):
        (row,) = rows_given(state, statement, hit)
        if all(column.primary_key or _is_value(row.get(key)) for column, key in _key_columns(hit)):
            result = state.invoke_statement()
            return Inserted(result, {_key_told(hit, result, row): True})
    if not connection.dialect.insert_returning:
        raise CaptureError(
            f"INSERT into {hit.name}: this database has no RETURNING, so the keys of the new rows are not known"
        )
    return _run_returning(state, statement, hit, tells_new=tells_new)


def _run_returning(state: ORMExecuteState, statement: Insert, hit: Hit, *, tells_new: bool) -> Inserted:
    columns = [*hit.local_key, *(column for column in hit.table.primary_key if column not in hit.local_key)]
    asked = [*hit.statement_key, *columns[len(hit.local_key) :], *([_IS_NEW] if tells_new else [])]
    frozen = state.invoke_statement(statement=statement.returning(*asked)).freeze()
    shown = frozen()
    width = len(shown.keys()) - len(asked)
    told = [tuple(row)[width:] for row in frozen()]
    rows: dict[Key, bool | None] = {row[: len(hit.local_key)]: row[-1] if tells_new else None for row in told}
    if statement._returning:
        shown = shown.columns(*range(width))
    else:
        shown = null_result()
        if not parameter_sets(state) and not statement._multi_values and statement.select is None:
            shown.inserted_primary_key = _primary_key(hit, columns, told)  # type: ignore[attr-defined]
    shown.rowcount = len(told)  # type: ignore[attr-defined]
    return Inserted(shown, rows)


def _primary_key(hit: Hit, columns: list[Any], told: list[tuple[Any, ...]]) -> Any:
    """As a result without RETURNING has it: in the table's order, None for a row that was left alone."""
    known = dict(zip(columns, told[0], strict=False)) if told else {}
    primary = list(hit.table.primary_key)
    return result_tuple([column.key for column in primary])([known.get(column) for column in primary])


def _is_one_plain_row(state: ORMExecuteState, statement: Insert) -> bool:
    """Whether the result of it as it is tells the key: SQLAlchemy asks the database by itself."""
    if is_upsert(statement) or statement.select is not None or statement._multi_values:
        return False
    if statement._returning or statement._inline:
        return False
    return not state.parameters or (not state.is_orm_statement and len(parameter_sets(state)) == 1)


def _key_told(hit: Hit, result: Result[Any], row: Mapping[str, Any]) -> Key:
    made = result.inserted_primary_key if isinstance(result, CursorResult) else None
    told = dict(zip(hit.table.primary_key, made or (), strict=False))
    key = tuple(told.get(column, row.get(name)) for column, name in _key_columns(hit))
    if not all(_is_value(part) for part in key):
        raise CaptureError(f"INSERT into {hit.name}: the database does not tell the primary key of the new row")
    return key


def _key_columns(hit: Hit) -> Iterator[tuple[Any, str]]:
    return zip(hit.local_key, hit.pk_keys, strict=True)


def _is_value(value: Any) -> bool:
    return value is not None and value is not MISSING


def _by_key(row: Any, hit: Hit, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    pairs = row.items() if isinstance(row, Mapping) else zip(hit.table.columns, row, strict=False)
    keyed = ((hit.key_of_column(column), value) for column, value in pairs)
    return {key: _value(value, parameters or {}) for key, value in keyed if key is not None}


def _value(value: Any, parameters: Mapping[str, Any]) -> Any:
    if isinstance(value, BindParameter) and value.key in parameters:
        return parameters[value.key]
    return literal_of(value)


def _known(hit: Hit, columns: Any) -> Iterator[str]:
    keys = (hit.key_of_column(column) for column in columns)
    return (key for key in keys if key is not None)
