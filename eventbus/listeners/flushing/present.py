"""Which columns tables really have: while a migration is under way a model names some that its table lacks.

The program's statements do not mind, as long as they do not name these. Ours must not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import not_
from typing import Any, Final

from sqlalchemy import Column, Connection, Table

from eventbus.listeners.flushing.asking import Asked, Unanswered, ask

_FOLDING: Final = ("sqlite", "mysql", "mariadb")
"""Databases in which the names of columns are the same in small and capital letters."""
_UNLISTED: Final = {"sqlite": ("rowid", "oid", "_rowid_")}

Absent = frozenset[Column[Any]]


class Present(Asked[Absent]):
    """Tells the columns that a table lacks, and asks again each time while it lacks some."""

    def __init__(self) -> None:
        super().__init__(_absent, frozenset(), is_final=not_)

    def absent_of(self, connection: Connection, columns: Iterable[Any]) -> Absent:
        """Those of these columns, of any tables, that are not there."""
        tables = dict.fromkeys(table for column in columns if isinstance(table := column.table, Table))
        return frozenset().union(*(self.told(connection, table) for table in tables))


def _absent(connection: Connection, table: Table, schema: str | None) -> Absent:
    question = _QUESTIONS.get(connection.dialect.name)
    if question is None:
        return frozenset()
    text, position = question(connection.dialect.identifier_preparer.quote, table.name, schema)
    names = [row[position] for row in ask(connection, text)]
    if not names:  # of a table that is not there the statement itself will tell
        raise Unanswered
    fold = str.lower if connection.dialect.name in _FOLDING else str
    there = {*map(fold, names), *_UNLISTED.get(connection.dialect.name, ())}
    return frozenset(column for column in table.columns if not column.system and fold(column.name) not in there)


def _of_postgresql(quote: Callable[[str], str], name: str, schema: str | None) -> tuple[str, int]:
    qualified = (f"{quote(schema)}.{quote(name)}" if schema else quote(name)).replace("'", "''")
    found = f"attrelid = pg_catalog.to_regclass('{qualified}') AND NOT attisdropped"
    return f"SELECT attname FROM pg_catalog.pg_attribute WHERE {found}", 0  # noqa: S608 - quoted names


def _of_mysql(quote: Callable[[str], str], name: str, schema: str | None) -> tuple[str, int]:
    return f"SHOW COLUMNS FROM {f'{quote(schema)}.' if schema else ''}{quote(name)}", 0


def _of_sqlite(quote: Callable[[str], str], name: str, schema: str | None) -> tuple[str, int]:
    return f"PRAGMA {f'{quote(schema)}.' if schema else ''}table_xinfo({quote(name)})", 1


_QUESTIONS: Final = {
    "postgresql": _of_postgresql, "mysql": _of_mysql, "mariadb": _of_mysql, "sqlite": _of_sqlite,
}  # fmt: skip
