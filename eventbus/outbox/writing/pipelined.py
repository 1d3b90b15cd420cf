"""PostgreSQL with psycopg: the outbox row travels with the COMMIT, so that it costs the writer no round trip.

A round trip is a third of what a commit of one row takes. So the row is only noted when it is written, and sent in
libpq's pipeline mode together with the COMMIT that follows, by the dialect's `do_commit`: SQLAlchemy's own place for
it, where whatever goes wrong becomes SQLAlchemy's error as ever. If the row cannot be inserted, the server does not
commit.

Where that is not certain to be right, the row is inserted at once, as on every other database: where the writer does
not say that COMMIT follows, within savepoints and two-phase transactions, in AUTOCOMMIT, and where the table might be
another one than before (`_PostgresWriter`).

Ids are versions, so rows of a transaction get theirs in the order in which they were written: what is noted goes first
if another row goes at once after all (`settle`). It goes before a savepoint begins, too, or the savepoint's rollback
would take it along.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol, final

from sqlalchemy import Connection, Engine, RootTransaction

from eventbus.errors import OutboxMissing
from eventbus.events.envelope import Batch
from eventbus.outbox.tables import outbox
from eventbus.outbox.writing import prepared

MAX_BYTES: Final = 64 << 10

_KEY: Final = "eventbus.pipelined"
# The last column guards against a table that was made anew while this connection lived: an id that is not above the
# limit ends the transaction with a division by zero.
_INSERT: Final = (
    f"INSERT INTO {outbox.name} (owner, created_at, payload) VALUES ($1, $4, $2) "  # noqa: S608
    "RETURNING id / (CASE WHEN id > $3::bigint THEN 1 ELSE 0 END)"
).encode()
_COMMIT: Final = b"COMMIT"
_INSERTING, _COMMITTING = b"eventbus_outbox", b"eventbus_commit"
_STATEMENTS: Final = {_INSERTING: _INSERT, _COMMITTING: _COMMIT}
_TEXT, _BINARY = 0, 1
_FORMATS: Final = (_TEXT, _BINARY, _TEXT, _TEXT)
_IDLE, _INTRANS, _INERROR = 0, 2, 3
_CONNECTED = 0
_DONE, _TUPLES, _SYNCED = 1, 2, 10
_FINE: Final = (_DONE, _TUPLES, _SYNCED)
_NO_SUCH_STATEMENT: Final = "26000"
_MEANINGS: Final = {
    "22012": "was made anew while this process ran. The transaction is rolled back; the next one works.",
    "42P01": "is gone from the database. The transaction is rolled back.",
}
"""By SQLSTATE; division by zero is the guard in the INSERT."""


class Writer(Protocol):
    """Is told what became of its row."""

    def written(self, row_id: int) -> None: ...

    def failed(self) -> None: ...

    def insert(self, connection: Connection, payload: bytes, *, fresh: bool) -> int: ...


Values = tuple[bytes, bytes, bytes, bytes]
"""Owner, payload, limit, time. With an id that is not above the limit the commit fails."""


class Row(NamedTuple):
    """A row to go with the commit: the parameters of its INSERT, and the batch that gets its id for a version."""

    values: Values
    batch: Batch
    writer: Writer


def is_possible(engine: Engine) -> bool:
    """Whether this engine's driver allows it at all."""
    dialect = engine.dialect
    return dialect.driver == "psycopg" and not dialect.is_async and hasattr(select, "poll")


def install(dialect: Any) -> None:
    """Let commits of this dialect carry what is pending for their connection; once."""
    if getattr(dialect.do_commit, "carries_outbox", False):
        return
    plain_commit, plain_rollback, plain_savepoint = dialect.do_commit, dialect.do_rollback, dialect.do_savepoint

    def do_commit(connection: Any) -> None:
        carrier = _carrier(connection)
        if carrier is None or not carrier.commit():
            plain_commit(connection)

    def do_savepoint(connection: Connection, name: str) -> None:
        settle(connection)
        plain_savepoint(connection, name)

    def do_rollback(connection: Any) -> None:
        carrier = _carrier(connection)
        if carrier is not None:
            carrier.forget()
        plain_rollback(connection)

    do_commit.carries_outbox = True  # type: ignore[attr-defined]
    dialect.do_commit, dialect.do_rollback, dialect.do_savepoint = do_commit, do_rollback, do_savepoint


def defer(connection: Connection, writer: Writer, batch: Batch, values: Values) -> bool:
    """Note a row for the COMMIT, which must follow at once. False: it must be inserted now."""
    transaction = connection._transaction
    if type(transaction) is not RootTransaction or connection._nested_transaction or len(values[1]) > MAX_BYTES:
        return False
    proxied: Any = connection.connection
    carrier: _Carrier | None = proxied.info.get(_KEY)
    if carrier is None:
        carrier = proxied.info[_KEY] = _Carrier(proxied.dbapi_connection, connection.engine)
    return carrier.take(transaction, Row(values, batch, writer))


def settle(connection: Connection) -> None:
    """Insert now what this transaction has noted: something comes that must not come before it."""
    carrier = _carrier(connection.connection)
    if carrier is not None:
        carrier.settle(connection)


def _carrier(connection: Any) -> _Carrier | None:
    info = connection.info
    return info.get(_KEY) if type(info) is dict else None


@final
class _Carrier:
    """Takes rows along with the next COMMIT of one DBAPI connection; lives as long as that."""

    __slots__ = ("_engine", "_poll", "_prepares", "_raw", "_statements", "_transaction", "rows")

    def __init__(self, raw: Any, engine: Engine) -> None:
        self.rows: list[Row] = []
        self._raw = raw
        self._engine = engine
        self._transaction: RootTransaction | None = None
        self._statements = prepared.known(raw)
        self._prepares = True
        self._poll = select.poll()
        self._poll.register(raw.pgconn.socket, select.POLLIN)

    def take(self, transaction: RootTransaction, row: Row) -> bool:
        """Note a row of this transaction. False: there is no COMMIT to go with."""
        if self._raw.autocommit:
            return False
        if self._transaction is not transaction:
            self._transaction = transaction
            self.rows = []  # of a transaction that ended without a word
        self.rows.append(row)
        return True

    def forget(self) -> None:
        """Their transaction is rolled back."""
        self.rows, self._transaction = [], None

    def settle(self, connection: Connection) -> None:
        """Insert the rows of the connection's transaction now."""
        rows, transaction = self.rows, self._transaction
        self.forget()
        if transaction is connection._transaction:
            for values, batch, writer in rows:
                batch.version = writer.insert(connection, values[1], fresh=False)

    def commit(self) -> bool:
        """Send the rows and the COMMIT. False: nothing goes with this one, it is to be sent as ever.

        Raises psycopg's error, or OutboxMissing, if the server did not commit.
        """
        rows, transaction, raw = self.rows, self._transaction, self._raw
        if transaction is None:
            return False
        self.rows, self._transaction = [], None
        # Idle: nothing was sent yet in this transaction, or it was ended by a COMMIT of the application's own; the row
        # is committed all the same. A failed transaction is rolled back by COMMIT, which tells nobody.
        if not transaction.is_active or raw.pgconn.transaction_status not in (_IDLE, _INTRANS):
            return False
        try:
            results = self._exchange(rows)
        except BaseException:
            # Interrupted in the middle of the exchange: the connection is of no more use.
            raw.close()
            raise
        ids: list[int] = []
        for result in results:
            status = result.status
            if status == _TUPLES:
                ids.append(int(result.get_value(0, 0)))
            elif status not in _FINE:
                # Once all rows are in, it is the COMMIT that failed, which is the application's matter.
                raise self._error(result, () if len(ids) == len(rows) else rows)
        for row, row_id in zip(rows, ids, strict=True):
            row.batch.version = row_id
            row.writer.written(row_id)
        return True

    def _error(self, result: Any, refused: Sequence[Row]) -> Exception:
        """Of a commit that failed; `refused`: because of these rows."""
        raw = self._raw
        error = _error_from(result, raw.info.encoding)
        for row in refused:
            row.writer.failed()
        if getattr(error, "sqlstate", None) == _NO_SUCH_STATEMENT:
            # Somebody deallocates statements on this connection behind psycopg's back.
            prepared.forget(self._statements)
            self._prepares = False
        if raw.pgconn.transaction_status == _INERROR:
            raw.rollback()  # SQLAlchemy takes a transaction whose COMMIT failed for ended
        return _translated(error) if refused else error

    def _exchange(self, rows: list[Row]) -> list[Any]:
        """Send all and read all results."""
        raw = self._raw
        pgconn = raw.pgconn
        pgconn.enter_pipeline_mode()
        preparing: int | None = 0
        if prepared.MARK in self._statements:
            self._statements.move_to_end(prepared.MARK)  # psycopg deallocates what is used least
        else:
            preparing = prepared.prepare(raw, self._engine, _STATEMENTS) if self._prepares else None
        for row in rows:
            if preparing is None:
                pgconn.send_query_params(_INSERT, row.values, param_formats=_FORMATS)
            else:
                pgconn.send_query_prepared(_INSERTING, row.values, _FORMATS)
        if preparing is None:
            pgconn.send_query_params(_COMMIT, None)
        else:
            pgconn.send_query_prepared(_COMMITTING, None)
        pgconn.pipeline_sync()
        # Two more: of the COMMIT and of the sync.
        results = self._receive(pgconn, (preparing or 0) + len(rows) + 2)
        pgconn.exit_pipeline_mode()
        if preparing and all(result.status in _FINE for result in results):
            prepared.prepared(raw, _INSERTING)
        return results

    def _receive(self, pgconn: Any, expected: int) -> list[Any]:
        poll = self._poll
        while pgconn.flush():
            # Too much for the socket at once; the server may have to be listened to before it takes the rest.
            poll.modify(pgconn.socket, select.POLLIN | select.POLLOUT)
            poll.poll()
            pgconn.consume_input()
            poll.modify(pgconn.socket, select.POLLIN)
        results: list[Any] = []
        while expected:
            if pgconn.is_busy():
                poll.poll()
                pgconn.consume_input()
            elif (result := pgconn.get_result()) is not None:  # None stands between two commands
                results.append(result)
                expected -= 1
            elif pgconn.status != _CONNECTED:
                raise _lost()
        return results


def _lost() -> Exception:
    from psycopg import OperationalError  # noqa: PLC0415  # an optional package

    return OperationalError("the connection was lost during the commit")


def _error_from(result: Any, encoding: str) -> Exception:
    from psycopg.errors import error_from_result  # noqa: PLC0415  # an optional package

    return error_from_result(result, encoding=encoding)


def _translated(error: Exception) -> Exception:
    """What the error of an INSERT means."""
    what = _MEANINGS.get(getattr(error, "sqlstate", ""))
    if what is None:
        return error
    missing = OutboxMissing(f"Table {outbox.name} {what}")
    missing.__cause__ = error
    return missing
