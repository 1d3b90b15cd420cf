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
_DIVISION_BY_ZERO: Final = "22012"


class Writer(Protocol):
    """Is told what became of its row."""

    def written(self, row_id: int) -> None: ...

    def failed(self) -> None: ...


class Row(NamedTuple):
    """A row to go with the commit, which gives the batch its version. With an id not above `limit` the commit fails.

    `lasting`: whether prepared statements may be relied on (`prepared.may_last`).
    """

    owner: bytes
    payload: bytes
    created_at: int
    limit: int
    batch: Batch
    writer: Writer
    lasting: bool


@final
class _Pending:
    """Rows that go with the commit of one transaction."""

    __slots__ = ("rows", "transaction")

    def __init__(self, transaction: RootTransaction) -> None:
        self.transaction = transaction
        self.rows: list[Row] = []


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
        pending = _pop(connection)
        if pending is None or not pending.transaction.is_active or not _can_commit(connection.dbapi_connection):
            plain_commit(connection)
        else:
            _commit(connection.dbapi_connection, pending)

    def do_rollback(connection: Any) -> None:
        _pop(connection)
        plain_rollback(connection)

    do_commit.carries_outbox = True  # type: ignore[attr-defined]
    dialect.do_commit, dialect.do_rollback = do_commit, do_rollback


def defer(connection: Connection, row: Row) -> bool:
    """Note the row for the commit. False: it must go at once."""
    transaction = connection._transaction
    if type(transaction) is not RootTransaction or connection._nested_transaction or len(row.payload) > MAX_BYTES:
        return False
    proxied: Any = connection.connection
    if proxied.dbapi_connection.autocommit:
        return False
    info = proxied.info
    pending = info.get(_KEY)
    if pending is None or pending.transaction is not transaction:
        pending = info[_KEY] = _Pending(transaction)
    pending.rows.append(row)
    return True


def _pop(connection: Any) -> _Pending | None:
    info = connection.info
    return info.pop(_KEY, None) if type(info) is dict else None


def _can_commit(raw: Any) -> bool:
    # Idle: nothing was sent yet in this transaction, or it was ended by a COMMIT of the application's own; the row is
    # committed all the same. A failed transaction is rolled back by COMMIT, which tells nobody.
    return raw.pgconn.transaction_status in (_IDLE, _INTRANS)


def _commit(raw: Any, pending: _Pending) -> None:
    try:
        results = _exchange(raw, pending)
    except BaseException:
        # Interrupted in the middle of the exchange: the connection is of no more use.
        raw.close()
        raise
    ids: list[int] = []
    for result in results:
        if result.error_message:
            for row in pending.rows:
                row.writer.failed()
            if raw.pgconn.transaction_status == _INERROR:
                raw.rollback()  # SQLAlchemy takes a transaction whose COMMIT failed for ended
            raise _error(raw, result)
        if result.ntuples:
            ids.append(int(result.get_value(0, 0)))
    for row, row_id in zip(pending.rows, ids, strict=True):
        row.batch.version = row_id
        row.writer.written(row_id)


def _exchange(raw: Any, pending: _Pending) -> list[Any]:
    """Send all and read all results."""
    pgconn = raw.pgconn
    pgconn.enter_pipeline_mode()
    preparing = prepared.prepare(raw, _STATEMENTS) if pending.rows[0].lasting else None
    for row in pending.rows:
        values = (row.owner, row.payload, b"%d" % row.limit, b"%d" % row.created_at)
        if preparing is None:
            pgconn.send_query_params(_INSERT, values, param_formats=_FORMATS)
        else:
            pgconn.send_query_prepared(_INSERTING, values, _FORMATS)
    if preparing is None:
        pgconn.send_query_params(_COMMIT, None)
    else:
        pgconn.send_query_prepared(_COMMITTING, None)
    pgconn.pipeline_sync()
    # Two more: of the COMMIT and of the sync.
    results = _receive(pgconn, (preparing or 0) + len(pending.rows) + 2)
    pgconn.exit_pipeline_mode()
    if preparing and not any(result.error_message for result in results):
        prepared.prepared(raw)
    return results


def _receive(pgconn: Any, expected: int) -> list[Any]:
    poll = select.poll()
    while pgconn.flush():
        # Too much for the socket at once; the server may have to be listened to before it takes the rest.
        poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
        poll.poll()
        pgconn.consume_input()
    poll.register(pgconn.socket, select.POLLIN)
    results: list[Any] = []
    while len(results) < expected:
        while pgconn.is_busy():
            poll.poll()
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is not None:  # between two commands
            results.append(result)
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
