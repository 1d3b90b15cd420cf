"""Tables of PostgreSQL that others inherit from: a statement about one means the rows of its children as well.

Where those are tables of the same dump, each table stands for its own rows alone, so that none is there twice.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, FromClause, MetaData

ONLY: Final = "ONLY"
_ALONE: Final = "eventbus_alone"


def note_parents(connection: Connection, metadata: MetaData) -> None:
    """Note in reflected tables which of them stand for their own rows alone.

    Not those with a child that was not reflected: its rows would be in no dump. A partitioned table is the whole.
    """
    if connection.dialect.name != "postgresql":
        return
    for parent, children in connection.execute(sa.text(_PARENTS)):
        if parent in metadata.tables and all(child in metadata.tables for child in children):
            metadata.tables[parent].info[_ALONE] = True


def is_alone(table: FromClause) -> bool:
    """Whether a table stands for its own rows, not for those of its children."""
    return isinstance(table, sa.Table) and _ALONE in table.info


def alone(statement: Any, *tables: FromClause) -> Any:
    """The SELECT, UPDATE or DELETE, of the tables' own rows where they stand for those."""
    for table in tables:
        if is_alone(table):
            place = (table, ONLY) if isinstance(statement, sa.Select) else (ONLY, table)
            statement = statement.with_hint(*place, dialect_name="postgresql")
    return statement


_PARENTS: Final = """
    SELECT p.relname, array_agg(CAST(CASE WHEN c.relnamespace = p.relnamespace THEN c.relname ELSE '' END AS text))
    FROM pg_inherits i
      JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
      JOIN pg_namespace n ON n.oid = p.relnamespace
    WHERE p.relkind = 'r' AND n.nspname = current_schema()
    GROUP BY p.oid, p.relname
"""
