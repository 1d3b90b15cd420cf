"""The outbox's tables, made where they are missing and may be made."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from eventbus.errors import OutboxMissing
from eventbus.outbox import versions
from eventbus.outbox.tables import lease, metadata, outbox, parked

FRESH_LAG: Final = 10_000
_LIFT_LOCK: Final = 0x6576_656E_7462  # any constant, the same in all processes
_CREATE_LOCK: Final = _LIFT_LOCK + 1
_PATIENCE: Final = 5  # seconds
_NO_SUCH_TABLE: Final = 1146
TABLES: Final = (outbox, parked, lease)
BOTH_WAYS: Final = (
    "Let eventbus make its tables (create_outbox=True, the default, and a role that may CREATE), or make them with "
    "Alembic: add eventbus.outbox.metadata to target_metadata."
)


def demand(create: bool, cause: Exception | None = None) -> None:
    """Raise OutboxMissing where the tables may not be made."""
    if not create:
        raise OutboxMissing(f"The database has no table {outbox.name}, and create_outbox=False. {BOTH_WAYS}") from cause


def create_tables(connection: Connection) -> None:
    """Make the tables that are missing; ids start at the clock."""
    try:
        if connection.dialect.name == "sqlite":
            for table in TABLES:
                _create_in_transaction(connection, table)
            return
        if connection.dialect.name == "postgresql":
            # Somebody waits in a commit. It may be his own transaction, or a migration, that makes these tables.
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE}s'")
            # Two processes may be here at once; CREATE TABLE IF NOT EXISTS alone would fail for one of them.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATE_LOCK})")
            metadata.create_all(connection)
            connection.exec_driver_sql(raising(0))
        else:
            metadata.create_all(connection)
            # Only ever raised: where the table is not new, this does nothing.
            connection.exec_driver_sql(f"ALTER TABLE {outbox.name} AUTO_INCREMENT = {versions.now()}")
    except SQLAlchemyError as error:
        raise OutboxMissing(f"Table {outbox.name} could not be made: {error}. {BOTH_WAYS}") from error


def raising(seen: int) -> str:
    """PostgreSQL: lift the sequence above `seen` and to the clock, if it is not there; never lower it.

    What is read is set under a lock, and with a lead that those who draw from the sequence meanwhile cannot make up.
    The lock ends with the block, which is rolled back; `setval` stays. One statement, so that it takes one round trip
    and no savepoint of the client's, after whose rollback psycopg would deallocate its prepared statements.
    """
    floor = max(seen + 1, versions.now())
    return f"""DO $raise$
DECLARE
    ids regclass := pg_get_serial_sequence('{outbox.name}', 'id');
    latest bigint;
BEGIN
    PERFORM pg_advisory_xact_lock({_LIFT_LOCK});
    EXECUTE 'SELECT last_value FROM ' || ids INTO latest;
    IF latest <= {seen} OR latest < {floor - FRESH_LAG} THEN
        PERFORM setval(ids, greatest({floor}, latest + {FRESH_LAG}));
    END IF;
    RAISE SQLSTATE 'EVBUS';
EXCEPTION WHEN SQLSTATE 'EVBUS' THEN
    NULL;
END $raise$"""  # noqa: S608


def _create_in_transaction(connection: Connection, table: Any) -> None:
    connection.execute(CreateTable(table, if_not_exists=True))
    for index in table.indexes:
        index.create(connection, checkfirst=True)


def is_missing_table(error: DBAPIError) -> bool:
    """Whether that is what the database says."""
    cause = error.orig
    if getattr(cause, "sqlstate", None) == "42P01" or getattr(cause, "pgcode", None) == "42P01":
        return True
    return code_of(error) == _NO_SUCH_TABLE or "no such table" in str(cause)


def code_of(error: DBAPIError) -> Any:
    """MariaDB's error number."""
    return error.orig.args[0] if error.orig is not None and error.orig.args else None
