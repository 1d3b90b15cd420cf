"""What a database itself says of a table: models may say something else, and leave much unsaid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Table

from eventbus.dumps.inheritance import alone

MYSQL: Final = frozenset({"mysql", "mariadb"})


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """One column: the database's name for its type, digits of a second's fraction, and what it does by itself.

    `digits` is None where nothing is known; `touched` columns get a new value with every UPDATE that names them not.
    """

    type: str
    digits: int | None = None
    touched: bool = False
    identity: bool = False
    computed: bool = False


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One table: its columns by name, none where it is not there; whether it is a view, and its engine (MariaDB)."""

    columns: Mapping[str, ColumnFacts] = field(default_factory=dict)
    view: bool = False
    engine: str = ""
    transactional: bool = True

    def column(self, name: str) -> ColumnFacts:
        """What is known of a column."""
        return self.columns.get(name, ColumnFacts(""))


def name_as_value(connection: Connection, table: Table) -> str:
    """The quoted name of a table for a parameter, where no mark of the driver's stands for a per cent sign."""
    name = connection.dialect.identifier_preparer.format_table(table)
    return name.replace("%%", "%") if connection.dialect.paramstyle in ("format", "pyformat") else name


class Facts:
    """Asks once for each table, when it is first needed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[Table, TableFacts] = {}
        self._ask: Callable[[Connection, Table], TableFacts] = _READERS.get(connection.dialect.name, _unknown)

    def of(self, table: Table) -> TableFacts:
        """The facts of one table."""
        found = self._found.get(table)
        if found is None:
            found = self._found[table] = self._ask(self._connection, table)
        return found

    def count(self, table: Table) -> int:
        """How many rows the table has now."""
        counted: int = self._connection.execute(
            alone(sa.select(sa.func.count()).select_from(table), table)
        ).scalar_one()
        return counted

    def is_empty(self, table: Table) -> bool:
        """Whether there is no row in the table."""
        some = alone(sa.select(sa.literal(1)).select_from(table).limit(1), table)
        return self._connection.execute(some).first() is None


def _unknown(_connection: Connection, table: Table) -> TableFacts:
    return TableFacts()


def _postgresql(connection: Connection, table: Table) -> TableFacts:
    rows = _rows(connection, _POSTGRESQL, name=name_as_value(connection, table))
    columns = {
        row.name: ColumnFacts(row.type, identity=row.identity == "a", computed=row.computed != "") for row in rows
    }
    return TableFacts(columns, view=any(row.kind in "vm" for row in rows))


_POSTGRESQL: Final = """
    SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attidentity::text AS identity,
      a.attgenerated::text AS computed, c.relkind::text AS kind
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.oid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped
""".replace("::text", "\\:\\:text")


def _mysql(connection: Connection, table: Table) -> TableFacts:
    where = {"schema": table.schema, "name": table.name}
    rows = _rows(connection, _MYSQL_COLUMNS, **where)
    kinds = _rows(connection, _MYSQL_TABLE, **where)
    columns = {
        row.name: ColumnFacts(
            row.type.lower(), row.digits, "on update" in row.extra.lower(), computed="generated" in row.extra.lower()
        )
        for row in rows
    }
    engine = kinds[0].engine or "" if kinds else ""
    transactional = not engine or any(row.transactional == "YES" for row in kinds)
    return TableFacts(
        columns, view=any(row.kind == "VIEW" for row in kinds), engine=engine, transactional=transactional
    )


_MYSQL_COLUMNS: Final = """
    SELECT column_name AS name, data_type AS type, datetime_precision AS digits, extra AS extra
    FROM information_schema.columns WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :name
"""
_MYSQL_TABLE: Final = """
    SELECT t.table_type AS kind, t.engine AS engine, e.transactions AS transactional
    FROM information_schema.tables t LEFT JOIN information_schema.engines e ON e.engine = t.engine
    WHERE t.table_schema = COALESCE(:schema, DATABASE()) AND t.table_name = :name
"""


def _sqlite(connection: Connection, table: Table) -> TableFacts:
    schema, name = table.schema or "main", table.name
    rows = _rows(
        connection, "SELECT name, type, hidden FROM pragma_table_xinfo(:name, :schema)", name=name, schema=schema
    )
    # A row of sqlite_master may be of a temporary table's namesake: the first answer is the one that is used.
    kind = _rows(
        connection, "SELECT type FROM pragma_table_list(:name) WHERE schema = :schema", name=name, schema=schema
    )
    columns = {row.name: ColumnFacts(row.type.lower(), computed=row.hidden in (2, 3)) for row in rows}
    return TableFacts(columns, view=any(row.type == "view" for row in kind))


_READERS: Final[Mapping[str, Callable[[Connection, Table], TableFacts]]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
    "sqlite": _sqlite,
}


def _rows(connection: Connection, statement: str, **values: Any) -> Sequence[Any]:
    return connection.execute(sa.text(statement), values).all()
