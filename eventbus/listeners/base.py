"""The moments of a Session, and the one place where listeners are hooked to them.

A `Listener` overrides the moments it cares about; the others cost nothing: only overridden methods are registered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, event
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, UOWTransaction

from eventbus.events.change import Change
from eventbus.listeners.last_flush import on_clean
from eventbus.listeners.recording.ledger import LEDGER, Ledger, open_ledgers

log = logging.getLogger(__name__)


class Listener:
    """Base of all listeners: one no-op method a moment, named after it. Override what you need, pass it to `install`.

    The errors of a listener given to `install(listeners=[…])` are logged with its name and go no further, so that a
    broken one breaks no commit. With `critical = True` those raised up to `before_commit` reach the caller and stop the
    flush or commit (for a rule that must hold); after the commit nothing ever does.

    `after_flush` and `execute` run inside the transaction: use `session.connection()` there, never the Session's own
    `execute`. From `after_commit` on there is no transaction; whoever needs the database opens a Session of its own.
    """

    critical = False

    def installed(self, session_class: type[Session]) -> None:
        """This listener is about to be registered for all Sessions of that class."""

    def uninstalled(self, session_class: type[Session]) -> None:
        """The installation has ended."""

    def begin(self, session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        """A transaction or savepoint has begun on a connection."""

    def before_flush(self, session: Session, flush_context: UOWTransaction, instances: Sequence[Any] | None) -> None:
        """Pending changes are about to be written. The last chance to change objects."""

    def after_flush(self, session: Session, flush_context: UOWTransaction) -> None:
        """Pending changes have been written; attribute histories still show what."""

    def execute(self, state: ORMExecuteState) -> Any:
        """A statement is about to run through the Session. A result given back replaces running it."""

    def before_commit(self, session: Session) -> None:
        """A commit, or the release of a savepoint (`in_nested_transaction()`), has begun; nothing is flushed yet."""

    def after_commit(self, session: Session) -> None:
        """A commit or release has succeeded; no SQL is possible here."""

    def after_rollback(self, session: Session) -> None:
        """A transaction or savepoint was rolled back. Not told of `close()` without commit: see `transaction_end`."""

    def transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """A transaction, savepoint (`transaction.nested`) or flush (has a `parent`) has ended, in whichever way."""

    def changed(self, change: Change) -> None:
        """A record was changed by a transaction that is now committed. Once a record, in index order."""

    @property
    def name(self) -> str:
        """How this listener is called in logs."""
        return f"{type(self).__module__}.{type(self).__qualname__}"


def register(
    session_class: type[Session],
    *,
    auto_fields: Listener | None,
    capture: Listener,
    bulk: Listener | None,
    transaction: Any,
    others: Sequence[Listener] = (),
) -> Callable[[], None]:
    """Hook everything to the Sessions of one class, in firing order; returns what takes it all away again.

    `others` are the application's own listeners. They come before ours as long as changes may still be made, so that
    theirs are stamped, captured and written; and after ours once the transaction is committed.
    """
    hooks = _Hooks(session_class)
    theirs = [_Guarded(listener) for listener in others]
    ours = [listener for listener in (auto_fields, capture, bulk, transaction) if listener is not None]

    for listener in (*ours, *theirs):
        hooks.install(listener)

    moments = _Moments(theirs, auto_fields, capture, bulk, transaction)
    moments.add_to(hooks)

    def remove() -> None:
        hooks.remove()
        # A transaction that has changed something is captured to its end: its rows will be committed all the same.
        for session, ledger in open_ledgers(capture):
            ledger.outlives = True
            moments.add_to(_Hooks(session, while_=partial(_goes_on, session, ledger)))
            on_clean(session, partial(_call_while, partial(_goes_on, session, ledger), transaction.is_clean))

    return remove


def _goes_on(session: Session, ledger: Ledger) -> bool:
    return session.info.get(LEDGER) is ledger


def _call_while(goes_on: Callable[[], bool], function: Callable[..., Any], *args: Any) -> Any:
    return function(*args) if goes_on() else None


class _Moments(NamedTuple):
    """The listeners of one installation, and the moments each is told of, in firing order."""

    theirs: Sequence[Any]
    auto_fields: Listener | None
    capture: Listener
    bulk: Listener | None
    transaction: Any

    def add_to(self, hooks: _Hooks) -> None:
        theirs, auto_fields, capture, bulk, transaction = self
        # A transaction begins.
        hooks.add("after_begin", "begin", transaction, bulk, *theirs)
        # Objects are written: fields are filled in, then SQL runs, then what it did is noted.
        hooks.add("before_flush", "before_flush", *theirs, auto_fields, capture, transaction.outer)
        # What another listener does to the objects after the flush is not in the rows.
        hooks.add("after_flush", "after_flush", capture, *theirs, first=True)
        # A statement is executed.
        hooks.add("do_orm_execute", "execute", *theirs, transaction.outer, bulk)
        # The commit: one change a record, to bytes, into the outbox.
        hooks.add("before_commit", "before_commit", *theirs, transaction)
        # Committed. Ours goes first: what another listener raises here must not hide from us that the rows are there.
        hooks.add("after_commit", "after_commit", transaction, *theirs, first=True)
        hooks.add("after_rollback", "after_rollback", *theirs)
        # The end, whichever it was: publish or forget, then hooks.
        hooks.add("after_transaction_end", "transaction_end", transaction, *theirs)


class _Hooks:
    """What was registered for one class, or for one Session `while_` that says so, and how to take it back."""

    def __init__(self, target: type[Session] | Session, *, while_: Callable[[], bool] | None = None) -> None:
        self._target = target
        self._while = while_
        self._undo: list[Callable[[], None]] = []

    def install(self, listener: Any) -> None:
        listener.installed(self._target)
        self._undo.append(lambda: listener.uninstalled(self._target))

    def add(self, moment: str, method: str, *listeners: Any, first: bool = False) -> None:
        """Register `method` of each listener that overrides it, in this order, at the end or the front of the queue."""
        chosen = [getattr(each, method) for each in listeners if each is not None and _overrides(each, method)]
        if self._while is not None:
            chosen = [partial(_call_while, self._while, function) for function in chosen]
        for function in reversed(chosen) if first else chosen:
            event.listen(self._target, moment, function, insert=first)
            self._undo.append(partial(unlisten, self._target, moment, function))

    def remove(self) -> None:
        while self._undo:
            self._undo.pop()()


def unlisten(target: Any, moment: str, function: Callable[..., Any]) -> None:
    """Take a listener away, if nobody has: tests of a program may have taken away all of a Session."""
    if event.contains(target, moment, function):
        event.remove(target, moment, function)


class _Guarded:
    """An application's listener whose errors are logged and kept, but those of a critical one before the commit."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        for method in _MOMENTS:
            stops = listener.critical and method in _STOPPABLE
            function = getattr(listener, method)
            setattr(self, method, function if stops else self._keep(method, function))

    def _keep(self, method: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            try:
                return function(*args)
            except Exception:
                log.exception(
                    "listener %s failed in %s",
                    self.listener.name,
                    method,
                    extra={"listener": self.listener.name, "moment": method},
                )
                return None

        return guarded


def _overrides(listener: Any, method: str) -> bool:
    kind = type(listener.listener if isinstance(listener, _Guarded) else listener)
    return getattr(kind, method) is not getattr(Listener, method)


_STOPPABLE = ("installed", "begin", "before_flush", "after_flush", "execute", "before_commit")
_MOMENTS = (*_STOPPABLE, "uninstalled", "after_commit", "after_rollback", "transaction_end", "changed")
