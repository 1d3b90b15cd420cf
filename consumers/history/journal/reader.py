"""The journal in the mirror's state, from where one is on; read beside the running mirror."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from consumers.history.assembly.fact import Fact, fact_of
from consumers.json_mirror.state import BASELINE, Reader
from consumers.json_mirror.state.journal import MEASURED
from eventbus.errors import BadEvent
from eventbus.events import envelope


class Entry(NamedTuple):
    """A row of the journal; `time` is when the mirror took it in, in seconds since 1970.

    `fact` is None where the row is no event: a baseline, or one that was erased.
    """

    id: int
    time: float
    body: bytes
    fact: Fact | None

    @property
    def is_baseline(self) -> bool:
        """Whether the journal begins here, or begins again."""
        return self.body == BASELINE


class JournalReader:
    """The journal of the state at `path`, opened at the first call. Raises StateUnavailable, StateDamaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: Reader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; safe to call twice. The next call opens it again."""
        if self._state is not None:
            self._state.close()
            self._state = None

    @property
    def state(self) -> Reader:
        """The state, for what else it is asked."""
        if self._state is None:
            self._state = Reader(self._path, read_only=True)
        return self._state

    def replaced(self) -> bool:
        """Whether another file, or none, stands in the place of the one that is open."""
        return self._state is not None and self._state.is_replaced()

    def read(self, after: int, limit: int) -> list[Entry]:
        """Up to `limit` rows behind number `after`."""
        return [Entry(*row, decode(row.body, row.id)) for row in self.state.events(after, limit)]

    @contextmanager
    def still(self) -> Iterator[Reader]:
        """The state, as it was at one moment."""
        with self.state.still():
            yield self.state

    def records_after(self, after: int) -> set[str]:
        """Paths of the records that have events behind number `after`."""
        found: set[str] = set()
        while entries := self.read(after, 1000):
            found.update(entry.fact.record for entry in entries if entry.fact)
            after = entries[-1].id
        return found


def decode(body: bytes, source: int = 0) -> Fact | None:
    """The event of a row; None where there is none in it."""
    if body[:1] != b"{":
        return None
    try:
        return fact_of(envelope.decode(body, MEASURED), source)
    except BadEvent:
        # The mirror refuses these before they reach the journal: only a hand in the file brings one here.
        return None
