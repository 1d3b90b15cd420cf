"""What the history's file notes of itself."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple, Self

from consumers.history.store import reading


class Notes(NamedTuple):
    """`identity` names this history, `state` the journal that is taken up to `journal`; `horizon` is 0 or the version
    below which it was pruned. `position` and `version` are those of its end.
    """

    identity: str
    state: str
    journal: int
    position: int
    version: int
    horizon: int

    @classmethod
    def read(cls, db: sqlite3.Connection) -> Self:
        """Those of this file. Raises HistoryDamaged."""
        found = dict(reading.query(db, "SELECT key AS note, value FROM meta"))
        for name, kind in _KINDS.items():
            if type(found.get(name)) is not kind:
                raise reading.damaged(f"the note `{name}`", f"it is {found.get(name)!r:.80}")
        return cls(*(found[name] for name in cls._fields))


_KINDS = {name: str if name in ("identity", "state") else int for name in Notes._fields}
