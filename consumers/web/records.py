"""The records as pages show them: by key, a page at a time, never by a count over all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from consumers.json_mirror import filenames
from consumers.json_mirror.disk import documents
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import Figures, State

PAGE: Final = 50
LOOKING: Final = 0.05
"""Seconds that one page looks through records for a value; a link goes on behind them."""
ORDERED: Final = 5_000
"""Records of an entity up to which a list can be ordered by a field: there is no index for it."""
SCANNED_BYTES: Final = 32 << 20
"""Bytes of files that a page reads: one of large records is short, and what would need more is not ordered."""
_SUFFIX: Final = ".json"
_COLUMNS: Final = 6
_LONG: Final = 40


@dataclass(frozen=True, slots=True)
class Shown:
    """One record, read."""

    directory: str
    name: str
    document: documents.Document
    raw: str

    @property
    def path(self) -> str:
        """Its address below `/records/`."""
        return f"{self.directory}/{self.name}"

    @property
    def label(self) -> str:
        """Its key as people write it."""
        pk = self.document.pk
        return pk if isinstance(pk, str) else orjson.dumps(pk).decode()


@dataclass(frozen=True, slots=True)
class Query:
    """What a list is asked for. `after` is the name behind which it goes on; `by` a field to order by."""

    after: str = ""
    prefix: str = ""
    field: str = ""
    value: str = ""
    by: str = ""
    down: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of records, the fields that its columns show, and behind which name the next page begins."""

    rows: Sequence[Shown]
    columns: Sequence[str]
    next: str | None
    looked_through: int
    note: str = ""


class Records:
    """Reads the mirror's state, also while the mirror writes. Open one for a request, and close it."""

    def __init__(self, settings: MirrorSettings) -> None:
        self._state = State(settings.state_file, read_only=True)

    def close(self) -> None:
        """Close the file."""
        self._state.close()

    def entities(self) -> list[Figures]:
        """Each kind of record with its figures, which the state keeps: nothing is counted."""
        return self._state.figures()

    def entity(self, directory: str) -> Figures | None:
        """One kind of record."""
        return next((each for each in self.entities() if each.directory == directory), None)

    def get(self, directory: str, name: str) -> Shown | None:
        """One record, or None where it is not there (or was deleted)."""
        found = self._state.get(directory, name + _SUFFIX)
        return None if found is None or found.document is None else _shown(directory, name, found.document)

    def tombstone(self, directory: str, name: str) -> int | None:
        """The version at which a record was deleted, as long as that is known."""
        found = self._state.get(directory, name + _SUFFIX)
        return found.version if found is not None and found.document is None else None

    def list(self, directory: str, query: Query) -> Listing:
        """A page of one kind of record."""
        if query.by:
            ordered = self._ordered(directory, query)
            if ordered is not None:
                return ordered
        rows: list[Shown] = []
        looked, size, last = 0, 0, query.after
        end = time.monotonic() + LOOKING
        for shown in self._from(directory, query):
            looked, size, last = looked + 1, size + len(shown.raw), shown.name
            if _matches(shown, query):
                rows.append(shown)
            if len(rows) == PAGE or size > SCANNED_BYTES or time.monotonic() > end:
                return Listing(rows, _columns(rows), last, looked, self._note(query))
        return Listing(rows, _columns(rows), None, looked, self._note(query))

    def _note(self, query: Query) -> str:
        return (
            f"too many records, or too large ones, to order them by {query.by}: they stand by their keys"
            if query.by
            else ""
        )

    def _ordered(self, directory: str, query: Query) -> Listing | None:
        entity = self.entity(directory)
        if entity is None or entity.live > ORDERED:
            return None
        rows: list[Shown] = []
        size = 0
        for shown in self._from(directory, query):
            if _matches(shown, query):
                rows.append(shown)
                size += len(shown.raw)
            if size > SCANNED_BYTES:
                return None
        rows.sort(key=lambda shown: _rank(shown.document.fields.get(query.by)), reverse=query.down)
        return Listing(rows[:PAGE], _columns(rows[:PAGE]), None, len(rows), "the first of them" * (len(rows) > PAGE))

    def _from(self, directory: str, query: Query) -> Iterator[Shown]:
        after = query.after + _SUFFIX if query.after else ""
        for name, document in self._state.names(directory, after=after, prefix=query.prefix):
            yield _shown(directory, name.removesuffix(_SUFFIX), document)

    # --- what leads to what -------------------------------------------------------------------------------------

    def links(self, shown: Shown) -> Mapping[str, str]:
        """Fields that look like keys of other records, by the path of the record that is there: `team_id` → team."""
        service = shown.directory.partition("/")[0]
        known = {each.directory for each in self.entities()}
        found = {}
        for field, value in shown.document.fields.items():
            entity = f"{service}/{field.removesuffix('_id')}"
            if field.endswith("_id") and isinstance(value, str | int) and entity in known:
                name = filenames.filename(value).removesuffix(_SUFFIX)
                if self._state.get(entity, name + _SUFFIX):
                    found[field] = f"{entity}/{name}"
        return found

    def referring(self, shown: Shown) -> Sequence[tuple[str, str]]:
        """Kinds of record with a field that may hold this one's key, as `(directory, field)`."""
        service, _, entity = shown.directory.partition("/")
        field = f"{entity}_id"
        found = []
        for other in self.entities():
            if other.directory.startswith(f"{service}/"):
                first = next(self._from(other.directory, Query()), None)
                if first is not None and field in first.document.fields:
                    found.append((other.directory, field))
        return found


def _shown(directory: str, name: str, document: bytes) -> Shown:
    return Shown(directory, name, documents.decode(document), document.decode("utf-8", "replace"))


def _matches(shown: Shown, query: Query) -> bool:
    if not query.field:
        return True
    value = shown.document.fields.get(query.field)
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return query.value.casefold() in text.casefold() if isinstance(value, str) else text == query.value


def _columns(rows: Sequence[Shown]) -> list[str]:
    """The fields that a list shows: the first few, short ones before long ones, without the key, which is there."""
    lengths: dict[str, int] = {}
    for shown in rows:
        for name, value in shown.document.fields.items():
            lengths[name] = max(lengths.get(name, 0), _length(value))
    keys = {name for name in lengths if all(shown.document.fields.get(name) == shown.document.pk for shown in rows)}
    return sorted((name for name in lengths if name not in keys), key=lambda name: lengths[name] > _LONG)[:_COLUMNS]


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return _LONG + 1 if isinstance(value, dict | list) else 8


def _rank(value: Any) -> tuple[int, Any]:
    """Values of several kinds in one order: nothing, numbers, texts, the rest."""
    if value is None:
        return 0, 0
    if isinstance(value, bool | int | float):
        return 1, value
    return (2, value) if isinstance(value, str) else (3, orjson.dumps(value))
