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


class Sealed:
    """What a frame's transaction has put into the outbox so far, to be handed over once it is committed.

    `entries` are the sink's, `records` the changes as hooks see them (none where nobody listens).
    """

    __slots__ = ("connections", "entries", "records")

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.records: list[tuple[Entity, Change]] = []
        self.connections: set[Connection] = set()

    def merge(self, other: Sealed) -> None:
        """Take over what a released savepoint wrote."""
        self.entries += other.entries
        self.records += other.records
        self.connections |= other.connections


class TransactionFrame(Frame):
    """A frame and what was already written of it."""

    __slots__ = ("commits", "sealed")

    def __init__(self) -> None:
        super().__init__()
        self.sealed: Sealed | None = None
        self.commits = 0

    def absorb(self, child: TransactionFrame) -> None:
        """Take over all of a released savepoint."""
        self.merge(child)
        if child.sealed is not None:
            self.seal().merge(child.sealed)

    def seal(self) -> Sealed:
        """What was written; made at its first use."""
        if self.sealed is None:
            self.sealed = Sealed()
        return self.sealed


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
        transaction = session.get_nested_transaction() or session.get_transaction()
        frame = self.frames.get(transaction)  # type: ignore[arg-type]
        if frame is None:
            frame = self.frames[transaction] = TransactionFrame()  # type: ignore[index]
        return frame


def ledger_of(session: Session) -> Ledger | None:
    """The session's ledger, if its transaction has changed anything."""
    return session.info.get(_LEDGER)


def open_ledger(session: Session, owner: object) -> Ledger | None:
    """The session's ledger, made now if need be; None where another installation captures this session."""
    ledger: Ledger | None = session.info.get(_LEDGER)
    if ledger is None:
        ledger = session.info[_LEDGER] = Ledger(owner)
    return ledger if ledger.owner is owner else None


def drop_ledger(session: Session) -> None:
    """Forget everything: the root transaction has ended."""
    session.info.pop(_LEDGER, None)
