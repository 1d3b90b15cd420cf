"""References between rows after a load: each leads to a row, whatever the connection checks by itself.

What the models say of references counts, and what the database says of those its tables have. Each that leads nowhere
is told with its row, its field and its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, ForeignKeyConstraint, Table
from sqlalchemy.sql.expression import TableClause

from eventbus.dumps.facts import MYSQL
from eventbus.dumps.inheritance import alone
from eventbus.dumps.order import referred
from eventbus.dumps.targets import Target, Targets


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Columns of one table that lead to columns of another."""

    child: TableClause
    columns: tuple[sa.ColumnClause[Any], ...]
    parent: TableClause
    referred: tuple[sa.ColumnClause[Any], ...]

    @property
    def name(self) -> tuple[Any, ...]:
        """What two of one meaning share."""
        pairs = sorted((here.name, there.name) for here, there in zip(self.columns, self.referred, strict=True))
        return _name(self.child), _name(self.parent), tuple(pairs)

    def keeps_its_rows(self) -> bool:
        """Whether it leads to a primary key, which a load does not change."""
        return isinstance(self.parent, Table) and set(self.referred) == set(self.parent.primary_key)


@dataclass(frozen=True, slots=True)
class Dangling:
    """A row that refers to none: its table, primary key, and the values that lead nowhere by column."""

    reference: Reference
    key: tuple[Any, ...]
    values: tuple[Any, ...]

    def __str__(self) -> str:
        names = ", ".join(str(getattr(column, "key", column.name)) for column in self.reference.columns)
        values = ", ".join(map(repr, self.values))
        return f"{names} refers to no {self.reference.parent.name}: there is none with {values}"


def of_models(constraint: ForeignKeyConstraint) -> Reference | None:
    """What a constraint of the models says; None where it leads out of them."""
    parent = referred(constraint)
    if parent is None:
        return None
    elements = constraint.elements
    return Reference(
        constraint.table, tuple(each.parent for each in elements), parent, tuple(each.column for each in elements)
    )


def to_check(
    connection: Connection, targets: Targets, used: Sequence[Target], *, all_incoming: bool, every: bool = False
) -> list[Reference]:
    """The references from and to the tables that were loaded, without those that the database checks (but for `every`).

    References to a table by its primary key cannot be broken by a load that only adds: those count with `all_incoming`.
    """
    tables = dict.fromkeys(part.table for target in used for part in target.parts)
    metadata = dict.fromkeys(table.metadata for table in tables)
    known = {table for each in metadata for table in each.tables.values()}
    said = [
        of_models(each) for table in sorted(known, key=str) for each in sorted(table.foreign_key_constraints, key=str)
    ]
    found: dict[Any, Reference] = {}
    for reference in [*said, *_of_database(connection, list(tables))]:
        if reference is None:
            continue
        outgoing = reference.child in tables or any(_name(reference.child) == _name(table) for table in tables)
        incoming = reference.parent in tables or any(_name(reference.parent) == _name(table) for table in tables)
        if outgoing or (incoming and (all_incoming or not reference.keeps_its_rows())):
            found.setdefault(reference.name, reference)
    checked = set() if every else _checked_by_database(connection)
    return [each for name, each in found.items() if name not in checked and _is_there(connection, each)]


def _is_there(connection: Connection, reference: Reference) -> bool:
    """Whether the tables exist: models may have more than the database."""
    inspector = sa.inspect(connection)
    return all(inspector.has_table(each.name, schema=each.schema) for each in (reference.child, reference.parent))


def dangling(connection: Connection, reference: Reference, most: int) -> Iterator[Dangling]:
    """Rows that refer to none, so many at most."""
    child, parent = reference.child, reference.parent.alias("eventbus_referred")
    pairs = [(here, parent.c[there.key]) for here, there in zip(reference.columns, reference.referred, strict=True)]
    there_is = sa.exists().select_from(parent).where(*(there == here for here, there in pairs)).correlate(child)
    key = list(child.primary_key) if isinstance(child, Table) else []
    statement = sa.select(*(key + list(reference.columns))).select_from(child)
    statement = statement.where(*(here.is_not(None) for here, _ in pairs), ~there_is).order_by(*key).limit(most)
    for row in connection.execute(alone(statement, child)):
        yield Dangling(reference, tuple(row[: len(key)]), tuple(row[len(key) :]))


def _name(table: TableClause) -> tuple[str | None, str]:
    schema = table.schema
    return (None if schema in ("public", "main") else schema), str(table.name)


def _of_database(connection: Connection, tables: Iterable[Table]) -> Iterator[Reference]:
    statement = _STATEMENTS.get(connection.dialect.name)
    if statement is None:
        return
    by_constraint: dict[Any, list[Any]] = {}
    for row in connection.execute(sa.text(statement)):
        by_constraint.setdefault((row.child, row.number), []).append(row)
    known = {_name(table): table for table in tables}
    for rows in by_constraint.values():
        ends = known.get((None, rows[0].child)), known.get((None, rows[0].parent))
        if any(end is not None for end in ends) and all(row.there is not None for row in rows):
            yield _named(rows, *ends)


def _named(rows: Sequence[Any], child: Table | None, parent: Table | None) -> Reference:
    here, columns = _end(child, rows[0].child, [row.here for row in rows])
    there, referred_columns = _end(parent, rows[0].parent, [row.there for row in rows])
    return Reference(here, columns, there, referred_columns)


def _end(table: Table | None, name: str, columns: Sequence[str]) -> tuple[TableClause, tuple[Any, ...]]:
    """A table with these columns: the models' one, or what there is in the database beside it."""
    by_name = {} if table is None else {column.name: column for column in table.columns}
    if table is not None and by_name.keys() >= set(columns):
        return table, tuple(by_name[each] for each in columns)
    plain = sa.table(name, *(sa.column(each) for each in columns))
    return plain, tuple(plain.c[each] for each in columns)


_STATEMENTS: Final = {
    "sqlite": """
        SELECT m.name AS child, f.id AS number, f."from" AS "here", f."table" AS parent, f."to" AS "there"
        FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table' ORDER BY m.name, f.id, f.seq
    """,
    **dict.fromkeys(
        MYSQL,
        """
        SELECT table_name AS child, constraint_name AS number, column_name AS here,
          referenced_table_name AS parent, referenced_column_name AS there
        FROM information_schema.key_column_usage
        WHERE table_schema = DATABASE() AND referenced_table_schema = DATABASE() ORDER BY 1, 2, ordinal_position
        """,
    ),
}


def _checked_by_database(connection: Connection) -> set[Any]:
    """The references that PostgreSQL checks by itself in this session: those it has constraints for."""
    if connection.dialect.name != "postgresql":
        return set()
    if connection.exec_driver_sql("SHOW session_replication_role").scalar() == "replica":
        return set()
    found: dict[Any, list[Any]] = {}
    for row in connection.execute(sa.text(_CONSTRAINTS)):
        found.setdefault(row.number, []).append(row)
    return {
        (
            (_schema(rows[0].child_schema), rows[0].child),
            (_schema(rows[0].parent_schema), rows[0].parent),
            tuple(sorted((row.here, row.there) for row in rows)),
        )
        for rows in found.values()
    }


def _schema(name: str) -> str | None:
    return None if name == "public" else name


_CONSTRAINTS: Final = """
    SELECT k.oid AS number, cn.nspname AS child_schema, c.relname AS child, pn.nspname AS parent_schema,
      p.relname AS parent, ca.attname AS here, pa.attname AS there
    FROM pg_constraint k
      JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
      JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
      CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS pair (here, there)
      JOIN pg_attribute ca ON ca.attrelid = c.oid AND ca.attnum = pair.here
      JOIN pg_attribute pa ON pa.attrelid = p.oid AND pa.attnum = pair.there
    WHERE k.contype = 'f' AND k.convalidated
"""
