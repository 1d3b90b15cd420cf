"""What the open transaction of one Session has changed so far: a frame for it, and one for each savepoint inside.

The ledger lives in `session.info` while there is something to remember and ends with the root transaction, so that
nothing of a dead transaction is left for the next one of a reused Session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction, SessionTransactionOrigin
from sqlalchemy.orm.session import _sessions

from eventbus.events.change import Change, Entity
from eventbus.listeners.recording.frame import Frame

LEDGER: Final = "eventbus.ledger"
"""Key in the `info` of a Session whose transaction has a ledger."""


class TransactionFrame(Frame):
    """A frame, and what was written of it to the outbox so far, to be handed over once its transaction is committed.

    `entries` are the sink's, `told` the changes as hooks see them (none where nobody listens), `written_on` the
    connections that either concerns. `commits`: how many commits have been announced in it. `notes`: what statements
    within the flush that is under way have to record, once it is known what the flush itself did.
    """

    __slots__ = ("commits", "entries", "notes", "told", "written_on")

    def __init__(self) -> None:
        Frame.__init__(self)
        self.entries: list[Any] = []
        self.told: list[tuple[Entity, Change]] = []
        self.written_on: set[Connection] = set()
        self.notes: list[Callable[[Frame], None]] = []
        self.commits = 0

    def absorb(self, child: TransactionFrame) -> None:
        """Take over all of a released savepoint."""
        self.merge(child)
        self.entries += child.entries
        self.notes += child.notes
        self.told += child.told
        self.written_on |= child.written_on
        # One is the savepoint's own; another was the root's, announced while the savepoint was open.
        self.commits += child.commits - 1


class Owner(Protocol):
    """An installation. Once it has `ended` it does not tell of a transaction's end any more."""

    @property
    def ended(self) -> bool: ...


class Ledger:
    """The frames of one Session's open transaction, and what its events have in common.

    `root`: the transaction's frame; `nested`: those of its savepoints.

    `transaction`: its id, empty before the first event: one that changes nothing needs none.
    `owner`: the installation that captures this Session. A Session whose class and base class are both installed is
    captured by one of them, never twice.
    `connections`: where each entity's rows were written, as the flush chose it (a Session may route reads elsewhere).
    `flushed`: the transaction of the last flush that was recorded.
    `outlives`: it goes on to be captured though its installation has ended.
    `is_guest`: the Session is bound to a Connection, whose owner may commit it without the Session.
    """

    __slots__ = (
        "author", "connections", "flushed", "is_guest", "nested", "notes", "outlives", "owner", "root", "size",
        "transaction",
    )  # fmt: skip

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.root = TransactionFrame()
        self.nested: dict[SessionTransaction, TransactionFrame] = {}
        self.connections: dict[Entity, Connection] = {}
        self.author: str | None = None
        self.notes: Mapping[str, str] | None = None
        self.flushed: SessionTransaction | None = None
        self.size = 0
        self.is_guest = False
        self.outlives = False
        self.transaction = ""

    def frames(self) -> list[TransactionFrame]:
        """All frames, that of the transaction first, those of savepoints from the outside in."""
        return [self.root, *(frame for _, frame in sorted(self.nested.items(), key=_depth))]

    def entities_on(self, connection: Connection) -> set[Entity]:
        """Those whose rows were written there."""
        return {entity for entity, written_on in self.connections.items() if written_on is connection}

    def frame(self, session: Session) -> TransactionFrame:
        """The frame of the innermost savepoint, or of the transaction."""
        transaction = session._nested_transaction
        return self.root if transaction is None else self.frame_of(transaction)

    def frame_of(self, transaction: SessionTransaction) -> TransactionFrame:
        """The frame of a savepoint, or of the transaction; a flush has none of its own."""
        while transaction._parent is not None and not transaction.nested:
            transaction = transaction._parent
        if transaction._parent is None:
            return self.root
        frame = self.nested.get(transaction)
        if frame is None:
            frame = self.nested[transaction] = TransactionFrame()
        return frame


def _depth(item: tuple[SessionTransaction, TransactionFrame]) -> int:
    depth, transaction = 0, item[0]
    while transaction._parent is not None:
        depth, transaction = depth + 1, transaction._parent
    return depth


def flush_of(session: Session) -> SessionTransaction | None:
    """The transaction of the flush that writes now, also within savepoints that its events have opened."""
    transaction = session._transaction
    while transaction is not None and transaction.origin is not SessionTransactionOrigin.SUBTRANSACTION:
        transaction = transaction._parent
    return transaction


def open_ledger(session: Session, owner: Owner) -> Ledger | None:
    """The session's ledger, made now if need be; None where another installation captures this session."""
    info = session.info
    ledger: Ledger | None = info.get(LEDGER)
    if ledger is None or (ledger.owner.ended and not ledger.outlives):
        ledger = info[LEDGER] = Ledger(owner)
    return ledger if ledger.owner is owner else None


def open_ledgers(owner: Any) -> list[tuple[Session, Ledger]]:
    """The Sessions of the process whose open transaction this installation has recorded something of."""
    sessions = [session for session in list(_sessions.values()) if "info" in session.__dict__]
    found = [(session, session.info.get(LEDGER)) for session in sessions]
    return [(session, ledger) for session, ledger in found if ledger is not None and ledger.owner is owner]
