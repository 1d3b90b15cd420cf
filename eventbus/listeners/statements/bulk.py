"""Statements: `update()`, `delete()`, `insert()` that a Session executes become changes too, one a row.

A statement runs under watch (`watch`), and runs as it would without: what is captured is what is sent to the database,
and what the database says that it did. What stays unknown is read at the commit, with all else that is incomplete
(`missing_values`). A statement that cannot be captured exactly is never passed over in silence.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Delete, Insert, Select, TextClause, Update
from sqlalchemy.orm import FromStatement, ORMExecuteState, Session, SessionTransaction
from sqlalchemy.sql.lambdas import LambdaElement

from eventbus.listeners.base import Listener
from eventbus.listeners.capture import Capture
from eventbus.listeners.statements.executions import Executions
from eventbus.listeners.statements.legacy import LegacyMethods
from eventbus.listeners.statements.omissions import Mode, Omissions, verb
from eventbus.listeners.statements.recognition import Rows, mapper_of
from eventbus.listeners.statements.watch import Watches


class Bulk(Listener):
    """Captures the statements of one installation's Sessions, as `mode` says.

    "capture": as changes. "warn": not captured, a CaptureWarning says so. "raise": refused with CaptureError, before
    they run. "ignore": not captured, deliberately. The execution option `eventbus_bulk` overrides it for a statement.
    """

    critical = True

    def __init__(self, capture: Capture, mode: Mode = "capture") -> None:
        self._capture = capture
        self._rows = Rows(capture.entities)
        self._omissions = Omissions(capture, self._rows, mode)
        executions = Executions(capture, self._rows, self._omissions)
        self._watches = Watches(executions.begin, executions.prepare_insert, executions.fail)
        self._legacy = LegacyMethods(capture, self._rows, self._omissions, self._watches)

    def installed(self, session_class: type[Session]) -> None:
        self._legacy.wrap(session_class)

    def uninstalled(self, session_class: type[Session]) -> None:
        self._legacy.unwrap(session_class)

    def begin(self, session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        """A statement under way may be what has begun the transaction."""
        self._watches.begun(session, connection)

    def execute(self, state: ORMExecuteState) -> Any:
        """Run a DML statement under watch; anything else runs as it is."""
        statement = state.statement
        if isinstance(statement, FromStatement):
            statement = statement.element
        if isinstance(statement, LambdaElement):
            statement = statement._resolved
        if isinstance(statement, TextClause):
            return self._omissions.notice_text(state, statement)
        if isinstance(statement, Select):
            return self._omissions.notice_select(state, statement)
        if not isinstance(statement, Update | Delete | Insert):
            return None
        captures = self._is_captured(state, statement)
        if not captures and not self._watches.is_watching(state.session):
            return None
        with self._watches.watching(state.session, captures=captures, mapper=mapper_of(statement)):
            return _invoke(state)

    def _is_captured(self, state: ORMExecuteState, statement: Update | Delete | Insert) -> bool:
        mode = self._omissions.mode_of(state)
        if mode == "ignore" or self._capture.open(state.session) is None:
            return False
        if mode == "capture":
            if self._rows.hit_by(statement) is None:
                self._omissions.notice_namesake(mode, statement)
            return True
        hit = self._rows.hit_by(statement)
        if hit is None:
            self._omissions.notice_namesake(mode, statement)
        else:
            self._omissions.leave_out(mode, f"{verb(statement)} of {hit.name}")
        return False


def _invoke(state: ORMExecuteState) -> Any:
    """`state.invoke_statement()`, which would give `get_bind()` an argument that an application's own may not take."""
    return state.session._execute_internal(
        state.statement,
        state.parameters,
        execution_options=state.local_execution_options,
        bind_arguments=state.bind_arguments,
        _parent_execute_state=state,
    )
