"""A Session bound to a Connection whose own transaction goes on: its commit is not the commit.

The typical test fixture rolls everything back at the end, through any number of `session.commit()`. So what such a
commit has to tell waits for the Connection's own transaction.

SQLAlchemy announces a COMMIT before it is sent and says nothing after. Whether it took place shows in what comes next
on that connection: a rollback (the COMMIT failed), a new transaction, or its return to the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Pool, event

from eventbus.listeners.transactional import has_failed

Deliver = Callable[[], None]


class OuterTransactions:
    """Delivers once the Connection's own transaction is committed, forgets when it is rolled back."""

    def __init__(self) -> None:
        self._watched: WeakKeyDictionary[Connection, _Watched] = WeakKeyDictionary()
        self._pools: WeakKeyDictionary[Pool, _Checkins] = WeakKeyDictionary()

    def wait(self, connection: Connection, deliver: Deliver) -> None:
        """Call `deliver` after the commit of the transaction that is open on this connection now."""
        watched = self._watched.get(connection)
        if watched is None:
            watched = self._watched[connection] = _Watched(connection)
        watched.pending.append(_Pending(deliver, frozenset(_open_savepoints(connection))))
        pool = connection.engine.pool
        if pool not in self._pools:
            self._pools[pool] = _Checkins(pool)
        self._pools[pool].expect(connection.connection.dbapi_connection, watched)


class _Pending(NamedTuple):
    """One delivery that waits, and the savepoints it lies in: rolling one of them back takes it along."""

    deliver: Deliver
    savepoints: frozenset[str]


class _Watched:
    """The events of one Connection. They stay registered as long as it lives: it is the application's, and few."""

    def __init__(self, connection: Connection) -> None:
        self.pending: list[_Pending] = []
        self._committing = False
        for name in ("commit", "commit_twophase"):
            event.listen(connection, name, self._commits)
        for name in ("rollback", "rollback_twophase"):
            event.listen(connection, name, self._rolls_back)
        for name in ("begin", "begin_twophase"):
            event.listen(connection, name, self._begins)
        event.listen(connection, "rollback_savepoint", self._rolls_back_savepoint)

    def settled(self) -> None:
        """The connection is free or begins anew: a COMMIT that was announced took place."""
        if not self._committing:
            self.pending = []
            return
        self._committing = False
        pending, self.pending = self.pending, []
        for each in pending:
            each.deliver()

    def _commits(self, connection: Connection, *_: Any) -> None:
        if has_failed(connection):
            self._rolls_back()
        else:
            self._committing = True

    def _begins(self, *_: Any) -> None:
        self.settled()

    def _rolls_back(self, *_: Any) -> None:
        self._committing = False
        self.pending = []

    def _rolls_back_savepoint(self, _: Connection, name: str, __: Any) -> None:
        self.pending = [each for each in self.pending if name not in each.savepoints]


def _open_savepoints(connection: Connection) -> Iterator[str]:
    nested: Any = connection.get_nested_transaction()
    while nested is not None:
        yield nested._savepoint
        nested = nested._previous_nested


class _Checkins:
    """Connections on their way back into one pool."""

    def __init__(self, pool: Pool) -> None:
        self._expected: dict[int, _Watched] = {}
        event.listen(pool, "checkin", self._checkin)

    def expect(self, dbapi_connection: Any, watched: _Watched) -> None:
        self._expected[id(dbapi_connection)] = watched

    def _checkin(self, dbapi_connection: Any, _: Any) -> None:
        watched = self._expected.pop(id(dbapi_connection), None)
        if watched is not None:
            watched.settled()
