"""The statement by which rows of a dump go into a table, in each database's words for keys that are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Column, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite

Existing = Literal["update", "keep", "fail"]
"""What becomes of a record whose key is in the database already."""


def insert_statement(dialect: str, table: Table, names: Sequence[str], existing: Existing) -> sa.Insert:
    """An insert of these columns that does what is wanted with keys that are there already."""
    primary = list(table.primary_key)
    values = {table.c[name]: _parameter(table.c[name]) for name in names}
    if existing == "fail" or not primary or not all(column.key in names for column in primary):
        return table.insert().values(values)
    others = [name for name in names if not table.c[name].primary_key] if existing == "update" else []
    if dialect in ("sqlite", "postgresql"):
        insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table).values(values)
        if not others:
            return insert.on_conflict_do_nothing(index_elements=primary)  # type: ignore[no-any-return]
        # Not `insert.excluded`, which makes a copy of every column of the table each time.
        excluded = sa.table("excluded", *(sa.column(table.c[name].name) for name in others))
        new = {table.c[name]: excluded.c[table.c[name].name] for name in others}
        return insert.on_conflict_do_update(index_elements=primary, set_=new)  # type: ignore[no-any-return]
    if dialect in ("mysql", "mariadb"):
        on_mysql = mysql.insert(table).values(values)
        unchanged = {primary[0].key: table.c[primary[0].key]}
        return on_mysql.on_duplicate_key_update({name: on_mysql.inserted[name] for name in others} or unchanged)
    return table.insert().values(values)


def _parameter(column: Column[Any]) -> Any:
    """None in a nullable JSON column is meant as SQL NULL, where SQLAlchemy would write JSON's null."""
    type_ = column.type
    if isinstance(type_, sa.JSON) and column.nullable:
        type_ = type_.copy()
        type_.none_as_null = True
    return sa.bindparam(column.key, type_=type_)
