"""SQLite has one writer at a time: the application's transactions come first, and ours wait until none is open.

A transaction that has read, and comes to write after somebody else did, fails at once with "database is locked",
however long it would wait. So our own thread writes only while no Session of this process is in a transaction there,
and a Session that begins one meanwhile waits for the moment that this takes. What the broker has confirmed is mostly
deleted by the next commit itself: see `riders`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine
from sqlalchemy.exc import SQLAlchemyError

from eventbus.process import forks

PATIENCE: Final = 0.3
"""Seconds to wait for a moment in which no transaction is open."""
_LONGEST: Final = 30.0
"""Seconds. Who keeps a transaction open for longer is not waited for: we would be taken for dead."""
_POLL: Final = 0.005


class Occupied(SQLAlchemyError):
    """The application is in a transaction on this SQLite database, and we want to write there."""


@final
class Turns:
    """Who writes to one file. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._begun: WeakKeyDictionary[Connection, Any] = WeakKeyDictionary()
        self._waiting_since: float | None = None

    def begin(self, connection: Connection) -> None:
        """A Session has begun a transaction, and read nothing yet."""
        raw = connection.connection.driver_connection
        with self._lock:
            self._begun[connection] = raw

    @contextmanager
    def ours(self) -> Iterator[None]:
        """It is our turn, and nobody begins inside. Raises Occupied where it does not come within `PATIENCE`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._lock:
                if self._is_ours():
                    self._waiting_since = None
                    yield
                    return
            if time.monotonic() >= deadline:
                raise Occupied("the application is in a transaction")
            time.sleep(_POLL)

    @property
    def are_busy(self) -> bool:
        """Whether a Session is in a transaction, which may begin to write at any moment."""
        with self._lock:
            return any(connection.in_transaction() for connection in self._begun)

    def _is_ours(self) -> bool:
        if not any(_is_open(connection, raw) for connection, raw in self._begun.items()):
            return True
        at = time.monotonic()
        self._waiting_since = since = at if self._waiting_since is None else self._waiting_since
        return at - since > _LONGEST

    def forked(self) -> None:
        """In a child: no transaction is its own."""
        self._lock = threading.RLock()
        self._begun = WeakKeyDictionary()


def _is_open(connection: Connection, raw: Any) -> bool:
    if not connection.in_transaction():
        return False
    try:
        # A Session that only reads is in none, unless the engine is told to begin with BEGIN.
        return bool(raw.in_transaction)
    except Exception:  # noqa: BLE001 - a driver's error about a connection that is closed
        return False


_by_file: dict[str, Turns] = {}
_by_dialect: WeakKeyDictionary[Dialect, Turns] = WeakKeyDictionary()


def turns_of(engine: Engine) -> Turns:
    """Those of the engine's file; engines of one file share them."""
    turns = _by_dialect.get(engine.dialect)
    if turns is None:
        file = engine.url.database
        path = os.path.realpath(file) if file and not file.startswith("file:") else f"{id(engine.dialect)}"
        turns = _by_dialect[engine.dialect] = _by_file.setdefault(path, Turns())
    return turns


def _forked() -> None:
    for turns in _by_file.values():
        turns.forked()


forks.in_child(_forked)
