"""References between rows and the numbers of the next ones, around a load.

SQLite and MariaDB can put off the check of foreign keys. MariaDB then never does it, and SQLite names no row, so it is
done here. PostgreSQL's sequences do not notice keys that were given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, ForeignKeyConstraint, Table
from sqlalchemy.dialects import postgresql

from eventbus.dumps.targets import Target, Targets
from eventbus.errors import LoadError


@contextlib.contextmanager
def checked_later(connection: Connection) -> Iterator[Callable[[Targets, Iterable[Target]], None]]:
    """Put off the database's check of foreign keys as far as it can be; yields what then does it, for some targets.

    That raises LoadError for a row that refers to none.
    """
    name = connection.dialect.name
    if name == "sqlite":
        begin(connection)
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        enforced = connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
        yield _checker(connection) if enforced else _no_check
    elif name in ("mysql", "mariadb"):
        before = connection.exec_driver_sql("SELECT @@SESSION.foreign_key_checks").scalar()
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        try:
            yield _checker(connection) if before else _no_check
        finally:
            if not connection.closed and not connection.invalidated:
                connection.exec_driver_sql(f"SET SESSION foreign_key_checks = {int(before or 0)}")
    else:
        yield _no_check


def begin(connection: Connection) -> None:
    """sqlite3 begins a transaction at the first INSERT: too late for reading, or for a savepoint that then commits."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN")


def _no_check(_targets: Targets, _used: Iterable[Target]) -> None:
    """The database checks each statement, or was told never to check."""


def _checker(connection: Connection) -> Callable[[Targets, Iterable[Target]], None]:
    def check(targets: Targets, used: Iterable[Target]) -> None:
        for target in used:
            for part in target.parts:
                for constraint in part.table.foreign_key_constraints:
                    _check(connection, targets.model(target), constraint)

    return check


def _check(connection: Connection, model: str, constraint: ForeignKeyConstraint) -> None:
    """Raise LoadError where a row refers to none."""
    child, parent = constraint.table, constraint.referred_table.alias("referred")
    pairs = [(element.parent, parent.c[element.column.key]) for element in constraint.elements]
    referred = sa.exists().select_from(parent).where(*(there == here for here, there in pairs)).correlate(child)
    dangling = sa.select(*child.primary_key or [sa.literal(None)]).select_from(child)
    dangling = dangling.where(*(here.is_not(None) for here, _ in pairs), ~referred)
    row = connection.execute(dangling.limit(1)).first()
    if row is not None:
        pk = row[0] if len(row) == 1 else list(row)
        where = (
            f"{', '.join(column.key for column in constraint.columns)} refers to no {constraint.referred_table.name}"
        )
        raise LoadError(f"{model} {pk!r}: {where}", model=model, pk=pk)


def lift_sequences(connection: Connection, targets: Iterable[Target]) -> None:
    """Lift PostgreSQL's sequences over the keys there are, so that the application's next row gets a free one."""
    if connection.dialect.name != "postgresql":
        return
    tables = {part.table for target in targets for part in target.parts}
    for table in tables:
        column = table.autoincrement_column
        if column is not None:
            _lift_sequence(connection, table, column)


def _lift_sequence(connection: Connection, table: Table, column: sa.Column[Any]) -> None:
    quoted = connection.dialect.identifier_preparer.format_table(table)
    owned: Any = sa.func.pg_get_serial_sequence(quoted, column.name)
    if isinstance(column.default, sa.Sequence):
        owned = sa.literal(connection.dialect.identifier_preparer.format_sequence(column.default))
    highest = sa.select(sa.func.max(column)).scalar_subquery()
    last = sa.func.pg_sequence_last_value(sa.cast(owned, postgresql.REGCLASS))
    wanted = sa.func.greatest(highest, last)
    connection.execute(
        sa.select(sa.func.setval(sa.cast(owned, postgresql.REGCLASS), wanted)).where(owned.is_not(None), wanted >= 1)
    )
