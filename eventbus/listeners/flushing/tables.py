"""Where a flush writes the rows of each entity, and whether it may."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Mapper, Session, UOWTransaction

from eventbus.events.change import Entity
from eventbus.listeners.flushing.cascades import warn_of_conflicts
from eventbus.listeners.flushing.places import Places
from eventbus.listeners.flushing.plan import Plans
from eventbus.listeners.recording.ledger import Ledger
from eventbus.listeners.recording.transactional import check_transactional


class Tables:
    """The tables of one flush. `connections`: those of the ledger, by entity."""

    __slots__ = ("_flush_context", "_places", "_plans", "_session", "connections", "ledger")

    def __init__(
        self, session: Session, flush_context: UOWTransaction, plans: Plans, places: Places, ledger: Ledger
    ) -> None:
        self._session, self._flush_context = session, flush_context
        self._plans, self._places = plans, places
        self.ledger = ledger
        self.connections = ledger.connections

    def touch(self, entity: Entity, mapper: Mapper[Any]) -> None:
        """Note where an entity's rows are written. Raises CaptureError on a connection without transactions."""
        if entity not in self.connections:
            connection = _connection(self._flush_context, mapper)
            check_transactional(self._session, connection)
            self._places.check(entity, connection)
            self.connections[entity] = connection
            plan = self._plans[mapper]
            if plan.conflicts and connection.dialect.name == "sqlite":
                warn_of_conflicts(entity.name, plan.conflicts)
                plan.conflicts = ""


def _connection(flush_context: UOWTransaction, mapper: Mapper[Any]) -> Connection:
    """The connection that the flush wrote this mapper's rows on.

    `transaction.connection(mapper)` says so, and costs as much as all else here for a single row. A transaction that
    holds one connection needs no asking.
    """
    transaction = flush_context.transaction
    held = transaction._parent._connections  # type: ignore[union-attr]  # a flush has a transaction of its own
    if len(held) == 2:  # listed under itself and under its engine
        return next(iter(held.values()))[0]
    return transaction.connection(mapper)
