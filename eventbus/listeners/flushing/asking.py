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


class Unanswered(Exception):
    """The database told nothing: the table is not there, or `error` came instead of an answer."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error


class Asked(Generic[T]):
    """Answers of one kind. `find` asks, or raises Unanswered; an answer that is not final is asked for again each time.

    `unknown` stands for an answer that is not given. It is not remembered: what was asked over a connection that is
    lost says nothing of the table.
    """

    def __init__(
        self,
        find: Callable[[Connection, Table, str | None], T],
        unknown: T,
        is_final: Callable[[T], bool] = lambda _: True,
    ) -> None:
        self._find = find
        self._unknown = unknown
        self._is_final = is_final
        self._known: WeakKeyDictionary[Dialect, dict[_Place, T]] = WeakKeyDictionary()

    def told(self, connection: Connection, table: Table, schemas: Any = None, *, sending: bool = False) -> T:
        """The answer for a table; `schemas`: the `schema_translate_map` of the statement, if any.

        `sending`: a statement is just being sent. What the driver raises, and the statement would have met in place of
        the question, is raised: SQLAlchemy makes of it the statement's own error.
        """
        known = self._known.setdefault(connection.dialect, {})
        place = table, _schema(connection, table, schemas)
        found = known.get(place)
        if found is None or not self._is_final(found):
            try:
                found = known[place] = self._find(connection, *place)
            except Unanswered as unanswered:
                if sending and unanswered.error is not None and _is_over(connection, unanswered.error):
                    raise unanswered.error from None
                return self._unknown
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
    """The rows that the database answers. Raises Unanswered with what the driver raises."""
    try:
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text)
            return [tuple(row) for row in cursor.fetchall()]
        finally:
            cursor.close()
    except connection.dialect.loaded_dbapi.Error as error:
        raise Unanswered(error) from error


def _is_over(connection: Connection, error: Exception) -> bool:
    """Whether nothing more can be done in this transaction: on PostgreSQL after any error."""
    if connection.dialect.name == "postgresql":
        return True
    return connection.dialect.is_disconnect(error, connection.connection, None)  # type: ignore[arg-type]
