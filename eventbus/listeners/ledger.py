"""What the open transaction of one Session has changed so far: a frame for it, and one for each savepoint inside.

The ledger lives in `session.info` while there is something to remember and ends with the root transaction, so that
nothing of a dead transaction is left for the next one of a reused Session.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction

from eventbus.changes import Change, Entity, Frame
from eventbus.ids import uuid7

_LEDGER: Final = "eventbus.ledger"


class TransactionFrame(Frame):
    """A frame, and what was written of it to the outbox so far, to be handed over once its transaction is committed.

    `entries` are the sink's, `told` the changes as hooks see them (none where nobody listens), `written_on` the
    connections that either concerns. `commits`: how many commits have been announced in it.
    """

    __slots__ = ("commits", "entries", "told", "written_on")

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Any] = []
        self.told: list[tuple[Entity, Change]] = []
        self.written_on: set[Connection] = set()
        self.commits = 0

    def absorb(self, child: TransactionFrame) -> None:
        """Take over all of a released savepoint."""
        self.merge(child)
        self.entries += child.entries
        self.told += child.told
        self.written_on |= child.written_on


class Ledger:
    """The frames of one Session's open transaction, and what its events have in common.

    `owner`: the installation that captures this Session. A Session whose class and base class are both installed is
    captured by one of them, never twice.
    `connections`: where each entity's rows were written, as the flush chose it (a Session may route reads elsewhere).
    `closing`: the root commit has begun and written its events; what still comes is written at once.
    """

    __slots__ = ("_transaction", "author", "closing", "connections", "frames", "owner", "size")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.frames: dict[SessionTransaction, TransactionFrame] = {}
        self.connections: dict[Entity, Connection] = {}
        self.author: str | None = None
        self.size = 0
        self.closing = False
        self._transaction = ""

    @property
    def transaction(self) -> str:
        """The id of the transaction. Made at its first use: one that changes nothing needs none."""
        if not self._transaction:
            self._transaction = uuid7()
        return self._transaction

    def frame(self, session: Session) -> TransactionFrame:
        """The frame of the innermost savepoint, or of the transaction."""
        transaction: Any = session._nested_transaction
        if transaction is None:
            transaction = session._transaction
            while transaction._parent is not None:  # a flush has a transaction of its own
                transaction = transaction._parent
        frame = self.frames.get(transaction)
        if frame is None:
            frame = self.frames[transaction] = TransactionFrame()
        return frame


def ledger_of(session: Session) -> Ledger | None:
    """The session's ledger, if its transaction has changed anything."""
    return session.info.get(_LEDGER)


def open_ledger(session: Session, owner: object) -> Ledger | None:
    """The session's ledger, made now if need be; None where another installation captures this session."""
    info = session.info
    ledger: Ledger | None = info.get(_LEDGER)
    if ledger is None:
        ledger = info[_LEDGER] = Ledger(owner)
    return ledger if ledger.owner is owner else None


def drop_ledger(session: Session) -> None:
    """Forget everything: the root transaction has ended."""
    session.info.pop(_LEDGER, None)
