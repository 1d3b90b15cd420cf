"""PostgreSQL's constraints around a load: which of them wait for its end, and which can be brought to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection, ForeignKeyConstraint
from sqlalchemy.exc import DBAPIError

from eventbus.dumps.facts import name_as_value
from eventbus.errors import LoadError

_DEFERRED: Final = """
    SELECT quote_ident(n.nspname) || '.' || quote_ident(k.conname)
    FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace WHERE k.condeferred
"""
_FOREIGN: Final = """
    SELECT k.conname AS name, k.condeferrable AS deferrable,
      ARRAY(
        SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
      ) AS columns
    FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = to_regclass(:table)
""".replace("::", "\\:\\:")


@dataclass(frozen=True, slots=True)
class Foreign:
    """A foreign key as the database has it."""

    table: str
    name: str
    deferrable: bool


def not_deferrable(
    connection: Connection, constraints: Iterable[ForeignKeyConstraint]
) -> dict[ForeignKeyConstraint, list[Foreign]]:
    """Of these constraints those that the database checks with each statement, as it has them."""
    found = {each: [one for one in _foreign(connection, each) if not one.deferrable] for each in constraints}
    return {each: those for each, those in found.items() if those}


def _foreign(connection: Connection, constraint: ForeignKeyConstraint) -> Iterator[Foreign]:
    table = connection.dialect.identifier_preparer.format_table(constraint.table)
    wanted = {column.name for column in constraint.columns}
    for row in connection.execute(sa.text(_FOREIGN), {"table": name_as_value(connection, constraint.table)}):
        if set(row.columns) == wanted:
            yield Foreign(table, row.name, row.deferrable)


def make_deferrable(connection: Connection, those: Iterable[Foreign]) -> None:
    """Have constraints wait for the end of the transaction. Raises LoadError where the role may not."""
    quote = connection.dialect.identifier_preparer.quote
    names = ", ".join(f"{each.name} of {each.table}" for each in those)
    try:
        with connection.begin_nested():
            for each in those:
                text = f"ALTER TABLE {each.table} ALTER CONSTRAINT {quote(each.name)} DEFERRABLE INITIALLY DEFERRED"
                connection.exec_driver_sql(text)
    except DBAPIError as error:
        raise LoadError(
            f"rows refer to each other in a circle, and the database checks each at once: make {names} DEFERRABLE, or "
            f"load as the owner of the tables, who may do so for the load ({' '.join(str(error.orig).split())})"
        ) from error


def make_as_before(connection: Connection, those: Iterable[Foreign]) -> None:
    """Have them checked with each statement again; what they hold was checked."""
    quote = connection.dialect.identifier_preparer.quote
    for each in those:
        connection.exec_driver_sql(f"ALTER TABLE {each.table} ALTER CONSTRAINT {quote(each.name)} NOT DEFERRABLE")


def check_now(connection: Connection) -> None:
    """Check what waited for the end. Raises IntegrityError."""
    deferred = [name for (name,) in connection.exec_driver_sql(_DEFERRED.strip())]
    connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
    if deferred:
        connection.exec_driver_sql(f"SET CONSTRAINTS {', '.join(deferred)} DEFERRED")


__all__ = ["Foreign", "check_now", "make_as_before", "make_deferrable", "not_deferrable"]
