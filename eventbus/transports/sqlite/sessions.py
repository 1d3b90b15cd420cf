"""Who consumes, whose turn it is, and who is gone.

A session is a connection that takes messages. Others see it end, by its doorbell, and give back what it held.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from amqp.exceptions import RecoverableConnectionError

from eventbus.transports.sqlite import doorbell, messages
from eventbus.transports.sqlite.catalogue import Catalogue, drop_queue
from eventbus.transports.sqlite.dead_letters import give_back
from eventbus.transports.sqlite.file import BrokerFile


class Sessions:
    """The sessions of the broker; `bell` is that of this connection, None until it begins to take messages."""

    def __init__(self, file: BrokerFile, catalogue: Catalogue) -> None:
        self.bell: doorbell.Doorbell | None = None
        self._file = file
        self._catalogue = catalogue
        self._own: int | None = None
        self._active: set[int] = set()

    def own(self) -> int:
        """This connection's session, opened at the first call."""
        if self._own is None:
            with self._file.write(durable=False) as database, ExitStack() as undo:
                doorbell.sweep(self._file.path)
                bell = doorbell.Doorbell(self._file.path)
                undo.callback(bell.close)
                self._own = _insert(database, "INSERT INTO session (bell) VALUES (?)", (bell.path.name,))
                undo.pop_all()
            self.bell = bell
        return self._own

    def require_own(self, database: sqlite3.Connection) -> None:
        """Raise RecoverableConnectionError if others ended this session: nobody would give back what it takes."""
        if database.execute("SELECT 1 FROM session WHERE id = ?", (self._own,)).fetchone() is None:
            raise _ended()

    def add_consumer(self, queue: str) -> tuple[int, int]:
        """Register a consumer; returns its id and the queue's. Consumers take over in the order they came."""
        session = self.own()
        with self._file.write(durable=False) as database:
            number = self._catalogue.queue(database, queue).id
            values = (number, session)
            return _insert(database, "INSERT INTO consumer (queue, session) VALUES (?, ?)", values), number

    def remove_consumer(self, consumer: int) -> None:
        """Forget a consumer; a queue made with auto_delete goes with its last one."""
        self._active.discard(consumer)
        with self._file.write(durable=False) as database:
            row = database.execute("SELECT queue FROM consumer WHERE id = ?", (consumer,)).fetchone()
            database.execute("DELETE FROM consumer WHERE id = ?", (consumer,))
            bells = self._after_leaving(database, row or ())
        self.ring(bells)

    def may_take(self, database: sqlite3.Connection, queue: int, consumer: int) -> bool:
        """Whether it is this consumer's turn.

        On a queue with a single active consumer it is not while another was there before, nor, stricter than on
        RabbitMQ, while another session still holds messages of the queue: so the order survives the change.
        """
        if consumer in self._active or not self._catalogue.topology(database).queues[queue].single_active_consumer:
            return True
        first = database.execute("SELECT min(id) FROM consumer WHERE queue = ?", (queue,)).fetchone()[0]
        if first != consumer or messages.any_held_by_others(database, queue, self._own):
            return False
        self._active.add(consumer)  # nobody gets before it until it leaves
        return True

    def recover(self) -> bool:
        """End the sessions whose process is gone: what they held is ready again. True if there was any.

        Raises RecoverableConnectionError if others ended this one.
        """
        with self._file.read() as database:
            bells = dict(database.execute("SELECT id, bell FROM session").fetchall())
        if self._own is not None and bells.pop(self._own, None) is None:
            raise _ended()
        gone = [session for session, bell in bells.items() if not doorbell.is_attended(self._file.path.with_name(bell))]
        for session in gone:
            self._end(session)
        return bool(gone)

    def close(self) -> None:
        """End this session. What it held is ready again."""
        session, self._own = self._own, None
        try:
            if session is not None and self._file.usable:
                self._end(session)
        finally:
            if self.bell is not None:
                self.bell.close()

    def bells(self, database: sqlite3.Connection, queues: Iterable[int]) -> set[str]:
        """The bells of those whose turn it is to take from these queues."""
        found: set[str] = set()
        rules = self._catalogue.topology(database).queues
        for queue in queues:
            waiting = database.execute(
                "SELECT bell FROM consumer JOIN session ON session.id = session WHERE queue = ? ORDER BY consumer.id",
                (queue,),
            ).fetchall()
            only_first = queue in rules and rules[queue].single_active_consumer
            found.update(bell for (bell,) in (waiting[:1] if only_first else waiting))
        return found

    def ring(self, bells: Iterable[str]) -> None:
        """Wake those who have these bells. Call it after the commit, so that they see why."""
        for bell in bells:
            with suppress(OSError):  # what is stored is stored: who is not woken looks for himself soon enough
                doorbell.ring(self._file.path.with_name(bell))

    def _end(self, session: int) -> None:
        with self._file.write(durable=False) as database:
            bell = database.execute("SELECT bell FROM session WHERE id = ?", (session,)).fetchone()
            if bell is None:  # somebody else saw it first
                return
            database.execute("DELETE FROM session WHERE id = ?", (session,))
            left = {queue for (queue,) in database.execute("SELECT queue FROM consumer WHERE session = ?", (session,))}
            database.execute("DELETE FROM consumer WHERE session = ?", (session,))
            held = messages.all_held_by(database, session)
            news = give_back(database, self._catalogue.topology(database), held)
            bells = self._after_leaving(database, left) | self.bells(database, news)
        self._file.path.with_name(bell[0]).unlink(missing_ok=True)
        self.ring(bells)

    def _after_leaving(self, database: sqlite3.Connection, queues: Iterable[int]) -> set[str]:
        """Drop auto-delete queues that nobody consumes any more; returns the bells of those who are next."""
        rules = self._catalogue.topology(database).queues
        for queue in queues:
            statement = "SELECT 1 FROM consumer WHERE queue = ?"
            if rules[queue].auto_delete and not database.execute(statement, (queue,)).fetchone():
                drop_queue(database, queue)
        return self.bells(database, queues)


def _insert(database: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> int:
    number = database.execute(statement, values).lastrowid
    assert number is not None, "an INSERT into a rowid table has one"
    return number


def _ended() -> RecoverableConnectionError:
    return RecoverableConnectionError("another process ended this session: was its named pipe removed?")
