"""PostgreSQL with psycopg: the outbox row travels with the COMMIT, so that it costs the writer no round trip.

A round trip is a third of what a commit of one row takes. So the row is only noted when it is written, and sent in
libpq's pipeline mode together with the COMMIT that follows, by the dialect's `do_commit`: SQLAlchemy's own place for
it, where whatever goes wrong becomes SQLAlchemy's error as ever. If the row cannot be inserted, the server does not
commit.

Where that is not certain to be right, the row is inserted at once, as on every other database: within savepoints and
two-phase transactions, in AUTOCOMMIT, and where the table might be another one than before (`_PostgresWriter`).
"""

from __future__ import annotations

import select
from typing import Any, Final, NamedTuple, Protocol, final

from sqlalchemy import Connection, Engine, RootTransaction

from eventbus.envelope import Batch
from eventbus.errors import OutboxMissing
from eventbus.outbox import prepared
from eventbus.outbox.tables import outbox

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
_DIVISION_BY_ZERO: Final = "22012"


class Writer(Protocol):
    """Is told what became of its row."""

    def written(self, row_id: int) -> None: ...

    def failed(self) -> None: ...


class Row(NamedTuple):
    """A row to go with the commit: the parameters of its INSERT, and the batch that gets its id for a version."""

    values: tuple[bytes, bytes, bytes, bytes]
    batch: Batch
    writer: Writer


def row(owner: str, payload: bytes, created_at: int, limit: int, batch: Batch, writer: Writer) -> Row:
    """With an id not above `limit` the commit fails."""
    return Row((owner.encode(), payload, b"%d" % limit, b"%d" % created_at), batch, writer)


def is_possible(engine: Engine) -> bool:
    """Whether this engine's driver allows it at all."""
    dialect = engine.dialect
    return dialect.driver == "psycopg" and not dialect.is_async and hasattr(select, "poll")


def install(dialect: Any) -> None:
    """Let commits of this dialect carry what is pending for their connection; once."""
    if getattr(dialect.do_commit, "carries_outbox", False):
        return
    plain_commit, plain_rollback = dialect.do_commit, dialect.do_rollback

    def do_commit(connection: Any) -> None:
        carrier = _carrier(connection)
        if carrier is None or not carrier.commit():
            plain_commit(connection)

    def do_rollback(connection: Any) -> None:
        carrier = _carrier(connection)
        if carrier is not None:
            carrier.forget()
        plain_rollback(connection)

    do_commit.carries_outbox = True  # type: ignore[attr-defined]
    dialect.do_commit, dialect.do_rollback = do_commit, do_rollback


def defer(connection: Connection, row: Row) -> bool:
    """Note the row for the commit. False: it must go at once."""
    transaction = connection._transaction
    if type(transaction) is not RootTransaction or connection._nested_transaction or len(row.values[1]) > MAX_BYTES:
        return False
    proxied: Any = connection.connection
    carrier = _carrier(proxied)
    if carrier is None:
        carrier = proxied.info[_KEY] = _Carrier(proxied.dbapi_connection, connection.engine)
    return carrier.take(row, transaction)


def _carrier(connection: Any) -> _Carrier | None:
    info = connection.info
    return info.get(_KEY) if type(info) is dict else None


@final
class _Carrier:
    """Takes rows along with the next COMMIT of one DBAPI connection; lives as long as that."""

    __slots__ = ("_engine", "_poll", "_raw", "_transaction", "rows")

    def __init__(self, raw: Any, engine: Engine) -> None:
        self.rows: list[Row] = []
        self._raw = raw
        self._engine = engine
        self._transaction: RootTransaction | None = None
        self._poll = select.poll()
        self._poll.register(raw.pgconn.socket, select.POLLIN)

    def take(self, row: Row, transaction: RootTransaction) -> bool:
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

    def commit(self) -> bool:
        """Send the rows and the COMMIT. False: nothing goes with this one, it is to be sent as ever.

        Raises psycopg's error, or OutboxMissing, if the server did not commit.
        """
        rows, transaction, raw = self.rows, self._transaction, self._raw
        if transaction is None:
            return False
        self.forget()
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
                for row in rows:
                    row.writer.failed()
                if raw.pgconn.transaction_status == _INERROR:
                    raw.rollback()  # SQLAlchemy takes a transaction whose COMMIT failed for ended
                raise _error(raw, result)
        for row, row_id in zip(rows, ids, strict=True):
            row.batch.version = row_id
            row.writer.written(row_id)
        return True

    def _exchange(self, rows: list[Row]) -> list[Any]:
        """Send all and read all results."""
        raw = self._raw
        pgconn = raw.pgconn
        pgconn.enter_pipeline_mode()
        preparing = prepared.prepare(raw, _STATEMENTS) if prepared.may_last(self._engine) else None
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
            prepared.prepared(raw)
        return results

    def _receive(self, pgconn: Any, expected: int) -> list[Any]:
        from psycopg import OperationalError  # noqa: PLC0415  # an optional package

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
                raise OperationalError("the connection was lost during the commit")
        return results


def _error(raw: Any, result: Any) -> Exception:
    from psycopg.errors import error_from_result  # noqa: PLC0415  # an optional package

    error: Exception = error_from_result(result, encoding=raw.info.encoding)
    state = getattr(error, "sqlstate", None)
    if state == _DIVISION_BY_ZERO:
        missing = OutboxMissing(
            f"Table {outbox.name} was made anew while this process ran. "
            "The transaction is rolled back; the next one works."
        )
        missing.__cause__ = error
        return missing
    if state == "42P01":
        missing = OutboxMissing(f"Table {outbox.name} is gone from the database. The transaction is rolled back.")
        missing.__cause__ = error
        return missing
    return error
