"""The writer's side on MariaDB and MySQL."""

from __future__ import annotations

import time
from typing import Any, Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from eventbus.outbox import versions
from eventbus.outbox.creation import code_of, create_tables, demand, is_missing_table
from eventbus.outbox.owner import Owner
from eventbus.outbox.side import side_connection
from eventbus.outbox.tables import outbox
from eventbus.outbox.writing.table_writer import MAX_LAG, TableWriter

_DUPLICATE_KEY: Final = 1062
_TABLE_CHANGED: Final = 1412


class MariaWriter(TableWriter):
    """Ids come from AUTO_INCREMENT, which an explicit id lifts for all who come after."""

    def __init__(self, engine: Engine, owner: Owner, *, create: bool) -> None:
        super().__init__(engine, owner, create=create)
        table, marks = outbox.name, self._marks
        self._insert = f"INSERT INTO {table} (owner, created_at, payload) VALUES ({', '.join(marks[:3])})"  # noqa: S608
        self._delete = f"DELETE FROM {table} WHERE id = {marks[0]}"  # noqa: S608
        self._explicit = f"INSERT INTO {table} (id, owner, created_at, payload) VALUES ({', '.join(marks)})"  # noqa: S608

    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int:
        seen = self._seen
        cursor = self._insert_row(connection, payload)
        row_id = int(cursor.lastrowid)
        cursor.close()
        if self._lags(row_id, seen, fresh=fresh):
            row_id = self._lift(connection, row_id, seen, payload)
        self._note(row_id)
        return row_id

    def _insert_row(self, connection: Connection, payload: bytes) -> Any:
        parameters = (self.owner.name, versions.now(), payload)
        try:
            return self._execute(connection, self._insert, parameters)
        except DBAPIError as error:
            if not is_missing_table(error):
                raise
            demand(self.create, error)
            # DDL would commit the writer's transaction. Who finds a table missing that another is about to make waits.
            with side_connection(self.engine) as side:
                side.execute(text("SELECT GET_LOCK(:table, 60)"), {"table": outbox.name})
                create_tables(side)
            return self._execute(connection, self._insert, parameters)

    def _lift(self, connection: Connection, row_id: int, seen: int, payload: bytes) -> int:
        try:
            self._execute(connection, self._delete, (row_id,)).close()
        except DBAPIError as error:
            # "Table definition has changed": the table is younger than this transaction's view, so its ids began at
            # the clock, after this transaction did.
            if code_of(error) == _TABLE_CHANGED and row_id > seen and versions.now() - row_id < MAX_LAG:
                return row_id
            raise
        lifted = max(row_id, seen, versions.now())
        while True:
            lifted += 1
            try:
                self._execute(connection, self._explicit, (lifted, self.owner.name, versions.now(), payload)).close()
            except DBAPIError as error:
                if error.connection_invalidated or code_of(error) != _DUPLICATE_KEY:
                    raise
            else:
                self._checked = time.monotonic()
                return lifted
