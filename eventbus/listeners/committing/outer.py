"""A Session bound to a Connection whose own transaction goes on: its commit is not the commit.

The typical test fixture rolls everything back at the end, through any number of `session.commit()`. So what such a
commit has to tell waits for the Connection's own transaction. Nor is the Session's commit needed: what it has flushed
is committed with the Connection, though the Session be closed, forgotten or still open. It is a guest there, whose
events are written before the Connection's COMMIT.

SQLAlchemy announces a COMMIT before it is sent and says nothing after. Whether it took place shows in what comes next
on that connection: an error or a rollback (it failed), a new transaction, or its return to the pool. If the connection
is lost nobody knows, and the outbox has to be asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Pool, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction

from eventbus.listeners.base import Listener
from eventbus.listeners.recording.ledger import LEDGER, Ledger
from eventbus.listeners.recording.transactional import has_failed

log = logging.getLogger(__name__)


class Waiting(NamedTuple):
    """What is to be done with written events: after the commit, or if nobody knows whether there was one."""

    deliver: Callable[[], None]
    doubt: Callable[[], None]


Write = Callable[[Ledger, Connection], Waiting | None]
"""Writes what a ledger has recorded on a connection into the outbox there."""


class OuterTransactions(Listener):
    """Delivers once the Connection's own transaction is committed, forgets when it is rolled back.

    Several Sessions may be open on one Connection and change the same rows in turns. So what the others have done is
    written before one begins, flushes or executes something (`in_turns`): versions rise with the changes.
    """

    def __init__(self, write: Write, *, in_turns: bool) -> None:
        self._write = write
        self._in_turns = in_turns
        self._watched: WeakKeyDictionary[Connection, _Watched] = WeakKeyDictionary()
        self._pools: WeakKeyDictionary[Pool, _Checkins] = WeakKeyDictionary()
        _OUTER.add(self)

    def before_flush(self, session: Session, flush_context: UOWTransaction, instances: Sequence[Any] | None) -> None:
        """Have the others of its connections written."""
        self._give_way(session)

    def execute(self, state: ORMExecuteState) -> None:
        """The same."""
        self._give_way(state.session)

    def _give_way(self, session: Session) -> None:
        ledger = session.info.get(LEDGER)
        if ledger is not None and ledger.is_guest and self._in_turns:
            for connection, watched in list(self._watched.items()):
                watched.give_way(connection, ledger)

    def wait(self, connection: Connection, waiting: Waiting) -> None:
        """Deliver after the commit of the transaction that is open on this connection now."""
        pending = _Pending(waiting, frozenset(_open_savepoints(connection)))
        self._watch(connection).pending.append(pending)

    def join(self, connection: Connection, ledger: Ledger) -> None:
        """A Session begins to work in the transaction that is open on this connection."""
        guest = _Guest(ledger, frozenset(_open_savepoints(connection)))
        watched = self._watch(connection)
        watched.guests.append(guest)
        if self._in_turns:
            watched.give_way(connection, ledger)

    def leave(self, ledger: Ledger) -> None:
        """The Session's transaction has ended. What it leaves unwritten is the Connection's business now.

        It is written before anybody else changes the same rows, so that versions rise with the changes.
        """
        for connection, watched in list(self._watched.items()):
            watched.leave(connection, ledger)

    def _watch(self, connection: Connection) -> _Watched:
        watched = self._watched.get(connection)
        if watched is None:
            watched = self._watched[connection] = _Watched(connection, self._write)
        pool = connection.engine.pool
        if pool not in self._pools:
            self._pools[pool] = _Checkins(pool)
        if not event.contains(connection.dialect, "handle_error", _see):
            event.listen(connection.dialect, "handle_error", _see)
        self._pools[pool].expect(connection.connection.dbapi_connection, watched)
        return watched

    def failed(self, connection: Connection) -> None:
        """There was an error on this connection."""
        watched = self._watched.get(connection)
        if watched is not None:
            watched.failed()


_OUTER: Final[WeakSet[OuterTransactions]] = WeakSet()


def _see(context: ExceptionContext) -> None:
    if context.connection is not None and not context.is_disconnect:
        for each in list(_OUTER):
            each.failed(context.connection)


class _Guest:
    """A Session in the Connection's transaction, and the Connection's savepoints that this lies in."""

    def __init__(self, ledger: Ledger, savepoints: frozenset[str]) -> None:
        self.ledger = ledger
        self.savepoints = savepoints
        self.has_left = False

    @property
    def has_to_tell(self) -> bool:
        """Whether there is still something to be written for it."""
        return any(frame.records for frame in self.ledger.frames())


class _Pending(NamedTuple):
    """One delivery that waits, and the savepoints it lies in: rolling one of them back takes it along."""

    waiting: Waiting
    savepoints: frozenset[str]


class _Watched:
    """The events of one Connection. They stay registered as long as it lives: it is the application's, and few."""

    def __init__(self, connection: Connection, write: Write) -> None:
        self.pending: list[_Pending] = []
        self.guests: list[_Guest] = []
        self._write = write
        self._committing = False
        self._has_erred = False
        for name in ("commit", "commit_twophase"):
            event.listen(connection, name, self._commits)
        for name in ("rollback", "rollback_twophase"):
            event.listen(connection, name, self._rolls_back)
        for name in ("begin", "begin_twophase"):
            event.listen(connection, name, self._begins)
        event.listen(connection, "rollback_savepoint", self._rolls_back_savepoint)
        event.listen(connection, "prepare_twophase", self._write_for_guests)

    def settled(self) -> None:
        """The connection is free or begins anew: a COMMIT that was announced took place."""
        if not self._committing:
            self.pending = []
            return
        self._committing = False
        pending, self.pending = self.pending, []
        for each in pending:
            each.waiting.deliver()

    def failed(self) -> None:
        """There was an error on the connection: of the COMMIT, if that is under way."""
        self._has_erred = True
        if self._committing:
            self.lost()

    def lost(self) -> None:
        """The connection is no more, or the answer to its COMMIT is none."""
        pending, self.pending = self.pending, []
        for each in pending if self._committing else ():
            each.waiting.doubt()
        self._committing = False

    def _commits(self, connection: Connection, *_: Any) -> None:
        if has_failed(connection, ask=self._has_erred):
            self._rolls_back()
            return
        try:
            self._write_for_guests(connection)
        except BaseException:
            # SQLAlchemy takes a COMMIT that fails for the end of the transaction: nobody else rolls it back.
            connection._rollback_impl()
            raise
        self._committing = True

    def give_way(self, connection: Connection, ledger: Ledger) -> None:
        """Write what other guests than that one have done so far."""
        if any(guest.ledger is ledger for guest in self.guests):
            for guest in self.guests:
                if guest.ledger is not ledger and guest.has_to_tell and _may_write(connection, guest):
                    self._write_for(guest, connection, guest.savepoints)

    def leave(self, connection: Connection, ledger: Ledger) -> None:
        """That guest's Session has ended its transaction, and not this connection's."""
        for guest in [guest for guest in self.guests if guest.ledger is ledger]:
            guest.has_left = True
            try:
                if guest.has_to_tell and _may_write(connection, guest):
                    self._write_for(guest, connection, guest.savepoints)
            except Exception:
                # It is tried again before the COMMIT, which then fails: a Session may be closed in any case. Of a lost
                # connection there is no COMMIT.
                if not connection.invalidated:
                    log.exception("events not written when their Session was closed")
        self._dismiss()

    def _write_for_guests(self, connection: Connection, *_: Any) -> None:
        for guest in self.guests:
            self._write_for(guest, connection, frozenset())
        self._dismiss()

    def _write_for(self, guest: _Guest, connection: Connection, savepoints: frozenset[str]) -> None:
        waiting = self._write(guest.ledger, connection)
        if waiting is not None:
            self.pending.append(_Pending(waiting, savepoints))

    def _dismiss(self) -> None:
        self.guests = [guest for guest in self.guests if not guest.has_left or guest.has_to_tell]

    def _begins(self, *_: Any) -> None:
        self._has_erred = False
        self.settled()

    def _rolls_back(self, *_: Any) -> None:
        self._committing = self._has_erred = False
        self.pending = []
        self._forget(self.guests)

    def _rolls_back_savepoint(self, _: Connection, name: str, __: Any) -> None:
        self.pending = [each for each in self.pending if name not in each.savepoints]
        self._forget([guest for guest in self.guests if name in guest.savepoints])

    def _forget(self, guests: Iterable[_Guest]) -> None:
        """What these have recorded is gone. A Session that is still open may go on to write."""
        for guest in guests:
            for frame in guest.ledger.frames():
                frame.clear()
        self._dismiss()


def _may_write(connection: Connection, guest: _Guest) -> bool:
    """Whether what a guest leaves can be written at once: a savepoint begun since would take along what was before."""
    if not connection.in_transaction() or has_failed(connection, ask=True):
        return False
    return guest.savepoints.issuperset(_open_savepoints(connection))


def _open_savepoints(connection: Connection) -> Iterator[str]:
    nested: Any = connection.get_nested_transaction()
    while nested is not None:
        yield nested._savepoint
        nested = nested._previous_nested


class _Checkins:
    """Connections on their way back into one pool, or out of it."""

    def __init__(self, pool: Pool) -> None:
        self._expected: dict[int, _Watched] = {}
        event.listen(pool, "checkin", self._checkin)
        event.listen(pool, "invalidate", self._lose)

    def expect(self, dbapi_connection: Any, watched: _Watched) -> None:
        self._expected[id(dbapi_connection)] = watched

    def _checkin(self, dbapi_connection: Any, _: Any) -> None:
        watched = self._expected.pop(id(dbapi_connection), None)
        if watched is not None:
            watched.settled()

    def _lose(self, dbapi_connection: Any, *_: Any) -> None:
        watched = self._expected.pop(id(dbapi_connection), None)  # soon that of another connection
        if watched is not None:
            watched.lost()
