"""The outbox's tables. `metadata` is for Alembic: add it to `target_metadata` and use `create_outbox=False`.

`eventbus_outbox` is what the writer pays for, so it is narrow, has no index but its key, and is nearly always empty.
What the broker does not take is moved to `eventbus_outbox_parked`, where it slows nothing. `eventbus_outbox_lease`
has a row for each process that has rows outstanding for longer than a moment, and for the active relay.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import DDL, BigInteger, Column, Identity, Index, Integer, LargeBinary, MetaData, String, Table, event
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.types import TypeEngine

metadata = MetaData()

_ID: Final[TypeEngine[int]] = BigInteger().with_variant(Integer(), "sqlite")
_PAYLOAD: Final[TypeEngine[bytes]] = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
_OWNER: Final[TypeEngine[str]] = String(64)


outbox = Table(
    "eventbus_outbox",
    metadata,
    Column("id", _ID, Identity(), primary_key=True, comment="version of the events, near the clock in microseconds"),
    Column("owner", _OWNER, nullable=False, comment="process that wrote the row and publishes it"),
    Column("created_at", BigInteger, nullable=False, comment="by the writer's clock, microseconds since 1970"),
    Column("payload", _PAYLOAD, nullable=False, comment="unsealed events, one JSON document a line"),
    mysql_engine="InnoDB",
)
"""Committed events that are not known to be with the broker. Ids rise in commit order for each record."""

parked = Table(
    "eventbus_outbox_parked",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("created_at", BigInteger, nullable=False),
    Column("parked_at", BigInteger, nullable=False),
    Column("retry_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", String(200), nullable=False),
    Column("payload", _PAYLOAD, nullable=False),
    Index("eventbus_outbox_parked_retry", "retry_at"),
    mysql_engine="InnoDB",
)
"""Events the broker refused again and again, or that no queue takes: tried again seldom."""

lease = Table(
    "eventbus_outbox_lease",
    metadata,
    Column("name", String(80), primary_key=True, comment="an owner of rows, or 'relay', or 'floor'"),
    Column("holder", _OWNER, nullable=False),
    Column("beat", BigInteger, nullable=False, comment="rises while the holder lives; floor: highest id ever deleted"),
    mysql_engine="InnoDB",
)
"""Who lives. A holder whose `beat` stands still is dead: no two clocks are ever compared."""

# The outbox is a queue: its dead rows must go long before a fifth of the table is dead, and events of a few kilobytes
# are not worth compressing for the moment they stay.
event.listen(
    outbox,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        "ALTER TABLE %(fullname)s SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000, "
        "autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 10000)"
    ).execute_if(dialect="postgresql"),
)
event.listen(
    outbox,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        "ALTER TABLE %(fullname)s ALTER COLUMN payload SET STORAGE EXTERNAL"
    ).execute_if(dialect="postgresql"),
)
