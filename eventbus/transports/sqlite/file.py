"""One handle on the broker's file: transactions that wait for one another, and no SQLite connection across a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from amqp.exceptions import RecoverableConnectionError

from eventbus.process import forks
from eventbus.transports.sqlite.layout import open_database

MAX_WAL: Final = 8 << 20
"""Bytes that the write-ahead log is cut to once all of it is in the file."""
WORTH_SHRINKING: Final = 256
"""Free pages of 4 KiB that the file may keep for the next messages."""
_SHRINK_STEP: Final = 512

_OPEN: weakref.WeakSet[BrokerFile] = weakref.WeakSet()
_OPEN_LOCK = threading.Lock()
_inherited: list[object] = []


class BrokerFile:
    """The file at `path`, opened at the first use, and again after an error of SQLite.

    Every write is one short `BEGIN IMMEDIATE` transaction on a write-ahead log: processes wait for one another, and
    none fails half-way with "database is locked". All failures of SQLite and of the file system come as
    RecoverableConnectionError: close the connection, open another.
    A fork leaves the handle to the parent: in the child every use raises RecoverableConnectionError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._lock = threading.RLock()
        self._seen = -1
        self._durable = True
        self._forked = False
        with _OPEN_LOCK:
            _OPEN.add(self)

    @property
    def usable(self) -> bool:
        """Whether this process may use the handle."""
        return not self._forked

    def read(self) -> AbstractContextManager[sqlite3.Connection]:
        """For one SELECT at a time; takes no lock that a writer would wait for."""
        return self._guarded()

    @contextmanager
    def write(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction, committed at the end and rolled back by an exception.

        `durable`: it survives a power failure (the log is synced to disk), as a publisher was told it would. Without,
        it survives every death of a process, and a power failure may undo it: right for what may happen again, as the
        delivery of a message whose acknowledgement was lost.
        """
        with self._guarded() as database:
            self._check_identity()
            self._synchronous(database, durable=durable)
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def changed(self) -> bool:
        """Whether another handle committed anything since the last call; True at the first."""
        with self._guarded() as database:
            self._check_identity()  # nothing changes any more in a file that was removed under a sleeping consumer
            seen, self._seen = self._seen, database.execute("PRAGMA data_version").fetchone()[0]
            return seen != self._seen

    def shrink(self) -> bool:
        """Give some unused pages back to the file system; False once there are not enough left to be worth it."""
        with self._guarded() as database:
            if database.execute("PRAGMA freelist_count").fetchone()[0] < WORTH_SHRINKING:
                return False
            self._synchronous(database, durable=False)
            # Not execute(): that takes one step of the statement, which is one page.
            database.executescript(f"PRAGMA incremental_vacuum({_SHRINK_STEP})")
            return True

    def close(self) -> None:
        """Close the handle; the next use opens it again. Never raises."""
        with self._lock:
            database, self._database = self._database, None
            if database is not None:
                with suppress(sqlite3.Error):
                    database.close()

    @contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._forked:
                raise RecoverableConnectionError("this connection was opened before a fork: open one in this process")
            try:
                yield self._database or self._open()
            except sqlite3.Error as error:
                self.close()  # after a failed write or sync only a new handle knows what is in the file
                raise RecoverableConnectionError(f"broker file {self.path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        database = self._database = open_database(self.path)
        database.execute(f"PRAGMA journal_size_limit = {MAX_WAL}")
        database.execute("PRAGMA synchronous = FULL")
        self._identity, self._durable, self._seen = _identity(self.path), True, -1
        return database

    def _synchronous(self, database: sqlite3.Connection, *, durable: bool) -> None:
        if durable != self._durable:
            database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def _check_identity(self) -> None:
        """A file that was removed or replaced would take messages that nobody ever reads."""
        if self._identity != _identity(self.path):
            self.close()
            raise RecoverableConnectionError(f"broker file {self.path} was removed or replaced")

    # A connection of SQLite must not be used, nor even closed, by a child that inherited it. So there is none at the
    # moment of a fork: it is closed before, and the parent opens it again at its next use.

    def before_fork(self) -> None:
        """Let nobody use the file until the fork is done."""
        self._lock.acquire()
        self.close()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> object:
        """Be of no use any more. The caller keeps the result, so that nothing closes it."""
        self._lock = threading.RLock()
        self._forked = True
        return self._database  # still open, where the fork came without a word


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _before_fork() -> None:
    _OPEN_LOCK.acquire()
    for file in _OPEN:
        file.before_fork()


def _after_fork_in_parent() -> None:
    for file in _OPEN:
        file.after_fork_in_parent()
    _OPEN_LOCK.release()


def _after_fork_in_child() -> None:
    global _OPEN_LOCK  # noqa: PLW0603 - the parent's may be held by a thread that is not here
    _OPEN_LOCK = threading.Lock()
    _inherited.extend([file.after_fork_in_child() for file in _OPEN])


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
forks.in_child(_after_fork_in_child)
