"""Savepoints that the application has begun on the Session's Connection itself: no event of the Session tells of them.

Where one is open when something is recorded, what was recorded before is kept, and comes back if it is rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, NestedTransaction, event
from sqlalchemy.orm import Session

from eventbus.listeners.recording.frame import Frame
from eventbus.listeners.recording.ledger import Ledger

_ENDS: Final = ("commit", "rollback", "commit_twophase", "rollback_twophase")

Kept = list[tuple[Frame, Frame]]
"""Each frame of a ledger, and what was in it of one connection's rows."""


class ForeignSavepoints:
    """Those of one installation's Sessions."""

    def __init__(self) -> None:
        self._watched: WeakKeyDictionary[Connection, _Watched] = WeakKeyDictionary()

    def notice(self, session: Session, connection: Connection, ledger: Ledger) -> None:
        """Something that the Session wrote on this connection is about to be recorded."""
        nested: Any = connection._nested_transaction
        if nested is None:
            return
        own = set(_own(session, connection))
        while nested is not None:
            if nested not in own:
                self._keep(connection, nested._savepoint, ledger)
            nested = nested._previous_nested

    def _keep(self, connection: Connection, savepoint: str, ledger: Ledger) -> None:
        watched = self._watched.get(connection)
        if watched is None:
            watched = self._watched[connection] = _Watched(connection)
        kept = watched.kept.setdefault(savepoint, {})
        if ledger not in kept:
            kept[ledger] = [(frame, frame.copied(ledger.entities_on(connection))) for frame in ledger.frames()]


class _Watched:
    """What was recorded before each savepoint of one connection, by its name."""

    def __init__(self, connection: Connection) -> None:
        self.kept: dict[str, dict[Ledger, Kept]] = {}
        event.listen(connection, "rollback_savepoint", self._roll_back)
        event.listen(connection, "release_savepoint", self._release)
        for name in _ENDS:
            event.listen(connection, name, self._end)

    def _roll_back(self, connection: Connection, savepoint: str, _: Any) -> None:
        for ledger, kept in self.kept.pop(savepoint, {}).items():
            for frame, before in kept:
                frame.split(ledger.entities_on(connection))
                frame.merge(before)

    def _release(self, _: Connection, savepoint: str, __: Any) -> None:
        self.kept.pop(savepoint, None)

    def _end(self, *_: Any) -> None:
        self.kept.clear()


def _own(session: Session, connection: Connection) -> Iterator[NestedTransaction]:
    transaction = session._transaction
    while transaction is not None:
        held = transaction._connections.get(connection)
        if held is not None and isinstance(held[1], NestedTransaction):
            yield held[1]
        transaction = transaction._parent
