"""Events for what was loaded and no more: snapshots of those rows, in the transaction of the load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from eventbus.bus import Bus
from eventbus.dumps.targets import Target, primary_key, rows_of
from eventbus.dumps.writing.replacing import Kept
from eventbus.events.context import current_author
from eventbus.events.envelope import Batch
from eventbus.events.ids import uuid7
from eventbus.listeners.committing.encoding import envelope_of
from eventbus.listeners.recording.frame import Net, Recorded
from eventbus.outbox import Entry
from eventbus.records.columns import stored
from eventbus.records.entity import Entity

CHUNK: Final = 500
"""Events written at a time."""


def write_events(
    bus: Bus, connection: Connection, targets: Sequence[Target], kept: Kept
) -> Iterator[tuple[int, list[Entry]]]:
    """Write an event with `op` `r` for each row that came, as far as the bus publishes its model; yields how many.

    Rows without a key are no records, so nothing tells of them.
    """
    for target in targets:
        if not target.primary:
            continue
        source = target.entity.mapper
        entity = bus.entities.for_table(target.entity.table) if source is None else bus.entities.for_mapper(source)
        if entity is not None:
            yield from _write(bus, connection, entity, target, kept)


def _write(
    bus: Bus, connection: Connection, entity: Entity, target: Target, kept: Kept
) -> Iterator[tuple[int, list[Entry]]]:
    table = target.parts[-1].table
    keys, came = primary_key(entity), kept.of(table)
    chosen = sa.select(*came.columns)
    wanted = keys[0].in_(chosen) if len(keys) == 1 else sa.tuple_(*keys).in_(chosen)
    rows = rows_of(entity, entity.read, show=stored).where(wanted)
    found = connection.execute(rows).all() if connection.dialect.name in ("mysql", "mariadb") else None
    parts = _parts(found) if found is not None else _streamed(connection, rows)
    for part in parts:
        shared = envelope_of(uuid7(), current_author(), len(part))
        read: list[Net] = [(Recorded("r", entity, _key(entity, row), {}, tuple(row)), ()) for row in part]
        routing, bodies = bus.encoder.events(read, shared, connection.dialect)
        yield len(part), bus.sink.write(connection, Batch(0, shared.transaction, routing, bodies))


def _streamed(connection: Connection, rows: Any) -> Iterator[Sequence[Any]]:
    return connection.execute(rows, execution_options={"yield_per": CHUNK}).partitions()


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def _key(entity: Entity, row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(row[position] for position in entity.pk_index)
