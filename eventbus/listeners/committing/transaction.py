"""The transaction: its frames, its commit, its end.

The three signals that tell a commit from all other ends: a frame is marked in `after_commit`, and when its transaction
ends a marked savepoint's frame merges into its parent's, a marked root's is published, an unmarked one is dropped (a
rollback, a failed flush or commit, `close()`, a cancelled task: not all of them have an event of their own).

Events are written to the outbox between the last flush of the root's commit and its COMMIT (see `last_flush`), while
the rows changed are locked; so one write folds whatever other listeners did in the course of that commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.orm import Session, SessionTransaction

from eventbus.events.change import MISSING, Change, Entity
from eventbus.events.envelope import Batch
from eventbus.events.ids import uuid7
from eventbus.listeners import hooks
from eventbus.listeners.base import Listener
from eventbus.listeners.capture import Capture
from eventbus.listeners.committing.encoding import Asked, Encoder, Envelope, UnreadError, envelope_of
from eventbus.listeners.committing.missing_values import complete, forget_unfit, forget_untouched
from eventbus.listeners.committing.outer import OuterTransactions, Waiting
from eventbus.listeners.flushing.savepoint_leftovers import note_leftovers
from eventbus.listeners.last_flush import on_clean
from eventbus.listeners.recording.database_rollback import DatabaseRollbacks, unless_failed
from eventbus.listeners.recording.frame import Net, Recorded
from eventbus.listeners.recording.ledger import LEDGER, Ledger, TransactionFrame, open_ledger, open_ledgers
from eventbus.listeners.recording.transactional import autocommits, note_autocommit, warn_of_hidden_commit
from eventbus.muting import MUTED
from eventbus.process import failpoints
from eventbus.records.expressions import is_expression

log = logging.getLogger(__name__)

_VERBS: dict[str, Literal["created", "updated", "deleted"]] = {"c": "created", "u": "updated", "d": "deleted"}

Joined = Literal["wait", "deliver"]


class Sink(Protocol):
    """Where a transaction's events go. Its entries mean nothing here; they come back as they were given."""

    def write(self, connection: Connection, batch: Batch, *, committing: bool) -> Sequence[Any]:
        """Store the events in the connection's transaction. What it raises fails the commit.

        `committing`: the transaction's COMMIT follows at once.
        """

    def submit(self, entries: Sequence[Any]) -> None:
        """The transaction is committed. Must not block, raise or use the Session."""

    def doubt(self, entries: Sequence[Any]) -> None:
        """The commit failed, or only the database's answer was lost. Must not block, raise or use the Session."""


class Transactions(Listener):
    """Follows the Session's transactions and publishes those that commit.

    `listeners` are told of each change after the commit (`Listener.changed`), as are the functions of `listens_for`.

    `reread`: at the commit, read the columns that an update left alone from the rows instead of taking them from the
    objects. It costs one SELECT an entity, and is exact also where two transactions change different columns of one row
    at a time, each with an object loaded before the other's commit.

    `joined`: what the commit of a Session means that is bound to a Connection whose own transaction goes on. "wait" for
    that one's commit; or "deliver" at once, for tests that roll everything back at their end.
    """

    critical = True

    def __init__(
        self,
        capture: Capture,
        encoder: Encoder,
        sink: Sink,
        *,
        listeners: Sequence[Listener] = (),
        reread: bool = False,
        joined: Joined = "wait",
    ) -> None:
        self._capture = capture
        self._reread = reread
        self._joined = joined
        self._encoder = encoder
        self._sink = sink
        self.outer = OuterTransactions(self._write_for_guest, in_turns=joined == "wait")
        self._database_rollbacks = DatabaseRollbacks(self._forget)
        self._told = [each.changed for each in listeners if type(each).changed is not Listener.changed]
        self._undo: dict[Any, Callable[[], None]] = {}

    def installed(self, session_class: type[Session]) -> None:
        """Be told of the end of each commit's last flush."""
        self._undo[session_class] = on_clean(session_class, self.is_clean)

    def uninstalled(self, session_class: type[Session]) -> None:
        self._undo.pop(session_class)()
        if not self._undo:
            self._database_rollbacks.stop()

    def begin(self, session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        """Look at connections without transactions, and at savepoints that come before anything was written."""
        self._database_rollbacks.watch(connection)
        if not transaction.nested:
            if _is_guest(transaction, connection):
                self._join(session, connection)
            if autocommits(connection, begins=True):
                note_autocommit(session, connection)
                if session._flushing and MUTED not in session.info:
                    self._capture.check_flush(session)
        elif MUTED not in session.info:
            ledger = session.info.get(LEDGER)
            if ledger is None or connection not in ledger.connections.values():
                warn_of_hidden_commit(connection)

    def before_commit(self, session: Session) -> None:
        """Note that a commit has begun: of the innermost savepoint, or of the root, which is told of before those."""
        # Nothing may have changed so far, but the commit's own flush may be the first to do so.
        ledger = open_ledger(session, self._capture)
        if ledger is not None:
            ledger.frame(session).commits += 1

    def is_clean(self, session: Session) -> None:
        """Write the events, if this is the root's commit and its last flush is done."""
        ledger = session.info.get(LEDGER)
        if ledger is None or not ledger.root.commits or ledger.owner is not self._capture:
            return
        transaction = session._transaction
        if transaction is None or transaction._parent is not None or not transaction.is_active:
            return  # a savepoint is released on the way, or all is rolled back
        if ledger.root.records:
            with unless_failed(ledger.root.clear):
                self._write(ledger, ledger.root, partial(_commits, transaction))
        failpoints.hit("before_commit")

    def after_commit(self, session: Session) -> None:
        """Mark the frame. Before other listeners, so that what they raise does not hide the commit from us."""
        failpoints.hit("after_commit")
        ledger = session.info.get(LEDGER)
        if ledger is not None and ledger.owner is self._capture:
            ledger.frame(session).committed = True

    def transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Publish, merge or forget."""
        parent = transaction._parent
        if parent is not None and not transaction.nested:
            return  # a flush has ended
        ledger = session.info.get(LEDGER)
        if ledger is None or ledger.owner is not self._capture:
            return
        if parent is None:
            del session.info[LEDGER]
            frame = ledger.root
            if ledger.is_guest:
                self.outer.leave(ledger)
            if frame.written_on:
                if frame.committed:
                    self._publish(frame)
                else:
                    self._sink.doubt(frame.entries)
        else:
            savepoint = ledger.nested.pop(transaction, None)
            if savepoint is None:
                return
            if savepoint.committed:
                ledger.frame_of(parent).absorb(savepoint)
            elif savepoint.records:
                note_leftovers(session, savepoint)

    def _forget(self, connection: Connection) -> None:
        """The database has undone what was written on this connection: nothing is left to tell of it."""
        for _, ledger in open_ledgers(self._capture):
            for frame in ledger.frames():
                frame.split(ledger.entities_on(connection))

    def _join(self, session: Session, connection: Connection) -> None:
        ledger = open_ledger(session, self._capture)
        if ledger is not None:
            ledger.is_guest = True
            self.outer.join(connection, ledger)

    def _write_for_guest(self, ledger: Ledger, connection: Connection) -> Waiting | None:
        """Write what a Session has done on a Connection that is about to commit by itself."""
        whole = TransactionFrame()
        for frame in ledger.frames():
            whole.merge(frame.split(ledger.entities_on(connection)))
        if not whole.records:
            return None
        try:
            self._write(ledger, whole, lambda _: False)
        except BaseException:
            ledger.root.merge(whole)
            raise
        return self._waiting(whole)

    def _write(
        self, ledger: Ledger, frame: TransactionFrame, commits: Callable[[Connection], bool], asked: Asked = ()
    ) -> None:
        """Put the frame's net changes into the outbox of each database concerned, and forget them."""
        if frame.partial or self._reread:
            self._complete(ledger, frame)
        net, quiet = frame.net()
        told = self._told or hooks.registered
        if net or (quiet and told):
            if not ledger.transaction:
                ledger.transaction = uuid7()
            shared = envelope_of(ledger.transaction, ledger.author, ledger.size + len(net), ledger.notes)
            parts = _by_connection(ledger, net)
            try:
                batches = _batches(self._encoder, parts, shared, ledger.size, asked)
            except UnreadError as unread:
                forget_unfit(frame, unread.column)
                self._write(ledger, frame, commits, {*asked, unread.column})
                return
            entries: list[Any] = []
            for connection, batch in batches:
                entries += self._sink.write(connection, batch, committing=commits(connection))
                frame.written_on.add(connection)
            frame.entries += entries
            if told:
                frame.written_on.update(ledger.connections[record.entity] for record, _ in quiet)
                written = [each for _, part in parts for each in part]
                frame.told += _changes([*written, *quiet], shared, ledger.size)
            ledger.size += len(net)
        frame.clear()

    def _complete(self, ledger: Ledger, frame: TransactionFrame) -> None:
        lacking = frame.partial
        if self._reread:
            lacking = lacking | {entity for entity in frame.records if forget_untouched(frame, entity)}
        for entity in lacking:
            if frame.records.get(entity):
                connection = ledger.connections[entity]
                complete(frame, entity, self._capture.needed(entity, connection), connection)

    def _publish(self, frame: TransactionFrame) -> None:
        for connection in frame.written_on if self._joined == "wait" else ():
            if connection.in_transaction():
                self.outer.wait(connection, self._waiting(frame))
                return
        self._deliver(frame)

    def _waiting(self, frame: TransactionFrame) -> Waiting:
        return Waiting(partial(self._deliver, frame), partial(self._sink.doubt, frame.entries))

    def _deliver(self, frame: TransactionFrame) -> None:
        """After the commit nothing may raise: the rows are there, whatever we do."""
        try:
            if frame.entries:
                self._sink.submit(frame.entries)
        except Exception:
            log.exception("events not handed over; they wait in the outbox", extra={"entries": len(frame.entries)})
        for entity, change in frame.told:
            hooks.tell(entity, change, self._told)


def _batches(
    encoder: Encoder, parts: Sequence[tuple[Connection, list[Net]]], shared: Envelope, index: int, asked: Asked
) -> list[tuple[Connection, Batch]]:
    """The events of each database. Raises UnreadError where a row has to be read first."""
    batches = []
    for connection, part in parts:
        keys, bodies = encoder.events(part, shared, connection.dialect, index, asked)
        batches.append((connection, Batch(0, shared.transaction, keys, bodies, index)))
        index += len(part)
    return batches


def _commits(root: SessionTransaction, connection: Connection) -> bool:
    """Whether the Session's commit is that connection's COMMIT, and not a part of what goes on after it."""
    if connection not in root._connections:
        return False
    _, transaction, commits, _ = root._connections[connection]
    return commits and not isinstance(transaction, NestedTransaction)


def _is_guest(root: SessionTransaction, connection: Connection) -> bool:
    """Whether the Session is bound to a Connection, whose owner may commit it without the Session."""
    is_closed_with_the_session: bool = root._connections[connection][3]
    return not is_closed_with_the_session


def _by_connection(ledger: Ledger, net: list[Net]) -> Sequence[tuple[Connection, list[Net]]]:
    connections = ledger.connections
    used = set(connections.values())
    if len(used) == 1 and net:
        return [(used.pop(), net)]
    parts: dict[Connection, list[Net]] = {}
    for each in net:
        parts.setdefault(connections[each[0].entity], []).append(each)
    return list(parts.items())


def _changes(net: Sequence[Net], shared: Envelope, first: int) -> Iterator[tuple[Entity, Change]]:
    for index, (record, changed) in enumerate(net, first):
        entity, after = record.entity, record.after
        yield (
            entity,
            Change(
                op=_VERBS[record.op],
                entity=entity.name,
                model=entity.model,
                pk=record.pk,
                before=_told(_old(record, changed).items()),
                after=None if after is None else _told(zip(entity.keys, after, strict=True)),
                changed=tuple(record.changed()),
                author=shared.author,
                transaction=shared.transaction,
                index=index,
                size=shared.size,
            ),
        )


def _old(record: Recorded, changed: Sequence[str]) -> dict[str, Any]:
    return record.before if record.op == "d" else {key: record.before[key] for key in changed}


def _told(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What is known of these."""
    return {key: value for key, value in values if value is not MISSING and not is_expression(value)}
