"""What a database knows of a table, and a model does not say: rules and triggers, views, unique keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Table

from eventbus.listeners.flushing.asking import Asked, Unanswered, ask
from eventbus.listeners.statements.rows import quoted_name

_VERBS: Final = {"2": "update", "3": "insert", "4": "delete"}
"""How PostgreSQL writes down what a rule stands for."""


class Nature(NamedTuple):
    """What matters of a table to those who write to it.

    `replaced`: the verbs in whose place the database does something else, so that RETURNING is refused or tells of rows
    that never were: rules, views, virtual tables.
    `settled`: what RETURNING tells is what the row holds. A trigger that comes after may change it once more.
    `tells_new`: RETURNING can tell which of an upsert's rows are new.
    `unique`: the columns of each unique key, as far as it is made of whole columns.
    """

    replaced: frozenset[str] = frozenset()
    settled: bool = True
    tells_new: bool = False
    unique: tuple[tuple[Any, ...], ...] = ()


class Natures(Asked[Nature]):
    """Tells the nature of a table."""

    def __init__(self) -> None:
        super().__init__(_nature, Nature())


def _nature(connection: Connection, table: Table, schema: str | None) -> Nature:
    find = _FINDERS.get(connection.dialect.name)
    return Nature() if find is None else find(connection, table, schema)


def _of_postgresql(connection: Connection, table: Table, schema: str | None) -> Nature:
    name = quoted_name(connection, table, {table.schema: schema}).replace("'", "''")
    rules = "ev_class = c.oid AND is_instead AND ev_type <> '1'"  # that one makes it a view
    triggers = "tgrelid = c.oid AND NOT tgisinternal AND tgtype & 66 = 0"  # neither BEFORE nor INSTEAD OF
    found = ask(
        connection,
        f"SELECT c.relkind::text, "  # noqa: S608 - quoted names
        f"(SELECT string_agg(ev_type::text, '') FROM pg_catalog.pg_rewrite WHERE {rules}), "
        f"EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE {triggers}) "
        f"FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass('{name}')",
    )
    if not found:
        raise Unanswered
    kind, ruled, triggered = found[0]
    return Nature(
        replaced=frozenset(verb for digit, verb in _VERBS.items() if digit in (ruled or "")),
        settled=not triggered,
        tells_new=kind == "r",  # a partitioned table has no xmax
    )


def _of_sqlite(connection: Connection, table: Table, schema: str | None) -> Nature:
    name = table.name.replace("'", "''")
    place = "" if schema is None else f"{connection.dialect.identifier_preparer.quote(schema)}."
    inside = "" if schema is None else ", '{}'".format(schema.replace("'", "''"))
    parts = ask(
        connection,
        f"SELECT type, sql FROM {place}sqlite_master WHERE lower(tbl_name) = lower('{name}') "  # noqa: S608
        f"UNION ALL SELECT type, sql FROM sqlite_temp_master WHERE lower(tbl_name) = lower('{name}')",
    )
    unique = ask(
        connection,
        f"SELECT i.name, c.name FROM pragma_index_list('{name}'{inside}) i, "  # noqa: S608
        f'pragma_index_info(i.name{inside}) c WHERE i."unique" ORDER BY i.seq, c.seqno',
    )
    kinds = {kind for kind, _ in parts}
    is_virtual = any(str(sql).upper().startswith("CREATE VIRTUAL") for _, sql in parts)
    return Nature(
        replaced=frozenset(_VERBS.values()) if is_virtual or "view" in kinds else frozenset(),
        settled="trigger" not in kinds,
        unique=_columns(table, unique),
    )


def _of_mysql(connection: Connection, table: Table, schema: str | None) -> Nature:
    name = quoted_name(connection, table, {table.schema: schema})
    keys = ask(connection, f"SHOW INDEX FROM {name} WHERE Non_unique = 0")
    return Nature(unique=_columns(table, [(key[2], None if key[7] is not None else key[4]) for key in keys]))


def _columns(table: Table, parts: list[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    """The columns of each index whose parts these are, without those that have a part which the model does not name."""
    by_name = {column.name.lower(): column for column in table.columns}
    indexes: dict[str, list[str]] = {}
    for index, name in parts:
        indexes.setdefault(index, []).append(str(name).lower())
    whole = (names for names in indexes.values() if by_name.keys() >= set(names))
    return tuple(tuple(by_name[name] for name in names) for names in whole)


_FINDERS: Final[dict[str, Callable[[Connection, Table, str | None], Nature]]] = {
    "postgresql": _of_postgresql, "mysql": _of_mysql, "mariadb": _of_mysql, "sqlite": _of_sqlite,
}  # fmt: skip
