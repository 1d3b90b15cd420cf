"""What the outbox's tables have in common in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    Table,
    any_,
    bindparam,
    cast,
    delete,
    func,
)
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from eventbus.outbox.tables import lease
from eventbus.redaction import redact

PAGE_ROWS: Final = 1000
PAGE_BYTES: Final = 8 << 20
MOST: Final = 100_000
"""Rows are counted up to here: to count a backlog of millions would be work for the database."""
_DELETE_AT_ONCE: Final = 1000
_FLOOR: Final = "floor"


def do_not_wait_for_disk(connection: Connection) -> None:
    """In this transaction only: behind a pooler the next one on the server's end may be the application's."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")


def fitting(sizes: Sequence[Any], limit: int) -> list[int]:
    """Ids of the first rows that fit into so many bytes; always one."""
    ids: list[int] = []
    total = 0
    for row_id, size in sizes:
        total += size
        if ids and total > limit:
            break
        ids.append(row_id)
    return ids


def delete_rows(connection: Connection, table: Any, ids: Sequence[int]) -> int:
    """How many rows of these ids there were."""
    return connection.execute(delete(table).where(among(connection, table, ids))).rowcount


def among(connection: Connection, table: Any, ids: Sequence[int]) -> Any:
    """The condition that a row has one of these ids."""
    if connection.dialect.name == "postgresql":
        return table.c.id == any_(bindparam(None, list(ids), type_=ARRAY(BigInteger), unique=True))
    return table.c.id.in_(ids)


def payload_of(connection: Connection, table: Table) -> ColumnElement[bytes]:
    """The payload as bytes. In SQLite a column takes any kind of value, and what others wrote there may be a text."""
    column: ColumnElement[bytes] = table.c.payload
    return cast(column, LargeBinary).label("payload") if connection.dialect.name == "sqlite" else column


def raise_floor(connection: Connection, row_id: int) -> None:
    """Note the highest id ever deleted: on SQLite new ids stay above it, though the table be empty."""
    new = sqlite_insert(lease).values(name=_FLOOR, holder="", beat=row_id)
    connection.execute(
        new.on_conflict_do_update(
            index_elements=[lease.c.name],
            set_={"beat": func.max(lease.c.beat, new.excluded.beat)},
        )
    )


def slices(ids: Sequence[int]) -> Iterable[list[int]]:
    """As many as one statement takes."""
    iterator = iter(ids)
    while some := list(islice(iterator, _DELETE_AT_ONCE)):
        yield some


def brief(error: Exception) -> str:
    """The first line of what the driver says, fit for a log."""
    return redact(str(getattr(error, "orig", None) or error).partition("\n")[0])
