"""The writer's side on SQLite."""

from __future__ import annotations

import logging

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from eventbus.outbox import versions
from eventbus.outbox.creation import create_tables, demand, is_missing_table
from eventbus.outbox.owner import Owner
from eventbus.outbox.tables import lease, outbox
from eventbus.outbox.writing.table_writer import TableWriter

logger = logging.getLogger("eventbus.outbox")


class SqliteWriter(TableWriter):
    """Only one transaction writes at a time, so each row names its id: above the clock, all rows, and all deleted ones.

    AUTOINCREMENT would promise the same for one more page in every commit. Here who deletes rows notes the highest, in
    the same transaction (`Store.delete`), many at a time.
    """

    def __init__(self, engine: Engine, owner: Owner, *, create: bool) -> None:
        super().__init__(engine, owner, create=create)
        self._insert = (
            f"INSERT INTO {outbox.name} (id, owner, created_at, payload) VALUES (max(?, "  # noqa: S608
            f"coalesce((SELECT max(id) FROM {outbox.name}), 0) + 1, "
            f"coalesce((SELECT beat FROM {lease.name} WHERE name = 'floor'), 0) + 1), ?, ?, ?)"
        )

    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        now, seen = versions.now(), self._seen
        parameters = (now if now > seen else seen + 1, self.owner.name, now, payload)
        try:
            cursor = self._execute(connection, self._insert, parameters)
        except DBAPIError as error:
            if not is_missing_table(error):
                raise
            demand(self.create, error)
            # In the writer's own transaction, which holds the file's lock; rolled back, it is made the next time.
            create_tables(connection)
            cursor = self._execute(connection, self._insert, parameters)
        row_id: int = cursor.lastrowid
        cursor.close()
        self._note(row_id)
        if riders := self.store.riders.take():
            self._delete(connection, row_id, riders)
        return row_id

    def _delete(self, connection: Connection, row_id: int, riders: tuple[int, ...]) -> None:
        """Delivered rows, on the way; this row's id is above theirs, so no new one will get any of them."""
        among = ",".join("?" * len(riders))
        try:
            self._execute(connection, f"DELETE FROM {outbox.name} WHERE id IN ({among})", riders).close()  # noqa: S608
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            logger.debug("delivered rows could not be deleted on the way", exc_info=True)
        else:
            self.store.riders.ride(row_id, riders)


def is_in_memory(connection: Connection) -> bool:
    """Whether the database dies with its connection."""
    rows = connection.exec_driver_sql("PRAGMA database_list").all()
    return not any(row[1] == "main" and row[2] for row in rows)
