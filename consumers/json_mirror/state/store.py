"""The state as the mirror uses it: what the writer does, beside what everybody may ask."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from consumers.json_mirror.disk import sqlite
from consumers.json_mirror.errors import StateUnavailable
from consumers.json_mirror.state import erasing
from consumers.json_mirror.state.erasing import hashed
from consumers.json_mirror.state.journal import IDLE_TRIM, Journal
from consumers.json_mirror.state.reading import Reader
from consumers.json_mirror.state.values import UNBOUNDED, Bounds, Change, Written
from consumers.json_mirror.state.writing import write

_RECOUNT: Final = """
UPDATE entity SET
    live = (SELECT count(*) FROM record WHERE record.entity = entity.id AND document IS NOT NULL),
    deleted = (SELECT count(*) FROM record WHERE record.entity = entity.id AND document IS NULL)
"""


class State(Reader):
    """The state file at `path`; `StateFile` says what each call may raise."""

    journal: Journal | None = None
    """Where the events go as they came, for the history; None where there is none."""
    bounds: Bounds = UNBOUNDED
    """How far what is applied may let the state grow."""
    _known_floors: Mapping[str, int] | None = None

    def apply(
        self, changes: Iterable[Change], settled: int = 0, events: Sequence[bytes] = ()
    ) -> tuple[int, list[Written]]:
        """Take in the changes, in any order, durably, all or none; tell the batch's number and which files change.

        Several changes of one record are one write. What says nothing new is left out. Batches up to `settled` are
        taken off the pending ones along the way. `events` go into the journal, if one is kept. Raises StateUnavailable
        while that is full, and BeyondBounds with the changes for which there is no room.
        """
        if self.journal is not None and self.journal.full:
            raise StateUnavailable(self.journal.full)
        if self._floors:
            changes, events = self._above_floors(changes, events)
        with self._transaction() as db, self._journalled(db, events):
            written = write(db, changes, self.bounds)
            paths = "\n".join(f"{record.directory}/{record.filename}" for record in written)
            if settled:
                db.execute("DELETE FROM pending WHERE batch BETWEEN 1 AND ?", (settled,))
            batch = _note(db, paths) if written else 0
        return batch, written

    @property
    def _floors(self) -> Mapping[str, int]:
        if self._known_floors is None:
            self._known_floors = self.floors()
        return self._known_floors

    def _above_floors(self, changes: Iterable[Change], events: Sequence[bytes]) -> tuple[list[Change], list[bytes]]:
        found = list(changes)
        kept = [
            (change, event)
            for change, event in zip(found, events or [b""] * len(found), strict=True)
            if change.version > self._floors.get(hashed(f"{change.directory}/{change.filename}"), 0)
        ]
        return [change for change, _ in kept], [event for _, event in kept if event]

    def erase(self, paths: Iterable[str], floors: Mapping[str, int], events: Iterable[int] = ()) -> int:
        """Forget these records for good, and these rows of the journal; tell how many records there were.

        What is hashed in `floors` does not come back up to the version there. The file is written anew, so that nothing
        stays in it: that takes some seconds for each 100 MB. Only for who holds the lock of the directory. Raises
        StateUnavailable where somebody who reads keeps old pages alive; the same call does the rest later.
        """
        with self._transaction() as db:
            gone = erasing.erase(db, list(paths), floors, list(events))
        self._known_floors = None
        self._write_anew()
        return gone

    def rewrite_events(self, bodies: Iterable[tuple[int, bytes]], floors: Mapping[str, int]) -> None:
        """Put other bodies into these rows of the journal, and keep these floors; nothing of the old bodies stays."""
        with self._transaction() as db:
            db.executemany("UPDATE journal SET body = ? WHERE id = ?", [(body, id) for id, body in bodies])
            erasing.erase(db, (), floors, ())
        self._write_anew()

    def _write_anew(self) -> None:
        with self._translated():
            self._db.execute("VACUUM")
            is_empty = sqlite.empty_log(self._db)
        if not is_empty:
            raise StateUnavailable(
                "somebody reads the state for so long that what was erased may be in it still: end who reads, "
                "and erase once more"
            )

    @contextmanager
    def _journalled(self, db: sqlite3.Connection, events: Sequence[bytes]) -> Iterator[None]:
        if self.journal is None:
            yield
            return
        with self.journal.adding(db, events):
            yield

    def keep_journal(self, history: Path | None, limit: int = 0) -> None:
        """Keep one from here on, of at most so many bytes, for the historian whose file is `history`; or keep none."""
        was_kept = self._recall("journal") == "kept"
        if history is None:
            self.journal = None
            if was_kept:
                self._remember("journal", "")
            return
        self.journal = Journal(history, limit)
        identity = self.identity
        with self._transaction() as db:
            self.journal.begin(db, identity, fresh=not was_kept)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('journal', 'kept')")

    def trim_journal(self) -> None:
        """Let go of what the historian has taken over by now."""
        if self.journal is not None and self.journal.look(self.identity):
            with self._transaction() as db:
                self.journal.trim(db, IDLE_TRIM)

    def forget(self, directory: str, filename: str) -> bool:
        """Know nothing of a record any more, whatever its version; whether anything was known."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT record.id, entity, document IS NULL FROM record JOIN entity ON entity.id = record.entity "
                "WHERE directory = ? AND name = ?",
                (directory, filename),
            ).fetchone()
            if row is None:
                return False
            id_, entity, deleted = row
            db.execute("DELETE FROM record WHERE id = ?", (id_,))
            db.execute(
                "UPDATE entity SET live = live - ?, deleted = deleted - ?, "
                "version = (SELECT coalesce(max(version), 0) FROM record WHERE entity = ?) WHERE id = ?",
                (not deleted, deleted, entity, entity),
            )
        return True

    def replace(self, spoilt: Iterable[Sequence[str]], changes: Iterable[Change]) -> None:
        """Forget what stands under these names (directory, file name), and take these changes in its stead."""
        with self._transaction() as db:
            db.executemany(
                "DELETE FROM record WHERE entity = (SELECT id FROM entity WHERE directory = ?) AND name = ?", spoilt
            )
            written = write(db, changes)
            db.execute(_RECOUNT)
            if written:
                _note(db, "\n".join(f"{record.directory}/{record.filename}" for record in written))

    def settle(self, batch: int, blocked: Iterable[str] = ()) -> None:
        """The files of all batches up to this one are on the disk, but for the blocked paths.

        The next start need not look at the others.
        """
        paths = "\n".join(blocked)
        with self._transaction() as db:
            db.execute("DELETE FROM pending WHERE batch <= ?", (batch,))
            if paths:
                db.execute("INSERT INTO pending (batch, paths) VALUES (0, ?)", (paths,))

    def prune(self, older_than: float, limit: int = 1000) -> int:
        """Forget up to `limit` tombstones applied more than `older_than` seconds ago; tell how many it were.

        A tombstone whose file may not be gone from the disk yet is kept.
        """
        with self._transaction() as db:
            rows = db.execute(
                "SELECT record.id, record.entity, directory || '/' || name "
                "FROM record JOIN entity ON entity.id = record.entity "
                "WHERE document IS NULL AND applied < ? ORDER BY applied LIMIT ?",
                (int(time.time() - older_than), limit),
            ).fetchall()
            pending = set(self.pending())
            gone = [(id, entity) for id, entity, path in rows if path not in pending]
            db.executemany("DELETE FROM record WHERE id = ?", [(id,) for id, _ in gone])
            db.executemany("UPDATE entity SET deleted = deleted - 1 WHERE id = ?", [(entity,) for _, entity in gone])
        return len(gone)

    @contextmanager
    def mending(self) -> Iterator[None]:
        """Around long repairs: `half_mended` until they have come to their end."""
        self._remember("mending", "yes")
        yield
        self._remember("mending", "")

    def claim(self, shard: str) -> str:
        """Note which shard's records these are, if nobody has before; tell which."""
        if not self._recall("shard"):
            self._remember("shard", shard)
        return self._recall("shard")


def _note(db: sqlite3.Connection, paths: str) -> int:
    # Numbers must rise also after the last row was taken off: a settled batch must never be a later one.
    batch = int(db.execute("SELECT value FROM meta WHERE key = 'batch'").fetchone()[0]) + 1
    db.execute("UPDATE meta SET value = ? WHERE key = 'batch'", (batch,))
    db.execute("INSERT INTO pending (batch, paths) VALUES (?, ?)", (batch, paths))
    return batch
