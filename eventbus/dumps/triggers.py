"""Triggers of the database, which run during a load too, and may change what was loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection, Table

from eventbus.dumps.facts import MYSQL, name_as_value


def with_triggers(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    """The names of those tables that have a trigger for rows that are inserted or updated."""
    statement = _STATEMENTS.get(connection.dialect.name)
    for table in tables if statement else ():
        name = name_as_value(connection, table)
        values = {"quoted": name, "name": table.name, "schema": table.schema}
        used = {key: value for key, value in values.items() if f":{key}" in str(statement)}
        if connection.execute(sa.text(str(statement)), used).first() is not None:
            yield table.fullname


_STATEMENTS: Final = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :name COLLATE NOCASE",
    "postgresql": """
        SELECT 1 FROM pg_trigger WHERE tgrelid = to_regclass(:quoted)
          AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & (4 | 16) <> 0
    """,
    **dict.fromkeys(
        MYSQL,
        """
        SELECT 1 FROM information_schema.triggers WHERE event_object_schema = COALESCE(:schema, DATABASE())
          AND event_object_table = :name AND event_manipulation <> 'DELETE'
        """,
    ),
}
