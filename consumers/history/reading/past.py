"""All records as they were when the log had some length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from consumers.history.reading.history import History
from consumers.history.store import chain
from consumers.history.store.content import Content, decode, identify
from consumers.history.store.rows import Step

_CHUNK: Final = 1_000
_RECORDS: Final = (
    "SELECT id AS number, path, key, document FROM record WHERE id > ? AND path >= ? AND path < ? ORDER BY id LIMIT ?"
)
# Both go along the index alone, which has record, version and position; rows are fetched of what came later, no others.
_SEEN: Final = "SELECT record, max(version) FROM change WHERE record BETWEEN ? AND ? AND position <= ? GROUP BY record"
_LATER: Final = (
    "SELECT change.record, change.position, change.version, change.op, change.whole, names.names, change.aside, "
    "change.body FROM change AS found CROSS JOIN change ON change.position = found.position "
    "AND change.record = found.record LEFT JOIN names ON names.id = change.changed "
    "WHERE found.record BETWEEN ? AND ? AND found.position > ? ORDER BY found.record, found.version DESC"
)


class Past(NamedTuple):
    """A record as it was."""

    path: str
    model: str
    pk: Any
    content: Content

    def dumped(self) -> dict[str, Any]:
        """As a dump has it: model, pk and fields, and the stub where there is one."""
        stub = {"stub": self.content.stub} if self.content.stub else {}
        return {"model": self.model, "pk": self.pk, "fields": self.content.fields, **stub}


def records(history: History, position: int, directory: str = "") -> Iterator[Past]:
    """Those that were there, of all entities or of one (`crm/contact`); in no particular order."""
    low, high = (f"{directory}/", f"{directory}0") if directory else ("", "\U0010ffff")
    last = -1
    with history.still():
        while rows := history.query(_RECORDS, last, low, high, _CHUNK):
            last = rows[-1][0]
            seen = dict(history.query(_SEEN, rows[0][0], last, position))
            later = _later(history, {id: path for id, path, _, _ in rows}, position)
            for id, path, key, document in rows:
                newest = decode(path, document)
                content = _content(history, newest, id, later[id], seen.get(id), position) if id in later else newest
                if content is not None:
                    yield Past(path, *identify(path, key), content)


def _later(history: History, paths: Mapping[int, str], position: int) -> dict[int, list[Step]]:
    """What came to these records behind the position, newest first."""
    found: dict[int, list[Step]] = {}
    for record, *step in history.rows(_LATER, min(paths), max(paths), position):
        if record in paths:  # those between may be of other entities
            found.setdefault(record, []).append(Step(paths[record], *step))
    return found


def _content(
    history: History, newest: Content | None, record: int, later: Sequence[Step], seen: int | None, position: int
) -> Content | None:
    """What there was when the log had this length and version `seen` was the newest; None where nothing was known."""
    if seen is None:
        return None
    if later[-1].version > seen:
        return chain.before(newest, later)
    # Some of it came late, and changed what was made of those above it.
    found = chain.at_position(newest, history.steps(later[0].path, record), position)
    return found and found.content
