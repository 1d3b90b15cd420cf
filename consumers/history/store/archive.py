"""The history's file as the historian uses it. One thread, one writer; readers are welcome at any time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import uuid4

from consumers.history.assembly.fact import Fact
from consumers.history.assembly.transaction import Sealed
from consumers.history.store import layout, reading
from consumers.history.store.content import identify
from consumers.history.store.notes import Notes
from consumers.history.store.writing import Writing, id_of
from consumers.json_mirror.state.erasing import hashed


def author_key(author: str) -> str:
    """What stands for an author's name among the floors."""
    return hashed(f"author {author}")


class Waiting(NamedTuple):
    """An event that left the journal before its transaction was sealed; `first` is when the first one of that came."""

    number: int
    first: float
    body: bytes


class Archive:
    """The file at `path`, made if there is none. Raises HistoryDamaged, HistoryUnavailable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = layout.connect(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        layout.advise(self.path, error)
        self.close()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._db.close()

    # --- what is in it ------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The number of the last transaction; they are numbered 1, 2, 3 …"""
        return self._notes().position

    def taken(self, state: str) -> int:
        """The last event of this state's journal that needs no second look; `state` is that file's identity."""
        notes = self._notes()
        return notes.journal if notes.state == state else 0

    def earlier(self, transaction: str) -> tuple[int, int]:
        """How many parts and events of this transaction are in the history."""
        with layout.translated(self.path):
            query = "SELECT count(*), coalesce(sum(seen), 0) FROM tx WHERE id = ?"
            ((parts, events),) = reading.query(self._db, query, (id_of(transaction),))
        return parts, events

    def known(self, fact: Fact) -> bool:
        """Whether the change is in it, by itself or in a later one of the same record and transaction."""
        query = (
            "SELECT 1 FROM change JOIN record ON record.id = change.record JOIN tx ON tx.position = change.position "
            "WHERE path = ? AND (change.version = ? OR change.version > ? AND tx.id = ?) LIMIT 1"
        )
        with layout.translated(self.path):
            row = self._db.execute(query, (fact.record, fact.version, fact.version, id_of(fact.transaction))).fetchone()
        return row is not None

    def held(self, path: str) -> tuple[str, Any] | None:
        """Model and key of the record at this path; None where the history has none there, or knows that it is gone."""
        with layout.translated(self.path):
            query = "SELECT key FROM record WHERE path = ? AND document IS NOT NULL"
            row = reading.one(self._db, query, (path,))
        return None if row is None else identify(path, row[0])

    def floors(self) -> dict[str, int]:
        """Of what was erased, records and authors, by its hash: what is not above this version does not come in."""
        with layout.translated(self.path):
            return dict(reading.query(self._db, "SELECT key AS hash, max(floor) AS number FROM erased GROUP BY key"))

    def waiting(self) -> list[Waiting]:
        """Events of transactions that are not sealed and not in the journal any more."""
        with layout.translated(self.path):
            rows = reading.query(self._db, "SELECT id AS number, first, body FROM waiting ORDER BY id")
        return [Waiting(*row) for row in rows]

    # --- writing ------------------------------------------------------------------------------------------------

    def keep(
        self,
        sealed: Iterable[Sealed],
        *,
        state: str,
        taken: int,
        waiting: Sequence[Waiting] = (),
        done: Sequence[int] = (),
    ) -> int:
        """Put the transactions at the end, all or none, and note how far the journal is taken; tell how many it were.

        `waiting` are events to be kept until their transaction is sealed; `done` are the numbers of such that are.
        """
        with layout.translated(self.path), layout.transaction(self._db):
            notes = Notes.read(self._db)
            writing = Writing(self._db, notes.position, notes.version, notes.horizon)
            for each in sealed:
                writing.add(each)
            writing.finish()
            self._db.executemany("INSERT INTO waiting VALUES (?, ?, ?)", waiting)
            self._db.executemany("DELETE FROM waiting WHERE id = ?", [(number,) for number in done])
            self._note(position=writing.position, version=writing.version, journal=taken, state=state)
        return writing.position - notes.position

    def become_another(self) -> None:
        """From here on it goes another way than the one it is a copy of: no repository of that fits it."""
        with layout.translated(self.path), layout.transaction(self._db):
            self._note(identity=uuid4().hex)

    def _notes(self) -> Notes:
        with layout.translated(self.path):
            return Notes.read(self._db)

    def _note(self, **values: Any) -> None:
        self._db.executemany("UPDATE meta SET value = ? WHERE key = ?", [(value, key) for key, value in values.items()])
