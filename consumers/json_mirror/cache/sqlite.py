"""The default: the state of the mirror is the cache, so there is nothing to store twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        with self._opened() as state:
            return state.get(directory, filename)

    def documents(self, directory: str, filenames: Sequence[str]) -> Mapping[str, tuple[int, bytes]]:
        with self._opened() as state:
            return state.documents(directory, filenames)

    def filenames(self, directory: str) -> Iterator[Sequence[str]]:
        with self._opened() as state:
            yield from state.filenames(directory)

    @contextmanager
    def _opened(self) -> Iterator[State]:
        try:
            if self._state is None:
                self._state = State(self.path, read_only=True)
            yield self._state
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
