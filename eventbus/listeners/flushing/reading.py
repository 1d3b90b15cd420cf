"""Rows as far as they can be read: a value that its column's type fails at is not known, and costs nobody a statement.

What the database holds may be older than the type, or come from elsewhere: text that is no member of an Enum, no JSON,
no date; what a TypeDecorator refuses. The program that changes another column of such a row never reads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select
from sqlalchemy.exc import DBAPIError

from eventbus.errors import CaptureWarning
from eventbus.events.change import MISSING

Processor = Callable[[Any], Any] | None
"""Makes a Python value of what the driver gives; None where that is the value."""


def rows_of(
    connection: Connection, query: Select[Any], columns: Sequence[Any], options: Mapping[str, Any] | None = None
) -> Sequence[Sequence[Any]]:
    """All rows that a query finds; MISSING for what cannot be read. `columns`: those that it asks for, in order."""
    try:
        return connection.execute(query, execution_options=options).all()  # a Result fetches row by row otherwise
    except DBAPIError:
        raise
    except Exception:  # noqa: BLE001 - the application's own types; what else was wrong is raised again
        result: Any = connection.execute(query, execution_options=options)
        processors = result._metadata._processors
        found = result.cursor.fetchall()
        result.close()
        return [readable(columns, processors, row) for row in found]


def processed(columns: Sequence[Any], processors: Sequence[Processor], row: Sequence[Any]) -> list[Any]:
    """The values of a row that the driver gave; MISSING for what cannot be read."""
    try:
        return [value if process is None else process(value) for process, value in zip(processors, row, strict=False)]
    except Exception:  # noqa: BLE001 - the application's own types
        return readable(columns, processors, row)


def readable(columns: Sequence[Any], processors: Sequence[Processor], row: Sequence[Any]) -> list[Any]:
    """The same, value by value. Raises what a type says of a primary key, without which there is no record."""
    return [_read(*each) for each in zip(columns, processors, row, strict=False)]


def _read(column: Any, process: Processor, value: Any) -> Any:
    if process is None:
        return value
    try:
        return process(value)
    except Exception as error:
        if getattr(column, "primary_key", True):
            raise
        leave_out(str(column), f"cannot be read through its type ({type(error).__name__})")
        return MISSING


def leave_out(name: str, why: str) -> None:
    """Tell of a value that events go without."""
    warnings.warn(
        f"{name}: what a row holds {why}. Events of that row go without the field; mend the row, or keep the column "
        "home (info={'eventbus': False})",
        CaptureWarning,
        stacklevel=2,
    )
