"""Statements: `update()`, `delete()`, `insert()` that a Session executes become changes too, one a row.

A statement runs under watch (`watch`), and runs as it would without: what is captured is what is sent to the database,
and what the database says that it did. What stays unknown is read at the commit, with all else that is incomplete
(`completion`). A statement that cannot be captured exactly is never passed over in silence.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, Delete, Insert, TextClause, Update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import FromStatement, Mapper, ORMExecuteState, Session, SessionTransaction
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.sql.lambdas import LambdaElement

from eventbus.errors import CaptureError, CaptureWarning, ConfigurationError
from eventbus.listeners.base import Listener
from eventbus.listeners.capture import Capture
from eventbus.listeners.cascades import StatementCascades
from eventbus.listeners.frame import Frame
from eventbus.listeners.ledger import flush_of
from eventbus.listeners.statements.deletes import DeleteExecution
from eventbus.listeners.statements.execution import Execution, within_a_flush
from eventbus.listeners.statements.inserts import NO_RETURNING, InsertExecution
from eventbus.listeners.statements.recognition import Rows, mapper_of
from eventbus.listeners.statements.returning import with_keys_given_back
from eventbus.listeners.statements.rows import Hit
from eventbus.listeners.statements.sent import Sent, is_upsert, lacks_keys, table_of
from eventbus.listeners.statements.updates import UpdateExecution
from eventbus.listeners.statements.upsert import Telling
from eventbus.listeners.statements.watch import Scope, Watches
from eventbus.listeners.transactional import check_transactional
from eventbus.muting import MUTED

Mode = Literal["capture", "warn", "raise", "ignore"]
MODES: Final = get_args(Mode)
OPTION: Final = "eventbus_bulk"
"""Execution option that chooses the mode for one statement."""

_WRITES: Final = re.compile(
    r"(?:--[^\n]*\n|/\*.*?\*/|\s)*"
    r"(?:(?:insert|update|delete|replace|merge|truncate|copy)\b|with\b.*\b(?:insert|update|delete|merge)\b)",
    re.IGNORECASE | re.DOTALL,
)
_LEGACY: Final = ("bulk_insert_mappings", "bulk_update_mappings", "bulk_save_objects")


class Bulk(Listener):
    """Captures the statements of one installation's Sessions, as `mode` says.

    "capture": as changes. "warn": not captured, a CaptureWarning says so. "raise": refused with CaptureError, before
    they run. "ignore": not captured, deliberately. The execution option `eventbus_bulk` overrides it for a statement.
    """

    critical = True

    def __init__(self, capture: Capture, mode: Mode = "capture") -> None:
        if mode not in MODES:
            raise ConfigurationError(f"install(bulk={mode!r}): use one of {', '.join(MODES)}")
        self._capture = capture
        self._mode: Mode = mode
        self._rows = Rows(capture.entities)
        self._telling = Telling()
        self._cascades = StatementCascades()
        self._watches = Watches(self._begin_execution, self._prepare_insert, self._forget)
        self._noticed: set[str] = set()
        self._overridden: dict[tuple[type[Session], str], Any] = {}

    def installed(self, session_class: type[Session]) -> None:
        """The Session's legacy bulk methods have no event: they are wrapped on the application's own class."""
        for name in _LEGACY:
            if name in session_class.__dict__:
                self._overridden[session_class, name] = session_class.__dict__[name]
            setattr(session_class, name, _wrapped(getattr(session_class, name), getattr(self, f"_{name}")))

    def uninstalled(self, session_class: type[Session]) -> None:
        for name in _LEGACY:
            delattr(session_class, name)
            if (session_class, name) in self._overridden:
                setattr(session_class, name, self._overridden.pop((session_class, name)))

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
            return self._notice_text(state, statement)
        if not isinstance(statement, Update | Delete | Insert):
            return None
        captures = self._is_captured(state, statement)
        if not captures and not self._watches.is_watching(state.session):
            return None
        with self._watches.watching(state.session, captures=captures, mapper=mapper_of(statement)):
            return _invoke(state)

    def _is_captured(self, state: ORMExecuteState, statement: Update | Delete | Insert) -> bool:
        mode = self._mode_of(state)
        if mode == "ignore" or self._capture.open(state.session) is None:
            return False
        if mode == "capture":
            if self._rows.hit_by(statement) is None:
                self._notice_namesake(mode, statement)
            return True
        hit = self._rows.hit_by(statement)
        if hit is None:
            self._notice_namesake(mode, statement)
        else:
            self._leave_out(mode, f"{_verb(statement)} of {hit.name}")
        return False

    # what is sent

    def _prepare_insert(self, scope: Scope, connection: Connection, statement: Insert, many: Sequence[Any]) -> Insert:
        """Many rows: the driver would tell nothing of them."""
        if statement._returning or statement._return_defaults:
            return statement
        table = statement._annotations.get("_emit_insert_table", statement.table)
        hit = self._rows.hit_sent(table_of(table), scope.mapper)
        if hit is None or not (is_upsert(statement) or lacks_keys(hit.key, many)):
            return statement
        if connection.dialect.insert_executemany_returning and hit.table.implicit_returning:
            return with_keys_given_back(statement, hit.key)
        if is_upsert(statement) or any(row.get(column.key) is None for row in many for column in hit.key):
            raise CaptureError(NO_RETURNING.format(hit.name))
        return statement

    def _begin_execution(self, scope: Scope, connection: Connection, context: Any) -> Execution | None:
        sent = Sent(context)
        hit = self._rows.hit_sent(sent.table, scope.mapper)
        if hit is None:
            return None
        hit = hit.without(self._capture.present.absent(connection, hit.table, sent.schemas))
        if sent.verb == "delete":
            self._cascades.deleted(hit.table, hit.name)
        elif sent.verb == "update":
            self._cascades.updated(hit.table, hit.name, lambda column: hit.name_of(column) in sent.sets(hit))
        self._check_place(scope.session, hit, connection)

        def record(note: Callable[[Frame], None]) -> None:
            self._record(scope, hit, connection, note)

        execution: Execution
        if sent.verb == "insert":
            execution = InsertExecution(connection, sent, hit, record, self._telling)
        elif sent.verb == "delete":
            execution = DeleteExecution(connection, sent, hit, record)
        else:
            self._check_columns(sent, hit)
            execution = UpdateExecution(connection, sent, hit, record)
        try:
            execution.prepare()
        except DBAPIError:
            self._forget(execution)
            raise
        return execution

    def _forget(self, failed: Execution) -> None:
        self._capture.present.forget(failed.connection.dialect, failed.hit.table)

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
        flush = flush_of(session) if scope.within_flush else None
        if flush is not None and flush is not ledger.flushed:
            ledger.frame(session).notes.append(within_a_flush(note))
            return
        note(ledger.frame(session))

    # the Session's legacy bulk methods

    def _bulk_insert_mappings(self, run: Callable[..., Any], session: Session, *args: Any, **kwargs: Any) -> None:
        self._legacy(run, session, "bulk_insert_mappings", [_first(args, kwargs, "mapper")], args, kwargs)

    def _bulk_update_mappings(self, run: Callable[..., Any], session: Session, *args: Any, **kwargs: Any) -> None:
        self._legacy(run, session, "bulk_update_mappings", [_first(args, kwargs, "mapper")], args, kwargs)

    def _bulk_save_objects(self, run: Callable[..., Any], session: Session, *args: Any, **kwargs: Any) -> None:
        objects = list(_first(args, kwargs, "objects"))
        mappers = dict.fromkeys(instance_state(each).mapper for each in objects)
        if args:
            args = (objects, *args[1:])
        else:
            kwargs["objects"] = objects
        self._legacy(run, session, "bulk_save_objects", mappers, args, kwargs)

    def _legacy(
        self, run: Callable[..., Any], session: Session, what: str, models: Iterable[Any], args: Any, kwargs: Any
    ) -> None:
        mappers = [model if isinstance(model, Mapper) else model.__mapper__ for model in models]
        hits = [self._rows.hit_of(mapper) for mapper in mappers]
        captures = self._mode != "ignore" and any(hits) and self._capture.open(session) is not None
        if captures and self._mode != "capture":
            self._leave_out(self._mode, f"{what} of {', '.join(hit.name for hit in hits if hit is not None)}")
            captures = False
        mapper = mappers[0] if len(mappers) == 1 else None
        with self._watches.watching(session, captures=captures, mapper=mapper, bulk=True):
            run(session, *args, **kwargs)

    # what is noticed and not captured

    def _mode_of(self, state: ORMExecuteState) -> Mode:
        mode: Mode = state.execution_options.get(OPTION, self._mode)
        if mode not in MODES:
            raise CaptureError(f"execution option {OPTION}={mode!r}: use one of {', '.join(MODES)}")
        return mode

    def _leave_out(self, mode: Mode, what: str) -> None:
        if mode == "raise":
            raise CaptureError(f"{what}: this installation refuses bulk statements (bulk='raise')")
        warnings.warn(f"{what}: its changes are not captured (bulk='warn')", CaptureWarning, stacklevel=2)

    def _notice_namesake(self, mode: Mode, statement: Update | Delete | Insert) -> None:
        name = self._rows.namesake_of(statement)
        if name is None:
            self._notice_stray(mode, statement)
            return
        what = f"{_verb(statement)} of {table_of(statement.table).name} by another object than the Table of {name}"
        if mode == "raise":
            raise CaptureError(f"{what}: this installation refuses it (bulk='raise')")
        warnings.warn(
            f"{what} is not captured. Use that, or say execution_options({OPTION}='ignore') if another table is meant",
            CaptureWarning,
            stacklevel=2,
        )

    def _notice_stray(self, mode: Mode, statement: Update | Delete | Insert) -> None:
        if not self._rows.is_stray(statement):
            return
        table: Any = table_of(statement.table)
        what = f"{_verb(statement)} of {table.fullname}, a table that no class is mapped to"
        if mode == "raise":
            raise CaptureError(f"{what}: this installation refuses it (bulk='raise')")
        if self._is_news(f"table {table.fullname}"):
            warnings.warn(
                f"{what}: not captured. Name the table in install(include=[…]), or in exclude=[…] if nobody is to "
                "know of its rows",
                CaptureWarning,
                stacklevel=2,
            )

    def _is_news(self, what: str) -> bool:
        if what in self._noticed:
            return False
        if len(self._noticed) < 1000:
            self._noticed.add(what)
        return True

    def _notice_path(self, state: ORMExecuteState, text: str) -> None:
        mode = self._mode_of(state)
        if mode != "ignore" and MUTED not in state.session.info:
            self._capture.places.notice(text, refuse=mode == "raise")

    def _notice_text(self, state: ORMExecuteState, statement: TextClause) -> None:
        if not _WRITES.match(statement.text):
            self._notice_path(state, statement.text)
            return
        mode = self._mode_of(state)
        if mode == "ignore" or self._capture.open(state.session) is None:
            return
        if mode == "raise":
            raise CaptureError("SQL text that writes is not captured, and this installation refuses it (bulk='raise')")
        if self._is_news(statement.text):
            warnings.warn(
                f"SQL text that writes is not captured: {statement.text.strip()[:60]!r}. Use update(), delete() or "
                f"insert(), or say execution_options({OPTION}='ignore')",
                CaptureWarning,
                stacklevel=2,
            )


def _invoke(state: ORMExecuteState) -> Any:
    """`state.invoke_statement()`, which would give `get_bind()` an argument that an application's own may not take."""
    return state.session._execute_internal(
        state.statement,
        state.parameters,
        execution_options=state.local_execution_options,
        bind_arguments=state.bind_arguments,
        _parent_execute_state=state,
    )


def _wrapped(original: Callable[..., Any], capture: Callable[..., Any]) -> Callable[..., Any]:
    def method(session: Session, *args: Any, **kwargs: Any) -> Any:
        return capture(original, session, *args, **kwargs)

    method.__name__, method.__doc__ = original.__name__, original.__doc__
    return method


def _first(args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    return args[0] if args else kwargs[name]


def _verb(statement: Update | Delete | Insert) -> str:
    return statement.__visit_name__.upper()
