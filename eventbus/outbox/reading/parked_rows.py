"""Rows that the broker did not take: out of the writers' way, tried again seldom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, final

from sqlalchemy import Connection, bindparam, case, func, insert, or_, select, update

from eventbus.outbox.access import Access
from eventbus.outbox.queries import (
    PAGE_BYTES,
    PAGE_ROWS,
    delete_rows,
    do_not_wait_for_disk,
    fitting,
    raise_floor,
    slices,
)
from eventbus.outbox.side import begin_immediate
from eventbus.outbox.tables import outbox, parked

_CHANGING: Final = ("retry_at", "attempts", "reason", "payload")
"""What a try changes in a parked row."""
NEVER: Final = 1 << 60
"""`retry_at` of a row that only a person can do something about, in microseconds."""
IN_ORDER: Final = NEVER - 1
"""`retry_at` of a row that the relay has parked and tries again itself, so that its records' events stay in order."""
_YEAR: Final = 365 * 86_400 * 1_000_000
_REASON: Final = 200
"""Characters of a reason that are kept."""


class ParkedRow(NamedTuple):
    """Events that were not taken by the broker. Times in microseconds since 1970."""

    id: int
    created_at: int
    parked_at: int
    retry_at: int
    attempts: int
    reason: str
    payload: bytes


@final
class ParkedRows:
    """The parked rows of one database. Each call is a transaction of its own."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def add(self, rows: Sequence[ParkedRow]) -> None:
        """Move rows of the outbox out of the way."""

        def work(connection: Connection) -> None:
            begin_immediate(connection)
            do_not_wait_for_disk(connection)
            ids = [row.id for row in rows]
            for some in slices(ids):
                # In this order a crash between two autocommitted statements loses nothing.
                delete_rows(connection, parked, some)
            connection.execute(insert(parked), [row._asdict() | {"reason": _clean(row.reason)} for row in rows])
            if connection.dialect.name == "sqlite":
                raise_floor(connection, max(ids))
            for some in slices(ids):
                delete_rows(connection, outbox, some)

        if rows:
            self._access.change(work)

    def note(self, rows: Sequence[ParkedRow]) -> None:
        """Note what became of parked rows; not of those that a person purged meanwhile."""
        again = (
            update(parked)
            .where(parked.c.id == bindparam("row"))
            .values({name: bindparam(f"new_{name}") for name in _CHANGING})
            .execution_options(synchronize_session=False)
        )

        def work(connection: Connection) -> None:
            begin_immediate(connection)
            do_not_wait_for_disk(connection)
            clean = [row._replace(reason=_clean(row.reason)) for row in rows]
            values = [{"row": row.id} | {f"new_{name}": getattr(row, name) for name in _CHANGING} for row in clean]
            connection.execute(again, values)

        if rows:
            self._access.change(work)

    def claim(self, now: int, until: int, *, rows: int = 100, size: int = PAGE_BYTES) -> list[ParkedRow]:
        """Parked rows that are due, by id, none of which another process gets before `until`.

        A row that is due later than any could be was put off before the clock was put back: it is due too.
        """

        def work(connection: Connection) -> list[ParkedRow]:
            begin_immediate(connection)
            query = (
                select(parked.c.id, func.length(parked.c.payload))
                .where(or_(parked.c.retry_at <= now, parked.c.retry_at.between(now + 2 * (until - now), now + _YEAR)))
                .order_by(parked.c.retry_at, parked.c.id)
                .limit(rows)
                .with_for_update(skip_locked=True)
            )
            ids = fitting(connection.execute(query).all(), size)
            if not ids:
                return []
            found = connection.execute(select(parked).where(parked.c.id.in_(ids)).order_by(parked.c.id)).all()
            connection.execute(
                update(parked)
                .where(parked.c.id.in_(ids))
                .values(retry_at=until, attempts=parked.c.attempts + 1)
                .execution_options(synchronize_session=False)
            )
            return [ParkedRow(*row) for row in found]

        return self._access.change(work)

    def page(self, *, after: int = 0, in_order: bool = False, rows: int = PAGE_ROWS) -> list[ParkedRow]:
        """Parked rows by id; all, or those that are to be tried `in_order`."""
        query = select(parked).where(parked.c.id > after).order_by(parked.c.id).limit(rows)
        if in_order:
            query = query.where(parked.c.retry_at == IN_ORDER)
        return [ParkedRow(*row) for row in self._access.run(lambda connection: connection.execute(query).all())]

    def among(self, ids: Sequence[int]) -> list[int]:
        """Which of these rows are parked."""

        def work(connection: Connection) -> list[int]:
            queries = (select(parked.c.id).where(parked.c.id.in_(some)) for some in slices(ids))
            return [row_id for query in queries for row_id in connection.scalars(query)]

        return self._access.run(work) if ids else []

    def count(self, *, in_order: bool = False) -> int:
        """How many rows are parked; all, or those that are to be tried `in_order`."""
        query = select(func.count()).select_from(parked)
        if in_order:
            query = query.where(parked.c.retry_at == IN_ORDER)
        return self._access.run(lambda connection: connection.scalar(query)) or 0

    def delete(self, ids: Sequence[int]) -> int:
        """Remove parked rows: delivered, or given up by a person. Returns how many there were."""

        def work(connection: Connection) -> int:
            do_not_wait_for_disk(connection)
            return sum(delete_rows(connection, parked, some) for some in slices(ids))

        return self._access.change(work) if ids else 0

    def wake(self, ids: Sequence[int] | None = None) -> int:
        """Make parked rows due now, all or these; returns how many. What the relay tries in order it tries anyway."""

        def work(connection: Connection) -> int:
            due = case((parked.c.retry_at == IN_ORDER, IN_ORDER), else_=0)
            statement = update(parked).values(retry_at=due).where(parked.c.retry_at > 0)
            if ids is None:
                return connection.execute(statement).rowcount
            return sum(connection.execute(statement.where(parked.c.id.in_(some))).rowcount for some in slices(ids))

        return self._access.change(work)


def _clean(reason: str) -> str:
    """As every database takes it, whatever its character set: what a broker or an event says may hold anything."""
    text = reason.encode("ascii", "backslashreplace").decode()
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)[:_REASON]
