"""Tables of PostgreSQL that others inherit from: a statement about one means the rows of its children as well.

Where those are tables of the same models, each table stands for its own rows alone, so that none is there twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, FromClause, Table

ONLY: Final = "ONLY"
_ALONE: Final = "eventbus_alone"


def note_parents(connection: Connection, tables: Iterable[Table]) -> None:
    """Note in the models' tables which of them stand for their own rows alone in this database.

    Not those with a child that is none of these tables: its rows would be nowhere. A partitioned table is the whole.
    """
    known = {}
    for table in tables:
        table.info.pop(_ALONE, None)
        known[table.schema, str(table.name)] = table
    if connection.dialect.name != "postgresql":
        return
    own = connection.scalar(sa.text("SELECT current_schema()"))
    known |= {(own, name): table for (schema, name), table in known.items() if schema is None}
    for schema, parent, schemas, children in connection.execute(sa.text(_PARENTS)):
        if (schema, parent) in known and all(child in known for child in zip(schemas, children, strict=True)):
            known[schema, parent].info[_ALONE] = True


def is_alone(table: FromClause) -> bool:
    """Whether a table stands for its own rows, not for those of its children."""
    return isinstance(table, Table) and _ALONE in table.info


def alone(statement: Any, *tables: FromClause) -> Any:
    """The SELECT, UPDATE or DELETE, of the tables' own rows where they stand for those."""
    for table in tables:
        if is_alone(table):
            place = (table, ONLY) if isinstance(statement, sa.Select) else (ONLY, table)
            statement = statement.with_hint(*place, dialect_name="postgresql")
    return statement


_PARENTS: Final = """
    SELECT pn.nspname, p.relname,
      array_agg(CAST(cn.nspname AS text) ORDER BY c.oid), array_agg(CAST(c.relname AS text) ORDER BY c.oid)
    FROM pg_inherits i
      JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
      JOIN pg_namespace pn ON pn.oid = p.relnamespace JOIN pg_namespace cn ON cn.oid = c.relnamespace
    WHERE p.relkind = 'r'
    GROUP BY p.oid, pn.nspname, p.relname
"""
