"""Begins the execution that fits what a statement is about to send, and takes in what it tells."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Insert, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from eventbus.errors import CaptureError, CaptureWarning
from eventbus.listeners.capture import Capture
from eventbus.listeners.flushing.cascades import StatementCascades
from eventbus.listeners.recording.database_rollback import is_undone
from eventbus.listeners.recording.frame import Frame
from eventbus.listeners.recording.ledger import flush_of
from eventbus.listeners.recording.transactional import check_transactional
from eventbus.listeners.statements.deletes import DeleteExecution
from eventbus.listeners.statements.execution import Execution, within_a_flush
from eventbus.listeners.statements.inserts import InsertExecution, untold
from eventbus.listeners.statements.lists import go_together, one_by_one
from eventbus.listeners.statements.natures import Nature, Natures
from eventbus.listeners.statements.numbered import counts_up
from eventbus.listeners.statements.omissions import Omissions
from eventbus.listeners.statements.recognition import Rows
from eventbus.listeners.statements.returning import with_keys_given_back
from eventbus.listeners.statements.rows import Hit, hold_file
from eventbus.listeners.statements.sent import Sent, is_upsert, lacks_keys, table_of
from eventbus.listeners.statements.updates import UpdateExecution
from eventbus.listeners.statements.watch import Scope


class Executions:
    """The statements of one installation that write rows which are captured."""

    def __init__(self, capture: Capture, rows: Rows, omissions: Omissions) -> None:
        self._capture = capture
        self._rows = rows
        self._omissions = omissions
        self._natures = Natures()
        self._cascades = StatementCascades()

    def prepare_insert(self, scope: Scope, connection: Connection, statement: Insert, many: Sequence[Any]) -> Insert:
        """Many rows: the driver would tell nothing of them."""
        if statement._returning or statement._return_defaults:
            return statement
        table = statement._annotations.get("_emit_insert_table", statement.table)
        hit = self._rows.hit_sent(table_of(table), scope.mapper)
        if hit is None or not (is_upsert(statement) or lacks_keys(hit.key, many)):
            return statement
        if not is_upsert(statement) and counts_up(connection, hit):
            return statement
        replaced = self._nature(connection, hit.table, "insert").replaced
        if connection.dialect.insert_executemany_returning and hit.table.implicit_returning and not replaced:
            told = with_keys_given_back(statement, hit.key)
            return told if go_together(connection.dialect.name, statement, many) else one_by_one(told)
        if is_upsert(statement) or any(row.get(column.key) is None for row in many for column in hit.key):
            raise untold(connection.dialect, hit.name)
        return statement

    def begin(self, scope: Scope, connection: Connection, context: Any) -> Execution | None:
        """What a context is about to send, as far as it is captured. Raises CaptureError where it cannot be."""
        sent = Sent(context)
        self._omissions.notice_inner(sent)
        hit = self._rows.hit_sent(sent.table, scope.mapper)
        if hit is None:
            return None
        nature = self._nature(connection, hit.table, sent.verb, sent.schemas, sending=True)
        hit = hit.without(self._capture.present.told(connection, hit.table, sent.schemas, sending=True))
        if sent.verb == "delete":
            self._cascades.deleted(hit.table, hit.name, hit.parts)
        elif sent.verb == "update":
            self._omissions.notice_replacing(sent, hit.name)
            self._cascades.updated(hit.table, hit.name, lambda column: hit.name_of(column) in sent.sets(hit))
        self._check_place(scope.session, hit, connection)

        def record(note: Callable[[Frame], None]) -> None:
            self._record(scope, hit, connection, note)

        execution: Execution
        if sent.verb == "insert":
            execution = InsertExecution(connection, sent, hit, nature, record)
        elif sent.verb == "delete":
            execution = DeleteExecution(connection, sent, hit, nature, record)
        else:
            self._check_columns(sent, hit)
            execution = UpdateExecution(connection, sent, hit, nature, record)
        try:
            execution.prepare()
        except DBAPIError:
            self._forget(execution)
            raise
        return execution

    def _nature(
        self, connection: Connection, table: Table, verb: str, schemas: Any = None, *, sending: bool = False
    ) -> Nature:
        """Ask of a table what is not known yet.

        On SQLite a transaction that has read may not write any more once another one has: it locks the file first, as
        the statement is about to.
        """
        if connection.dialect.name == "sqlite" and not (
            self._natures.knows(connection, table, schemas) and self._capture.present.knows(connection, table, schemas)
        ):
            hold_file(connection, table, verb, schemas)
        return self._natures.told(connection, table, schemas, sending=sending)

    def fail(self, failed: Execution, error: DBAPIError) -> None:
        """The database has refused it. What it did before that stays, but on PostgreSQL."""
        self._forget(failed)
        connection = failed.connection
        if connection.dialect.name == "postgresql" or connection.closed or is_undone(connection, error.orig):
            return
        try:
            failed.finish_partly()
        except DBAPIError as unread:
            warnings.warn(
                f"A list of {failed.hit.name} failed in its middle, and the rows before cannot be read: roll back, "
                f"or no event tells of them ({unread.orig})",
                CaptureWarning,
                stacklevel=2,
            )

    def _forget(self, failed: Execution) -> None:
        """What was known of the table may be out of date."""
        for each in (self._capture.present, self._natures):
            each.forget(failed.connection.dialect, failed.hit.table)

    def _check_columns(self, sent: Sent, hit: Hit) -> None:
        """A column that the class does not map may be left out, but not one of another table (MySQL sets these too)."""
        for column in sent.set_in_others():
            if self._rows.hit_through(table_of(column.table)) is not None:
                raise CaptureError(f"UPDATE of {hit.name} sets {column} too: write one statement for each table")

    def _check_place(self, session: Session, hit: Hit, connection: Connection) -> None:
        """Raise CaptureError, before anything is written, if its events could not be written along."""
        check_transactional(session, connection)
        ledger = self._capture.open(session)
        for entity in hit.entities:
            self._capture.places.check(entity, connection)
            if ledger is not None and ledger.connections.get(entity, connection) is not connection:
                raise CaptureError(
                    f"{hit.name}: this transaction has written such rows on another connection already: use one "
                    "transaction for each database"
                )

    def _record(self, scope: Scope, hit: Hit, connection: Connection, note: Callable[[Frame], None]) -> None:
        session = scope.session
        ledger = self._capture.open(session)
        if ledger is None:
            return
        for entity in hit.entities:
            ledger.connections.setdefault(entity, connection)
        self._capture.savepoints.notice(session, connection, ledger)
        flush = flush_of(session) if scope.within_flush else None
        if flush is not None and flush is not ledger.flushed:
            ledger.frame(session).notes.append(within_a_flush(note))
            return
        note(ledger.frame(session))
