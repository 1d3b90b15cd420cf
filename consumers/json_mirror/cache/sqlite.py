"""The default: the state of the mirror is the cache, so there is nothing to store twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from consumers.json_mirror.cache.base import Cache
from consumers.json_mirror.cache.errors import CacheUnavailable
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.errors import StateDamaged, StateTooNew, StateUnavailable
from consumers.json_mirror.state import STATE_FILE, Record, State


class SqliteCache(Cache):
    """Reads the state under DATA_DIR, on the same host (SQLite needs shared memory), at any time, also of a running
    mirror. The reader needs write permission for `DATA_DIR/.eventbus`, as SQLite keeps its index of the log there.
    """

    def __init__(self, data_dir: str | Path) -> None:
        self.path = Path(data_dir) / PRIVATE / STATE_FILE
        self._state: State | None = None

    def find(self, directory: str, filename: str) -> Record | None:
        try:
            if self._state is None:
                self._state = State(self.path, read_only=True)
            return self._state.get(directory, filename)
        except (StateUnavailable, StateDamaged, StateTooNew) as error:
            raise CacheUnavailable(str(error)) from error

    def store(self, records: Sequence[Record]) -> None:
        """The mirror has stored them already."""

    def holds(self, mark: str) -> bool:
        return True

    def mark(self, mark: str) -> None:
        """Always complete."""

    def close(self) -> None:
        if self._state is not None:
            self._state.close()
