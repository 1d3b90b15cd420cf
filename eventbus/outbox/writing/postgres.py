"""The writer's side on PostgreSQL."""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from eventbus.errors import OutboxMissing
from eventbus.events.envelope import Batch
from eventbus.outbox import versions
from eventbus.outbox.creation import BOTH_WAYS, TABLES, create_tables, demand, is_missing_table, raising
from eventbus.outbox.owner import Owner
from eventbus.outbox.side import side_connection
from eventbus.outbox.tables import outbox
from eventbus.outbox.writing import pipelined
from eventbus.outbox.writing.table_writer import MAX_LAG, TableWriter

logger = logging.getLogger("eventbus.outbox")


class PostgresWriter(TableWriter):
    """Ids come from the identity's sequence; a lift is `setval` under an advisory lock.

    All on the writer's own connection, since it waits in a commit: a second one might not be to be had.
    """

    def __init__(self, engine: Engine, owner: Owner, *, create: bool) -> None:
        super().__init__(engine, owner, create=create)
        table, marks = outbox.name, self._marks
        self._insert = (
            f"INSERT INTO {table} (owner, created_at, payload) VALUES ({', '.join(marks[:3])}) "  # noqa: S608
            "RETURNING id, tableoid"
        )
        self._renumber = f"UPDATE {table} SET id = DEFAULT WHERE id = {marks[0]} RETURNING id"  # noqa: S608
        self._ready = False
        self._tables: set[int] = set()
        self._pipelined = pipelined.is_possible(engine)
        if self._pipelined:
            pipelined.install(engine.dialect)

    def write(self, connection: Connection, batch: Batch, *, fresh: bool, committing: bool) -> None:
        payload, seen, now = b"\n".join(batch.bodies), self._seen, versions.now()
        if self._pipelined:
            if committing and self._ready and not fresh:
                if now - seen > MAX_LAG:
                    self._raise_ids(connection, seen)
                values = (self.owner.name.encode(), payload, b"%d" % seen, b"%d" % now)
                if pipelined.defer(connection, self, batch, values):
                    return
            pipelined.settle(connection)
        batch.version = self.insert(connection, payload, fresh=fresh)

    def written(self, row_id: int) -> None:
        """A row that went with the commit got this id."""
        self._seen = max(self._seen, row_id)

    def failed(self) -> None:
        """A row that went with the commit was not taken; look at the table before the next one."""
        self._ready = False

    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        if not self._ready:
            self._prepare(connection)
        seen = self._seen
        try:
            cursor = self._execute(connection, self._insert, (self.owner.name, versions.now(), payload))
        except DBAPIError as error:
            # A failed statement fails the transaction here, so the table cannot be made on the way.
            self._ready = False
            if is_missing_table(error):
                raise OutboxMissing(
                    f"Table {outbox.name} is gone from the database, or not on this transaction's search_path. "
                    f"{BOTH_WAYS}"
                ) from error
            raise
        row_id, table = cursor.fetchone()
        cursor.close()
        if table not in self._tables:
            self._look_at(connection, table)
        if self._lags(row_id, seen, fresh=fresh):
            row_id = self._lift(connection, row_id, seen)
        self._note(row_id)
        return int(row_id)

    def _prepare(self, connection: Connection) -> None:
        there = " AND ".join(f"to_regclass('{table.name}') IS NOT NULL" for table in TABLES)
        if not self._fetch(connection, f"SELECT {there}"):
            demand(self.create)
            # Not in the writer's transaction, whose rollback would take the tables away from those who wrote meanwhile.
            with side_connection(self.engine) as side:
                create_tables(side)
        self._ready = True

    def _look_at(self, connection: Connection, table: int) -> None:
        """A table not seen before: made anew, or one more, where rows wait in vain for those who publish them."""
        others = ", ".join(map(str, self._tables))
        if others and self._fetch(connection, f"SELECT count(*) FROM pg_class WHERE oid IN ({others})"):  # noqa: S608
            logger.error(
                "transactions of one engine write to several outbox tables, and what ended processes leave is looked "
                "for in one of them (%s): schema-qualify search_path so that all find the same",
                ", ".join(map(str, sorted({*self._tables, table}))),
                extra={"engine": repr(connection.engine), "tables": sorted({*self._tables, table})},
            )
        self._tables.add(table)

    def _lift(self, connection: Connection, row_id: int, seen: int) -> int:
        self._raise_ids(connection, seen)
        self._checked = time.monotonic()
        return int(self._fetch(connection, self._renumber, row_id))

    def _raise_ids(self, connection: Connection, seen: int) -> None:
        """Lift the sequence to the clock and above all that was seen, unless it is there."""
        self._execute(connection, raising(seen), ()).close()

    def _fetch(self, connection: Connection, sql: str, *parameters: Any) -> Any:
        """The one value that a statement yields."""
        cursor = self._execute(connection, sql, parameters)
        (value,) = cursor.fetchone()
        cursor.close()
        return value
