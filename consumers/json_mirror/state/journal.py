"""The journal: the events as they came, in the commit of their batch, until the historian has taken them over.

Numbers rise and are never given twice, also after the historian has taken all: so the newest row stays.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, final

from eventbus.events.reading import Limits

BASELINE: Final = b"!"
"""A row that is no event: from here on the journal is kept, and of what the state held before there are no events."""
MEASURED: Final = Limits(body=1 << 31, depth=1 << 10, keys=1 << 30, containers=1 << 30, values=1 << 30)
"""For who reads an event here: the mirror has measured every one by its own limits already."""
IDLE_TRIM: Final = 10_000
"""Rows that are let go at once while nothing else is done."""


@final
class Journal:
    """The writer's side. `history` is the historian's file, which says how far it has taken the journal over.

    `limit` is how many bytes of events may wait for the historian: see `full`.
    """

    def __init__(self, history: Path, limit: int) -> None:
        self._history = history
        self._limit = limit
        self._bytes = self._first = self._last = self._taken = 0

    def begin(self, db: sqlite3.Connection, identity: str, *, fresh: bool) -> None:
        """See what is there, in the state of this identity; `fresh` says that no journal was kept until now.

        Where the historian has more than there ever was, the state is an older backup. The numbers go on above those
        the historian has, since it looks at none of them again.
        """
        self._first, self._last, self._bytes = db.execute(
            "SELECT coalesce(min(id), 1), coalesce(max(id), 0), coalesce(sum(length(body)), 0) FROM journal"
        ).fetchone()
        taken = self._ask(identity)
        if taken > self._last:
            db.execute("DELETE FROM journal")
            self._first, self._last, self._bytes, fresh = taken + 1, taken, 0, True
        if fresh:
            self._write(db, [BASELINE])

    @property
    def full(self) -> str:
        """Why nothing more may come in now; empty where it may."""
        if self._bytes < self._limit:
            return ""
        return f"the historian is behind: {self._bytes >> 20} MiB of events wait for it (EVENTBUS_HISTORY_JOURNAL_MB)"

    @contextmanager
    def adding(self, db: sqlite3.Connection, events: Sequence[bytes]) -> Iterator[None]:
        """Around a batch, in its transaction: these events go in, some of what the historian has goes out."""
        before = self._bytes, self._first, self._last
        try:
            self._write(db, events)
            self.trim(db, 100 + 2 * len(events))
            yield
        except BaseException:
            self._bytes, self._first, self._last = before
            raise

    def _write(self, db: sqlite3.Connection, bodies: Sequence[bytes]) -> None:
        now, number = time.time(), self._last + 1
        rows = [(number + n, now, body) for n, body in enumerate(bodies)]
        db.executemany("INSERT INTO journal VALUES (?, ?, ?)", rows)
        self._last += len(bodies)
        self._bytes += sum(map(len, bodies))

    def trim(self, db: sqlite3.Connection, rows: int) -> None:
        """Let go of up to so many of the rows that the historian has."""
        upto = min(self._taken, self._last - 1, self._first + rows - 1)
        if upto < self._first:
            return
        (gone,) = db.execute("SELECT coalesce(sum(length(body)), 0) FROM journal WHERE id <= ?", (upto,)).fetchone()
        db.execute("DELETE FROM journal WHERE id <= ?", (upto,))
        self._bytes -= gone
        self._first = upto + 1

    def look(self, identity: str) -> bool:
        """See how far the historian is with the state of this identity; tell whether rows may go."""
        self._taken = max(self._taken, self._ask(identity))
        return min(self._taken, self._last - 1) >= self._first

    def _ask(self, identity: str) -> int:
        # A history that cannot be asked now, or is spoilt, is asked again; until then nothing is let go.
        with suppress(sqlite3.Error, KeyError, ValueError):
            notes = dict(asked(self._history, "SELECT key, value FROM meta"))
            return int(notes["journal"]) if notes["state"] == identity else 0
        return 0


def asked(history: Path, query: str) -> list[tuple[Any, Any]]:
    """What the historian's file answers. Raises sqlite3.Error where it cannot be asked now, or is none."""
    with closing(sqlite3.connect(f"{history.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
        try:
            return connection.execute(query).fetchall()
        except UnicodeDecodeError as error:  # of a text that is none
            raise sqlite3.DatabaseError(str(error)) from error
