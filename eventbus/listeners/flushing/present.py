"""Which columns tables really have: while a migration is under way a model names some that its table lacks.

The program's statements do not mind, as long as they do not name these. Ours must not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Connection, Dialect, Table

_FOLDING: Final = ("sqlite", "mysql", "mariadb")
"""Databases in which the names of columns are the same in small and capital letters."""
_UNLISTED: Final = {"sqlite": ("rowid", "oid", "_rowid_")}

_Place = tuple[Table, str | None]
Absent = frozenset[Column[Any]]


class Present:
    """Asks the database once a table, and again each time while the table lacks some of the model's columns.

    The question takes no lock, and goes to the driver itself: nobody else's listeners see it.
    """

    def __init__(self) -> None:
        self._absent: WeakKeyDictionary[Dialect, dict[_Place, Absent]] = WeakKeyDictionary()

    def knows(self, connection: Connection, table: Table, schemas: Any = None) -> bool:
        """Whether nothing has to be asked: the table is known to lack none."""
        known = self._absent.get(connection.dialect, {})
        return known.get((table, schema_of(connection, table, schemas))) == frozenset()

    def absent(self, connection: Connection, table: Table, schemas: Any = None) -> Absent:
        """The columns that the table lacks; `schemas`: the `schema_translate_map` of the statement, if any."""
        known = self._absent.setdefault(connection.dialect, {})
        schema = schema_of(connection, table, schemas)
        absent = known.get((table, schema))
        if absent is None or absent:
            absent = known[table, schema] = _absent(connection, table, schema)
        return absent

    def absent_of(self, connection: Connection, columns: Iterable[Any]) -> Absent:
        """Those of these columns, of any tables, that are not there."""
        tables = dict.fromkeys(table for column in columns if isinstance(table := column.table, Table))
        return frozenset().union(*(self.absent(connection, table) for table in tables))

    def forget(self, dialect: Dialect, table: Table) -> None:
        """Ask of this table again: a statement failed, perhaps for the lack of a column that was there."""
        known = self._absent.get(dialect, {})
        for place in [place for place in known if place[0] is table]:
            del known[place]


def schema_of(connection: Connection, table: Table, schemas: Any) -> str | None:
    """Where a table is, translated as a statement or its connection says."""
    if schemas is None:
        schemas = connection.get_execution_options().get("schema_translate_map")
    schema: str | None = (schemas or {}).get(table.schema, table.schema)
    return schema


def _absent(connection: Connection, table: Table, schema: str | None) -> Absent:
    question = _QUESTIONS.get(connection.dialect.name)
    if question is None:
        return frozenset()
    text, position = question(connection.dialect.identifier_preparer.quote, table.name, schema)
    names = [row[position] for row in ask(connection, text)]
    if not names:  # of a table that is not there the statement itself will tell
        return frozenset()
    fold = str.lower if connection.dialect.name in _FOLDING else str
    there = {*map(fold, names), *_UNLISTED.get(connection.dialect.name, ())}
    return frozenset(column for column in table.columns if not column.system and fold(column.name) not in there)


def ask(connection: Connection, text: str) -> list[tuple[Any, ...]]:
    """The rows that the database answers; none where it does not, as in a transaction that has failed."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text)
        return [tuple(row) for row in cursor.fetchall()]
    except connection.dialect.loaded_dbapi.Error:
        return []
    finally:
        cursor.close()


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
