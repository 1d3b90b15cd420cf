"""How the values of a column stand in a dump, and how they go back, on each database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Column
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from eventbus.dumps.facts import ColumnFacts
from eventbus.dumps.forms import mysql, postgresql, sqlite
from eventbus.dumps.forms.base import AsIs, Form, Read, Write, as_is, generic
from eventbus.records import columns

__all__ = ["AsIs", "Form", "Read", "Write", "as_is", "form_of"]

_MAKERS: Final[Mapping[str, Callable[[TypeEngine[Any], Dialect, ColumnFacts], Form | None]]] = {
    "sqlite": sqlite.form,
    "postgresql": postgresql.form,
    "mysql": mysql.form,
    "mariadb": mysql.form,
}


def form_of(column: Column[Any], dialect: Dialect, facts: ColumnFacts) -> Form | None:
    """The form of a column, or None where its values have none that could be trusted.

    Pickles have none on purpose: an application that reads them back runs what they hold.
    """
    type_ = columns.undecorated(column.type, dialect)
    if isinstance(type_, sa.PickleType):
        return None
    make = _MAKERS.get(dialect.name)
    made = None if make is None else make(type_, dialect, facts)
    found = generic(type_, dialect) if made is None else made
    return found.required() if found is not None and found.json and not column.nullable else found
