"""RETURNING that nobody asked for: added to the text that is sent, taken off the rows before SQLAlchemy sees them.

The program's Result is made of what is left, so it is the one that it would have been: no rows where none were asked
for, the columns that were asked for, the same count and keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Column, Dialect, Float, Insert
from sqlalchemy.engine.cursor import _NO_CURSOR_DML, _NO_RESULT_METADATA, FullyBufferedCursorFetchStrategy

from eventbus.listeners.flushing.reading import processed
from eventbus.listeners.statements.rows import Hit, Row
from eventbus.records.columns import stored

IS_NEW: Final = "(xmax = 0)"
"""PostgreSQL: the transaction that locked this version of the row; an upsert locks those that it meets."""


class Returning:
    """What one statement is to give back besides what its author asked for: columns, and expressions in SQL."""

    def __init__(self, hit: Hit, names: Sequence[str], alias: str | None, expressions: Sequence[str] = ()) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self._names = names
        self._columns = [hit.columns[name] for name in names]
        self._alias = alias
        self._expressions = expressions
        self._coltypes: list[Any] = []

    def added_to(self, statement: str, context: Any) -> str:
        """The text with what is to be given back at its end."""
        added = [*(_named(context.dialect, each, self._alias) for each in self._columns), *self._expressions]
        word = "," if context.compiled.effective_returning else " RETURNING"
        return f"{statement}{word} {', '.join(added)}"

    def in_batches(self, context: Any) -> None:
        """Take ours off each batch of rows that SQLAlchemy fetches of an INSERT with many sets of values."""
        fetch = context.fetchall_for_returning

        def fetchall(cursor: Any) -> list[Any]:
            rows, width = self._split(cursor, fetch(cursor))
            context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(
                cursor, alternate_description=cursor.description[:width], initial_buffer=()
            )
            return rows

        context.fetchall_for_returning = fetchall

    def take(self, cursor: Any, context: Any) -> None:
        """Take ours off all rows, and leave the others for the Result."""
        if cursor.description is None:
            return  # MariaDB, whose optimizer has seen that the WHERE is never true: no rows, not even none of them
        rows, width = self._split(cursor, context.fetchall_for_returning(cursor))
        if width:
            context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(
                cursor, alternate_description=cursor.description[:width], initial_buffer=rows
            )
        else:
            context.cursor_fetch_strategy = _NO_CURSOR_DML

    def read(self, context: Any) -> tuple[list[Row], list[tuple[Any, ...]]]:
        """The rows by attribute key, as Python values; and of each what the expressions say."""
        types = [stored(column).type for column in self._columns]
        processors = [
            _whole_or_not(type_, context.dialect, context.get_result_processor(type_, None, coltype))
            for type_, coltype in zip(types, self._coltypes, strict=False)
        ]
        width = len(self._columns)
        rows = [dict(zip(self._names, processed(self._columns, processors, row), strict=False)) for row in self.rows]
        return rows, [tuple(row[width:]) for row in self.rows]

    def _split(self, cursor: Any, rows: Sequence[Any]) -> tuple[list[Any], int]:
        width = len(cursor.description) - len(self._columns) - len(self._expressions)
        self._coltypes = [each[1] for each in cursor.description[width:]]
        self.rows += [tuple(row)[width:] for row in rows]
        return [tuple(row)[:width] for row in rows], width


def with_keys_given_back(statement: Insert, key: Sequence[Any]) -> Insert:
    """An INSERT of many rows, to be sent in batches that give back their keys, also those that were given."""
    return statement.return_defaults(*key, supplemental_cols=key)


def without_rows(result: Any) -> None:
    """Leave the Result of such an INSERT as it would have been."""
    result._soft_close()
    result._metadata = _NO_RESULT_METADATA
    result.cursor_strategy = _NO_CURSOR_DML
    result.context.returned_default_rows = None
    vars(result.context).pop("inserted_primary_key_rows", None)  # of many rows SQLAlchemy makes it of what was given
    if result.dialect.name == "sqlite":
        result.context.get_lastrowid = lambda: None  # of many rows sent one by one the driver tells none


def _whole_or_not(type_: Any, dialect: Dialect, process: Any) -> Any:
    """SQLite gives back 1 where a SELECT of the same number tells 1.0."""
    if dialect.name != "sqlite" or not isinstance(type_._unwrapped_dialect_impl(dialect), Float):
        return process

    def processed(value: Any) -> Any:
        value = float(value) if type(value) is int else value
        return value if process is None else process(value)

    return processed


def _named(dialect: Dialect, column: Any, alias: str | None) -> str:
    if not isinstance(column, Column):
        return str(column.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    name = dialect.identifier_preparer.quote(column.name)
    return name if alias is None else f"{dialect.identifier_preparer.quote(alias)}.{name}"
