"""What is in a database's outbox right now, for those who watch it: counts and ages, no payloads."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Table, func, inspect, select

from eventbus.outbox.owner import is_dead, is_for_relay
from eventbus.outbox.queries import MOST
from eventbus.outbox.reading.leases import has_relay
from eventbus.outbox.side import side_connection
from eventbus.outbox.tables import outbox, parked


@dataclass(frozen=True, slots=True)
class Census:
    """Rows that wait in `eventbus_outbox` and since when, rows that are parked, owners that are gone.

    `rows` and `parked` stop at `MOST`. `oldest` is the age of the oldest waiting row in seconds, by the clocks of the
    writer and of this machine; 0 where none waits. `orphaned` counts rows of processes of this machine that are gone:
    only a relay or another process of the service delivers these. `for_relay` counts rows that services leave to the
    relay, `relay` says whether one has the lease of this database and is not known to be gone. `reasons` are those of
    parked rows, with their counts. `tables` is False where the database has no outbox yet.
    """

    tables: bool
    rows: int = 0
    oldest: float = 0.0
    orphaned: int = 0
    for_relay: int = 0
    relay: bool = False
    parked: int = 0
    reasons: tuple[tuple[str, int], ...] = ()


def take_census(engine: Engine) -> Census:
    """Count, over a connection of its own. Raises SQLAlchemyError where the database does not answer."""
    with side_connection(engine) as connection:
        if not inspect(connection).has_table(outbox.name):
            return Census(tables=False)
        owners = connection.execute(
            select(outbox.c.owner, func.count(), func.min(outbox.c.created_at))
            .where(outbox.c.id.in_(select(select(outbox.c.id).limit(MOST).subquery().c.id)))
            .group_by(outbox.c.owner)
        ).all()
        reasons = connection.execute(
            select(parked.c.reason, func.count()).group_by(parked.c.reason).order_by(func.count().desc()).limit(10)
        ).all()
        return Census(
            tables=True,
            rows=sum(count for _, count, _ in owners),
            oldest=_age(min((since for _, _, since in owners), default=None)),
            orphaned=sum(count for owner, count, _ in owners if is_dead(owner) and not is_for_relay(owner)),
            for_relay=sum(count for owner, count, _ in owners if is_for_relay(owner)),
            relay=has_relay(connection),
            parked=_count(connection, parked),
            reasons=tuple((reason, count) for reason, count in reasons),
        )


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(select(table.c.id).limit(MOST).subquery())) or 0


def _age(since: int | None) -> float:
    return 0.0 if since is None else max(0.0, time.time() - since / 1e6)
