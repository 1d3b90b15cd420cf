"""Statements: `update()`, `delete()`, `insert()` that a Session executes become changes too, one a row.

No object is there to be asked, so the rows are read: before an UPDATE or DELETE the ones it will hit, under lock; after
an UPDATE or INSERT what they are at the commit, with all else that is incomplete (`completion`). What an INSERT made is
told by its RETURNING. A statement that cannot be captured exactly is never passed over in silence.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, CursorResult, Delete, Insert, Result, TextClause, Update
from sqlalchemy.orm import FromStatement, Mapper, ORMExecuteState, Session
from sqlalchemy.orm.attributes import instance_state

from eventbus.errors import CaptureError, CaptureWarning, ConfigurationError
from eventbus.events.change import MISSING
from eventbus.listeners.base import Listener
from eventbus.listeners.capture import Capture
from eventbus.listeners.cascades import StatementCascades
from eventbus.listeners.frame import Frame
from eventbus.listeners.ledger import flush_of
from eventbus.listeners.statements.choice import Choice, check_choice, confine, may_choose_anew, values_set
from eventbus.listeners.statements.inserts import is_upsert, rows_given, run_insert
from eventbus.listeners.statements.recognition import Rows, unaliased
from eventbus.listeners.statements.rows import Hit, Known, literal_of, parameter_sets
from eventbus.listeners.statements.upsert import Outcome, Telling, outcome, rows_in_conflict
from eventbus.listeners.transactional import check_transactional

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

    def execute(self, state: ORMExecuteState) -> Any:
        """Capture a DML statement; anything else runs as it is."""
        statement = state.statement
        if isinstance(statement, FromStatement):
            statement = statement.element
        if isinstance(statement, TextClause):
            return self._notice_text(state, statement)
        if not isinstance(statement, Update | Delete | Insert):
            return None
        mode = self._mode_of(state)
        if mode == "ignore" or self._capture.open(state.session) is None:
            return None
        hit = self._rows.hit_by(statement)
        if hit is None:
            self._notice_namesake(mode, statement)
            return None
        if mode == "capture":
            self._cascades.notice(statement, hit.table, hit.name, state.parameters)
            if unaliased(statement.table) is not statement.table:
                raise CaptureError(f"{_verb(statement)} of {hit.name} by an alias: name {hit.name} itself")
            _flush_as_the_statement_would(state)
            connection = state.session.connection(bind_arguments=dict(state.bind_arguments))
            self._check_place(state.session, hit, connection)
            _check_schema(state, hit, connection)
            return self._run(state, statement, hit, connection)
        self._leave_out(mode, f"{_verb(statement)} of {hit.name}")
        return None

    def _run(
        self, state: ORMExecuteState, statement: Update | Delete | Insert, hit: Hit, connection: Connection
    ) -> Result[Any]:
        if isinstance(statement, Insert):
            return self._insert(state, statement, hit, connection)
        sets = self._columns_set(statement, state, hit) if isinstance(statement, Update) else {}
        choice, fickle = Choice(statement), may_choose_anew(statement, hit)
        known, hits = hit.read_hit(connection, state, statement, sets)
        if fickle:
            choice = confine(state, statement, hit, known)
        result, count = _run_and_count(state, choice.statement)
        _check_count(count, hits, hit)
        check_choice(connection, choice, hit, known, count)
        if isinstance(statement, Delete) or not sets.keys().isdisjoint(hit.pk_keys):
            # Fewer than were seen: a LIMIT, a listener that narrowed it down, or a driver that does not tell.
            stayed = hit.read_keys(connection, list(known), {}) if count < len(known) else {}
            renamed = sets if isinstance(statement, Update) else None
            self._record(state.session, hit, connection, lambda frame: _note_left(frame, hit, known, stayed, renamed))
        elif hit.reclassifies(sets):
            now = hit.read_keys(connection, list(known), {})
            self._record(state.session, hit, connection, lambda frame: hit.reclassified(frame, known, now))
        else:
            self._record(state.session, hit, connection, lambda frame: hit.updated(frame, known))
        return result

    def _columns_set(self, statement: Update, state: ORMExecuteState, hit: Hit) -> dict[str, Any]:
        """The attribute keys that the statement sets, with their values (MISSING: an expression, or several values)."""
        sets: dict[str, Any] = {}
        for column, value in values_set(statement):
            key = hit.key_of_column(column)
            if key is not None:
                sets[key] = literal_of(value)
            else:
                self._check_column(column, hit)
        by_key = state.is_orm_statement and isinstance(state.parameters, list)
        for parameters in parameter_sets(state):
            for name in parameters:
                key = hit.key_of_column(name)
                if key is not None and not (by_key and key in hit.pk_keys):
                    sets.setdefault(key, MISSING)
        return sets

    def _check_column(self, column: Any, hit: Hit) -> None:
        """A column that the class does not map may be left out, but not one of another table (MySQL sets these too)."""
        table = getattr(column, "table", None)
        if table is not None and table is not hit.table and self._rows.hit_through(table) is not None:
            raise CaptureError(f"UPDATE of {hit.name} sets {column} too: write one statement for each table")

    def _insert(self, state: ORMExecuteState, statement: Insert, hit: Hit, connection: Connection) -> Result[Any]:
        if hit.is_part(state):
            raise CaptureError(
                f"{hit.name} is a joined class, of which this makes one part alone: insert through the class, which "
                "takes a list of dicts beside the statement"
            )
        given = rows_given(state, statement, hit)
        if not is_upsert(statement):
            result, rows = run_insert(connection, state, statement, hit)
            done = Outcome(list(rows), {}, {})
        else:
            tells_new = self._telling(connection, hit.table)
            earlier = rows_in_conflict(connection, statement, hit, given, tells_new=tells_new)
            result, rows = run_insert(connection, state, statement, hit, tells_new=tells_new)
            done = outcome(connection, hit, earlier, rows)
        made = hit.made(connection, done.created, given)

        def record(frame: Frame) -> None:
            hit.deleted(frame, done.deleted)
            hit.updated(frame, done.updated)
            hit.created(frame, made)

        self._record(state.session, hit, connection, record)
        return result

    def _check_place(self, session: Session, hit: Hit, connection: Connection) -> None:
        """Raise CaptureError, before anything is written, if its events could not be written along."""
        check_transactional(session, connection)
        ledger = self._capture.open(session)
        for entity in hit.entities:
            if ledger is not None and ledger.connections.get(entity, connection) is not connection:
                raise CaptureError(
                    f"{hit.name}: this transaction has written such rows on another connection already: use one "
                    "transaction for each database"
                )

    def _record(self, session: Session, hit: Hit, connection: Connection, note: Callable[[Frame], None]) -> None:
        ledger = self._capture.open(session)
        if ledger is None:
            return
        for entity in hit.entities:
            ledger.connections.setdefault(entity, connection)
        flush = flush_of(session)
        if flush is not None and flush is not ledger.flushed:
            ledger.frame(session).notes.append(note)
            return
        note(ledger.frame(session))

    # the Session's legacy bulk methods

    def _bulk_insert_mappings(self, run: Callable[..., Any], session: Session, *args: Any, **kwargs: Any) -> None:
        call = _arguments(("mapper", "mappings", "return_defaults", "render_nulls"), args, kwargs)
        mappings = call["mappings"] = list(call["mappings"])
        place = self._legacy_hit(session, call["mapper"], "bulk_insert_mappings")
        if place is None:
            run(session, **call)
            return
        hit, connection = place
        if any(key not in mapping for mapping in mappings for key in hit.pk_keys):
            call["return_defaults"] = True
        run(session, **call)
        made = hit.made(connection, [hit.key_of(mapping) for mapping in mappings], mappings)
        self._record(session, hit, connection, lambda frame: hit.created(frame, made))

    def _bulk_update_mappings(self, run: Callable[..., Any], session: Session, *args: Any, **kwargs: Any) -> None:
        call = _arguments(("mapper", "mappings"), args, kwargs)
        mappings = call["mappings"] = list(call["mappings"])
        place = self._legacy_hit(session, call["mapper"], "bulk_update_mappings")
        if place is None:
            run(session, **call)
            return
        hit, connection = place
        sets = dict.fromkeys((key for mapping in mappings for key in mapping if key not in hit.pk_keys), MISSING)
        known = hit.read_keys(connection, [hit.key_of(mapping) for mapping in mappings], sets)
        run(session, **call)
        self._record(session, hit, connection, lambda frame: hit.updated(frame, known))

    def _bulk_save_objects(self, run: Callable[..., Any], session: Session, *args: Any, **kwargs: Any) -> None:
        call = _arguments(("objects", "return_defaults", "update_changed_only", "preserve_order"), args, kwargs)
        objects = call["objects"] = list(call["objects"])
        states = [instance_state(each) for each in objects]
        parts: list[tuple[Hit, Connection, list[Any], Known]] = []
        for mapper in dict.fromkeys(state.mapper for state in states):
            place = self._legacy_hit(session, mapper, "bulk_save_objects")
            if place is not None:
                hit, connection = place
                ours = [state for state in states if state.mapper is mapper]
                new = [state for state in ours if state.key is None]
                old = [state.key[1] for state in ours if state.key is not None]
                known = hit.read_keys(connection, old, dict.fromkeys(hit.keys, MISSING))
                parts.append((hit, connection, new, known))
        if any(new for _, _, new, _ in parts):
            call["return_defaults"] = True
        run(session, **call)
        for hit, connection, new, known in parts:
            values = [state.dict for state in new]
            made = hit.made(connection, [hit.key_of(each) for each in values], values)
            self._record(session, hit, connection, partial(_note_saved, hit, made, known))

    def _legacy_hit(self, session: Session, model: Any, what: str) -> tuple[Hit, Connection] | None:
        """What a legacy method writes to, and where, or None where it is not to be captured."""
        if self._mode == "ignore" or self._capture.open(session) is None:
            return None
        hit = self._rows.hit_of(model if isinstance(model, Mapper) else model.__mapper__)
        if hit is None:
            return None
        if self._mode == "capture":
            connection = hit.connection(session)
            self._check_place(session, hit, connection)
            return hit, connection
        self._leave_out(self._mode, f"{what} of {hit.name}")
        return None

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
        what = f"{_verb(statement)} of {unaliased(statement.table).name} by another object than the Table of {name}"
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
        table: Any = unaliased(statement.table)
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

    def _notice_text(self, state: ORMExecuteState, statement: TextClause) -> None:
        if not _WRITES.match(statement.text):
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


def _note_left(frame: Frame, hit: Hit, known: Known, stayed: Known, sets: Mapping[str, Any] | None) -> None:
    """Rows left their keys, but those that stayed: deleted, or given other ones by an UPDATE of `sets`."""
    left = {key: row for key, row in known.items() if key not in stayed}
    if sets is None:
        hit.deleted(frame, left)
    else:
        hit.renamed(frame, left, sets)
        hit.updated(frame, {key: row for key, row in known.items() if key in stayed})


def _note_saved(hit: Hit, made: Sequence[Any], known: Known, frame: Frame) -> None:
    hit.created(frame, made)
    hit.updated(frame, known)


def _wrapped(original: Callable[..., Any], capture: Callable[..., Any]) -> Callable[..., Any]:
    def method(session: Session, *args: Any, **kwargs: Any) -> Any:
        return capture(original, session, *args, **kwargs)

    method.__name__, method.__doc__ = original.__name__, original.__doc__
    return method


def _arguments(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _verb(statement: Update | Delete | Insert) -> str:
    return statement.__visit_name__.upper()


def _check_schema(state: ORMExecuteState, hit: Hit, connection: Connection) -> None:
    """Raise CaptureError where this statement alone writes to another schema: a record's key does not tell it."""
    own = state.execution_options.get("schema_translate_map")
    if own is not None and own != connection.get_execution_options().get("schema_translate_map"):
        raise CaptureError(
            f"{hit.name}: schema_translate_map for one statement. Give it to the engine or the Session's connection, "
            "so that all of a transaction is written to, and read from, one schema"
        )


def _flush_as_the_statement_would(state: ORMExecuteState) -> None:
    """Autoflush happens after this event, but our look at the rows has to come after what it writes."""
    session = state.session
    if session.autoflush and not session._flushing and state.execution_options.get("autoflush", True):
        session.flush()


def _run_and_count(state: ORMExecuteState, statement: Update | Delete) -> tuple[Result[Any], int]:
    """Run an UPDATE or DELETE; its result, and how many rows it hit, -1 where the driver does not tell."""
    result = state.invoke_statement(statement=statement)
    if not statement._returning:
        return result, result.rowcount if isinstance(result, CursorResult) else -1
    # What is returned is one row for each; drivers know their number only once all are fetched, if ever.
    frozen = result.freeze()
    shown = frozen()
    shown.rowcount = len(frozen.data)  # type: ignore[attr-defined]
    return shown, len(frozen.data)


def _check_count(count: int, hits: int, hit: Hit) -> None:
    """Raise CaptureError if more rows were hit than were seen under lock.

    Another transaction's came in between, which READ COMMITTED allows.
    """
    if count > hits:
        raise CaptureError(
            f"{hit.name}: the statement changed {count} rows where {hits} were seen just before, since another "
            "transaction committed in between. Nothing is wrong with the data: roll back and run the transaction "
            "again, or use REPEATABLE READ for it"
        )
