"""PostgreSQL's sequences after a load: they do not notice numbers that were given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql

from eventbus.dumps.facts import name_as_value


def lift_sequences(connection: Connection, tables: Iterable[Table]) -> None:
    """Lift sequences over the numbers there are, so that the application's next row gets a free one."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables:
        for column in table.columns:
            if isinstance(column.type, sa.Integer | sa.Numeric) or isinstance(column.default, sa.Sequence):
                _lift(connection, table, column)


def _lift(connection: Connection, table: Table, column: sa.Column[Any]) -> None:
    quoted = name_as_value(connection, table)
    owned: Any = sa.func.pg_get_serial_sequence(quoted, column.name)
    if isinstance(column.default, sa.Sequence):
        owned = sa.literal(connection.dialect.identifier_preparer.format_sequence(column.default))
    if connection.execute(sa.select(owned)).scalar() is None:
        return
    highest = sa.select(sa.func.max(column)).scalar_subquery()
    last = sa.func.pg_sequence_last_value(sa.cast(owned, postgresql.REGCLASS))
    wanted = sa.func.greatest(highest, last)
    connection.execute(sa.select(sa.func.setval(sa.cast(owned, postgresql.REGCLASS), wanted)).where(wanted >= 1))
