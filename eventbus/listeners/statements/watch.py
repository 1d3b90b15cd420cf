"""Watches the connections of a Session while it runs a statement: every UPDATE, DELETE and INSERT that is sent there.

The flush is captured by itself (`capture`), so what it sends is passed over. Listeners are put on a Connection when the
first statement of a Session meets it, and stay; with no statement under way they do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Insert, event
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.sql.dml import UpdateBase

from eventbus.listeners.statements.execution import Execution
from eventbus.listeners.statements.returning import without_rows

SCOPES: Final = "eventbus.statements"
"""Key in a Session's `info`: the statements it runs now, the innermost last."""


class Scope:
    """A statement or bulk method under way. `captures`: whether what it sends is captured.

    `within_flush`: it began in a flush (a mapper's event), so that what it sends is none of the flush's own. `bulk`: it
    is one of the Session's bulk methods, which say of themselves that they flush.
    """

    __slots__ = ("bulk", "captures", "mapper", "session", "watches", "within_flush")

    def __init__(self, session: Session, *, captures: bool, mapper: Mapper[Any] | None, bulk: bool) -> None:
        self.bulk = bulk
        self.session = session
        self.captures = captures
        self.mapper = mapper
        self.within_flush = session._flushing
        self.watches: list[_Watch] = []

    @property
    def listens(self) -> bool:
        return self.captures and (self.bulk or self.within_flush or not self.session._flushing)


Begin = Callable[[Scope, Connection, Any], Execution | None]
"""Prepares for what a context is about to send; None where nothing of it is captured."""
Prepare = Callable[[Scope, Connection, Insert, Sequence[Any]], Insert]
"""An INSERT of many rows, made to give back their keys if nothing else tells these."""
Failed = Callable[[Execution, DBAPIError], None]
"""Is told of one that the database has refused, perhaps in its middle."""


class Watches:
    """All watched connections of one installation."""

    def __init__(self, begin: Begin, prepare: Prepare, failed: Failed) -> None:
        self._begin = begin
        self._prepare = prepare
        self._failed = failed
        self._watches: WeakKeyDictionary[Connection, _Watch] = WeakKeyDictionary()

    @contextmanager
    def watching(
        self, session: Session, *, captures: bool, mapper: Mapper[Any] | None = None, bulk: bool = False
    ) -> Iterator[None]:
        """Capture what the Session sends within the block; or pass it over, within a block that captures."""
        scope = Scope(session, captures=captures, mapper=mapper, bulk=bulk)
        scopes: list[Scope] = session.info.setdefault(SCOPES, [])
        scopes.append(scope)
        try:
            for connection in _connections(session):
                self._join(scope, connection)
            yield
        except DBAPIError as error:
            for watch in scope.watches:
                watch.fail(error)
            raise
        finally:
            for watch in scope.watches:
                watch.leave(scope)
            scopes.remove(scope)
            if not scopes:
                session.info.pop(SCOPES, None)

    def is_watching(self, session: Session) -> bool:
        return SCOPES in session.info

    def begun(self, session: Session, connection: Connection) -> None:
        """The Session has a transaction on this connection now."""
        for scope in session.info.get(SCOPES, ()):
            self._join(scope, connection)

    def _join(self, scope: Scope, connection: Connection) -> None:
        watch = self._watches.get(connection)
        if watch is None:
            watch = self._watches[connection] = _Watch(self._begin, self._prepare, self._failed)
            watch.listen(connection)
        if watch not in scope.watches:
            scope.watches.append(watch)
            watch.scopes.append(scope)


class _Watch:
    """The listeners on one connection."""

    def __init__(self, begin: Begin, prepare: Prepare, failed: Failed) -> None:
        self.scopes: list[Scope] = []
        self._begin = begin
        self._prepare = prepare
        self._failed = failed
        self._execution: Execution | None = None
        self._made_to_tell = False

    def listen(self, connection: Connection) -> None:
        event.listen(connection, "before_execute", self._before_execute, retval=True)
        event.listen(connection, "before_cursor_execute", self._before_cursor_execute, retval=True)
        event.listen(connection, "after_cursor_execute", self._after_cursor_execute)
        event.listen(connection, "after_execute", self._after_execute)

    def leave(self, scope: Scope) -> None:
        """The statement is over. What it began, if something failed, is let go of, which would hold the connection."""
        self.scopes.remove(scope)
        if not self.scopes:
            self._execution = None

    def fail(self, error: DBAPIError) -> None:
        """The database has refused what is under way."""
        failed, self._execution = self._execution, None
        if failed is not None:
            failed.blame(error)
            self._failed(failed, error)

    def _scope(self) -> Scope | None:
        scope = self.scopes[-1] if self.scopes else None
        return scope if scope is not None and scope.listens else None

    def _before_execute(
        self, connection: Connection, statement: Any, many: Any, parameters: Any, options: Any
    ) -> tuple[Any, Any, Any]:
        if isinstance(statement, UpdateBase):
            self._execution = None
            scope = self._scope()
            given = statement
            if scope is not None and many and isinstance(statement, Insert):
                statement = self._prepare(scope, connection, statement, many)
            self._made_to_tell = statement is not given
        return statement, many, parameters

    def _before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        scope = self._scope()
        if scope is None or not _is_dml(context, statement, many=many):
            return statement, parameters
        execution = self._execution
        if execution is None or execution.context is not context:
            execution = self._execution = self._begin(scope, connection, context)
        return statement if execution is None else execution.text(statement), parameters

    def _after_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        execution = self._execution
        if execution is not None and execution.context is context:
            execution.has_run(cursor)

    def _after_execute(
        self, connection: Connection, statement: Any, many: Any, parameters: Any, options: Any, result: Any
    ) -> None:
        execution = self._execution
        if execution is not None and getattr(result, "context", None) is execution.context:
            self._execution = None
            if self._made_to_tell:
                without_rows(result)
                execution.seem_untold()
            execution.finish()


def _is_dml(context: Any, statement: str, *, many: bool) -> bool:
    """Whether this is what the context is for, and not a default or sequence that it asks for first."""
    if context is None or context.compiled is None or not (context.isinsert or context.isupdate or context.isdelete):
        return False
    own = getattr(context, "statement", None)  # not made yet while a sequence is asked for the key
    if own is None:
        return False
    return own in statement or (many and context.execute_style is ExecuteStyle.INSERTMANYVALUES)


def _connections(session: Session) -> Iterator[Connection]:
    transaction = session._transaction
    while transaction is not None:
        yield from (each for each in list(transaction._connections) if isinstance(each, Connection))
        transaction = transaction._parent
