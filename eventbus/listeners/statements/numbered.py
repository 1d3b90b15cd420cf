"""Rows that SQLite numbers: one that is given no number gets a higher one than all others have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Integer

from eventbus.errors import CaptureError
from eventbus.listeners.statements.rows import Hit, Row, quoted_name
from eventbus.listeners.statements.sent import Sent

_LAST: Final = 2**63 - 1


def counts_up(connection: Connection, hit: Hit) -> bool:
    """Whether the keys of this table are such numbers."""
    own = hit.table.autoincrement_column
    is_plain = own is not None and len(hit.key) == 1 and hit.key[0] is own and isinstance(own.type, Integer)
    return is_plain and connection.dialect.name == "sqlite"


def highest_number(connection: Connection, sent: Sent, hit: Hit) -> int:
    """The number that no row exceeds; 0 of an empty table. Raises CaptureError where the next is not a higher one."""
    name = quoted_name(connection, hit.table, sent.schemas)
    key = connection.dialect.identifier_preparer.quote(hit.key[0].name)
    query = f"SELECT coalesce(max({key}), 0) FROM {name}"  # noqa: S608 - quoted names
    highest: int = connection.exec_driver_sql(query).scalar_one()
    if highest == _LAST:
        raise CaptureError(f"INSERT into {hit.name}: its numbers have run out, so the next are chosen at random")
    return highest


def given_up_to(highest: int, hit: Hit, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Of rows to insert those whose number was given, and is no new highest one."""
    (own,), (key,) = hit.key, hit.pk_keys
    numbers = (row.get(own.key) for row in rows)
    return [{key: number} for number in numbers if number is not None and int(number) <= highest]
