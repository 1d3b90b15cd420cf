"""All records as they were when the log had some length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from consumers.history.reading.history import History
from consumers.history.store import chain
from consumers.history.store.content import Content, decode, identify
from consumers.history.store.rows import Step

_CHUNK: Final = 1_000
_RECORDS: Final = (
    "SELECT id AS number, path, key, document FROM record WHERE id > ? AND path >= ? AND path < ? ORDER BY id LIMIT ?"
)
_STEPS: Final = (
    "SELECT record, change.position, version, op, whole, names.names, aside, body "
    "FROM change LEFT JOIN names ON names.id = changed WHERE record BETWEEN ? AND ? ORDER BY record, version DESC"
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
            steps = _steps(history, {id: path for id, path, _, _ in rows})
            for id, path, key, document in rows:
                content = _content(path, document, steps.get(id, []), position)
                if content is not None:
                    yield Past(path, *identify(path, key), content)


def _steps(history: History, paths: Mapping[int, str]) -> dict[int, list[Step]]:
    found: dict[int, list[Step]] = {}
    for record, *step in history.rows(_STEPS, min(paths), max(paths)):
        if record in paths:  # those between may be of other entities
            found.setdefault(record, []).append(Step(paths[record], *step))
    return found


def _content(path: str, document: bytes | None, steps: list[Step], position: int) -> Content | None:
    newest = decode(path, document)
    if not steps or max(step.position for step in steps) <= position:  # without any, what is older was forgotten
        return newest
    found = chain.at_position(newest, steps, position)
    return found and found.content
