"""What the database itself knows of tables: asked once a table, and remembered.

The question takes no lock, and goes to the driver itself: nobody else's listeners see it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Table

T = TypeVar("T")
_Place = tuple[Table, str | None]


class Asked(Generic[T]):
    """Answers of one kind. `find` asks; an answer that is not final is asked for again each time."""

    def __init__(
        self, find: Callable[[Connection, Table, str | None], T], is_final: Callable[[T], bool] = lambda _: True
    ) -> None:
        self._find = find
        self._is_final = is_final
        self._known: WeakKeyDictionary[Dialect, dict[_Place, T]] = WeakKeyDictionary()

    def told(self, connection: Connection, table: Table, schemas: Any = None) -> T:
        """The answer for a table; `schemas`: the `schema_translate_map` of the statement, if any."""
        known = self._known.setdefault(connection.dialect, {})
        place = table, _schema(connection, table, schemas)
        found = known.get(place)
        if found is None or not self._is_final(found):
            found = known[place] = self._find(connection, *place)
        return found

    def knows(self, connection: Connection, table: Table, schemas: Any = None) -> bool:
        """Whether nothing has to be asked."""
        found = self._known.get(connection.dialect, {}).get((table, _schema(connection, table, schemas)))
        return found is not None and self._is_final(found)

    def forget(self, dialect: Dialect, table: Table) -> None:
        """Ask of this table again: a statement failed, perhaps since it is another one now."""
        known = self._known.get(dialect, {})
        for place in [place for place in known if place[0] is table]:
            del known[place]


def _schema(connection: Connection, table: Table, schemas: Any) -> str | None:
    """Where a table is, translated as a statement or its connection says."""
    if schemas is None:
        schemas = connection.get_execution_options().get("schema_translate_map")
    schema: str | None = (schemas or {}).get(table.schema, table.schema)
    return schema


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
