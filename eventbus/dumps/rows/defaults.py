"""What an application's models put into the columns that a new record does not have."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column
from sqlalchemy.engine import Dialect

from eventbus.dumps.targets import Part


@dataclass(frozen=True, slots=True)
class Default:
    """A column that a new row gets: a value of `make`, or the SQL expression `sql`."""

    column: Column[Any]
    make: Callable[[], Any] | None
    sql: str = ""


def defaults_of(part: Part, given: Collection[str], dialect: Dialect) -> tuple[Default, ...]:
    """The defaults of a table's columns that are not among the given keys, as far as Python has them."""
    found = []
    for key, column in part.columns.items():
        if key not in given and column.default is not None:
            found.append(_default(column, column.default, dialect))
    return tuple(each for each in found if each is not None)


def _default(column: Column[Any], default: Any, dialect: Dialect) -> Default | None:
    if default.is_sequence:
        if not dialect.supports_sequences:
            return None
        return Default(column, None, str(sa.func.next_value(default).compile(dialect=dialect)))
    if default.is_clause_element:
        expression = default.arg.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        return Default(column, None, str(expression))
    bind: Any = column.type.dialect_impl(dialect).bind_processor(dialect)

    def make() -> Any:
        value = default.arg(None) if default.is_callable else default.arg
        return value if bind is None else bind(value)

    return Default(column, make)
