"""After a flush: what it inserted, updated and deleted, as plain values, into the frame of its transaction.

`flush` reads one flush. Statements are captured by `bulk`, which records into the same ledger: `Capture.open`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session, UOWTransaction, object_mapper

from eventbus.events.change import Entity
from eventbus.events.context import author_of, current_author, told
from eventbus.events.notes import current_notes
from eventbus.listeners.base import Listener
from eventbus.listeners.flushing.flush import Flush
from eventbus.listeners.flushing.overwritten import note_overwritten
from eventbus.listeners.flushing.places import Places
from eventbus.listeners.flushing.plan import Plans, needed_positions
from eventbus.listeners.flushing.present import Present
from eventbus.listeners.flushing.tables import Tables
from eventbus.listeners.recording.foreign_savepoints import ForeignSavepoints
from eventbus.listeners.recording.ledger import Ledger, open_ledger
from eventbus.listeners.recording.transactional import AUTOCOMMIT, autocommitting, check_transactional
from eventbus.muting import MUTED
from eventbus.process import failpoints
from eventbus.records.entities import Entities


class Capture(Listener):
    """Records every flush, and opens the ledger for others who record.

    `author`: called once a flush for whoever acts, where `acting_as` does not say.
    """

    critical = True

    def __init__(self, entities: Entities, *, author: Callable[[], Any] | None = None) -> None:
        self.entities = entities
        self.plans = Plans(entities)
        self.places = Places()
        self.present = Present()
        self.savepoints = ForeignSavepoints()
        self.ended = False
        self._author = author

    def uninstalled(self, session_class: type[Session]) -> None:
        """What a transaction that goes on has recorded is of no more use."""
        self.ended = True

    def open(self, session: Session) -> Ledger | None:
        """The ledger to record into, or None where this session is not to be captured (now)."""
        if MUTED in session.info:
            return None
        ledger = open_ledger(session, self)
        if ledger is not None:
            if (author := self.author(session)) is not None:
                ledger.author = author
            if notes := current_notes():
                ledger.notes = {**(ledger.notes or {}), **notes}
        return ledger

    def needed(self, entity: Entity, connection: Connection) -> Sequence[int]:
        """The positions of an entity's rows that are published, so that they have to be known; if they are there."""
        positions, absent = needed_positions(entity), self.present.absent_of(connection, entity.columns)
        return [each for each in positions if entity.columns[each] not in absent] if absent else positions

    def author(self, session: Session | None = None) -> str | None:
        """Who acts now: `acting_as` wins over the installation's `author`."""
        author = current_author() if session is None else author_of(session)
        if author is None and self._author is not None:
            return told(self._author)
        return author

    def before_flush(self, session: Session, flush_context: UOWTransaction, instances: Sequence[Any] | None) -> None:
        """Keep the old values that the flush will overwrite without leaving a history."""
        info = session.info
        if MUTED in info:
            return
        if AUTOCOMMIT in info:
            self.check_flush(session)
        note_overwritten(session, flush_context, self.plans)

    def after_flush(self, session: Session, flush_context: UOWTransaction) -> None:
        """Record what the flush did."""
        ledger = self.open(session)
        if ledger is None:
            return
        for connection, *_ in flush_context.transaction._parent._connections.values():  # type: ignore[union-attr]
            if connection._nested_transaction is not None:
                self.savepoints.notice(session, connection, ledger)
        tables = Tables(session, flush_context, self.plans, self.places, ledger)
        Flush(session, flush_context, self.plans, tables).run()
        ledger.flushed = session._transaction
        failpoints.hit("after_flush")

    def check_flush(self, session: Session) -> None:
        """Raise CaptureError if the flush is about to write on a connection without transactions."""
        for connection in autocommitting(session):
            changed = (each for each in session.dirty if session.is_modified(each))
            for mapper in {object_mapper(each) for each in (*session.new, *session.deleted, *changed)}:
                plan = self.plans[mapper]
                written = plan.entity is not None or plan.links
                if written and session.get_bind(mapper=mapper).engine is connection.engine:
                    check_transactional(session, connection)
