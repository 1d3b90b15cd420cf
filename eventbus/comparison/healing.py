"""What differs is published again: snapshots of rows, and deletions of records that have no row.

Both go through the outbox. A snapshot is written while its row is locked, so its version is in order with the row's
changes. A deletion has no row to lock, and must not cover one that a running service inserts at this moment:

1. It is written to the outbox, which gives it its version.
2. Whoever may have inserted the row before that, and not committed yet, is waited for. MariaDB does so when the row is
   asked for under a lock, SQLite lets nobody else write; on PostgreSQL the transactions that have written to the table
   are waited for until they end, which holds nobody up.
3. If the row is there now, nothing is committed. Whoever inserts it later gets a higher version.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from eventbus.bus import Bus
from eventbus.comparison.difference import Difference
from eventbus.comparison.looking import batches
from eventbus.comparison.scan import KeyOf
from eventbus.dumps.inheritance import alone
from eventbus.dumps.targets import primary_key, tables_of
from eventbus.errors import EventBusError, SerializationError
from eventbus.events import envelope, naming
from eventbus.events.change import Key
from eventbus.events.context import current_author
from eventbus.events.envelope import Batch
from eventbus.events.ids import uuid7
from eventbus.events.notes import current_notes
from eventbus.listeners.committing.encoding import Envelope, envelope_of
from eventbus.outbox import Entry
from eventbus.outbox.side import begin_immediate
from eventbus.records.entity import Entity
from eventbus.redaction import redact
from eventbus.snapshot import Rows, matching

AT_ONCE: Final = 100
"""Records that are published in one transaction."""
_PATIENCE: Final = 10.0
"""Seconds to wait for transactions that have written to the table."""
_PAUSE: Final = 0.02
_WRITERS: Final = sa.text(
    "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND granted "
    "AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND relation = CAST(:name AS regclass) AND pid IS DISTINCT FROM pg_backend_pid()"
)


class _BeingWrittenError(EventBusError):
    """Raised where a transaction that has written to the table does not end."""


@final
class Healer:
    """Publishes the records of one entity again. `problems` are told in words, by record."""

    def __init__(self, bus: Bus, engine: Engine, entity: Entity, key_of: KeyOf) -> None:
        self._bus = bus
        self._engine = engine
        self._entity = entity
        self._key_of = key_of
        self._rows = Rows(bus, engine, entity)
        self.problems: list[str] = []

    def heal(self, differences: Iterable[Difference], timeout: float) -> list[Difference]:
        """Publish these; returns those that were, once the broker has confirmed them. Raises FlushTimeout."""
        done: list[Difference] = []
        for some in batches(differences, AT_ONCE):
            done += self._publish([each for each in some if each.kind != "extra"])
            done += self._bury([each for each in some if each.kind == "extra"])
            self._bus.flush(timeout)
        return done

    def _publish(self, differences: list[Difference]) -> list[Difference]:
        keys = {key: each for each in differences if (key := self._key_of(each.pk)) is not None}
        try:
            if keys:
                self._rows.publish_these(list(keys))
        except SerializationError as error:
            if len(keys) == 1:
                self.problems.append(str(error))
                return []
            return [done for each in keys.values() for done in self._publish([each])]
        return list(keys.values())

    def _bury(self, differences: list[Difference]) -> list[Difference]:
        """Those whose row has come meanwhile are left to the service that made it."""
        while differences:
            try:
                there = self._bury_absent(differences)
            except (DBAPIError, _BeingWrittenError) as error:
                reason = redact(str(getattr(error, "orig", error)))
                self.problems += [f"{each.model} {each.pk!r} is left in the mirror: {reason}" for each in differences]
                return []
            if not there:
                return differences
            differences = [each for each in differences if self._key_of(each.pk) not in there]
        return []

    def _bury_absent(self, differences: Sequence[Difference]) -> set[Key]:
        """Publish the deletion of all of them, or of none and tell which have a row."""
        keys = [key for each in differences if (key := self._key_of(each.pk)) is not None]
        with self._engine.connect() as connection, connection.begin() as transaction:
            begin_immediate(connection)
            entries = self._write(connection, differences)
            there = self._present(connection, keys) if keys else set()
            if there:
                transaction.rollback()
                return there
        self._bus.sink.submit(entries)
        return set()

    def _write(self, connection: Connection, differences: Sequence[Difference]) -> list[Entry]:
        shared = envelope_of(uuid7(), current_author(), len(differences), current_notes())
        bodies = [self._deletion(each, shared, index) for index, each in enumerate(differences)]
        routing_keys = [self._entity.routing_keys["d"]] * len(bodies)
        return self._bus.sink.write(connection, Batch(0, shared.transaction, routing_keys, bodies))

    def _deletion(self, difference: Difference, shared: Envelope, index: int) -> bytes:
        """Of a key that the mirror has, whether or not the table could hold it."""
        data: dict[str, Any] = {
            "op": "d",
            "model": difference.model,
            "pk": difference.pk,
            "before": {},
            "after": None,
            "changed": (),
            "author": shared.author,
            "transaction": {"id": shared.transaction, "index": index, "size": shared.size},
        }
        if shared.notes:
            data["transaction"]["notes"] = shared.notes
        return envelope.encode(
            id=f"{shared.transaction}-{index}",
            source=f"/{difference.model.partition('.')[0]}",
            type=self._entity.routing_keys["d"],
            subject=naming.subject(self._entity.name, difference.pk),
            time=shared.time,
            transaction=shared.transaction,
            data=data,
            traceparent=shared.traceparent,
        )

    def _present(self, connection: Connection, keys: Sequence[Key]) -> set[Key]:
        """Those that have a row, of which nobody can have inserted one unseen with a lower version than ours."""
        if connection.dialect.name == "postgresql":
            self._wait_for_writers(connection)
        columns = primary_key(self._entity)
        query = alone(sa.select(*columns).where(matching(columns, keys)), *tables_of(self._entity))
        if connection.dialect.name != "postgresql":
            query = query.with_for_update()
        found = {tuple(row) for row in connection.execute(query)}
        return {key for key in keys if key in found}

    def _wait_for_writers(self, connection: Connection) -> None:
        name = connection.dialect.identifier_preparer.format_table(self._entity.table)
        writers = set(connection.scalars(_WRITERS, {"name": name}))
        deadline = time.monotonic() + _PATIENCE
        while writers and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            writers &= set(connection.scalars(_WRITERS, {"name": name}))
        if writers:
            raise _BeingWrittenError(
                f"a transaction that has written to {name} has not ended for {_PATIENCE:.0f} s; end it, and run again"
            )
