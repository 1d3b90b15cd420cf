"""What goes into the state and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

MOST_ENTITIES: Final = 2_000


class Change(NamedTuple):
    """What an event tells of a record, and the record's file. From `version` to `stub` a `consumers.base.Telling`.

    Without `whole` it vouches for the fields named in `written` alone. `time` is the event's own.
    """

    directory: str
    filename: str
    model: str
    pk: Any
    version: int
    after: Mapping[str, Any] | None
    written: Sequence[str] = ()
    whole: bool = True
    stub: Mapping[str, Any] | None = None
    time: str = ""
    size: int = 0
    """Bytes of the event; 0 where it came by no message."""


class Record(NamedTuple):
    """A record as it stands in the state; `document` is None for a tombstone.

    `sound` is False where it is not what was written: a bit has flipped. None where nothing can tell.
    """

    directory: str
    filename: str
    version: int
    document: bytes | None
    sound: bool | None = None

    @property
    def path(self) -> str:
        """Its file, relative to DATA_DIR."""
        return f"{self.directory}/{self.filename}"


class Written(NamedTuple):
    """A record whose file `apply` has changed; `existed` says that it was there, and not deleted, before."""

    directory: str
    filename: str
    version: int
    document: bytes | None
    existed: bool


class Noted(NamedTuple):
    """An event in the journal, as it came; `time` is when the mirror took it in, in seconds since 1970."""

    id: int
    time: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may grow by ever new events, each of them small, and how far.

    `fields` and `record`, in bytes of JSON without indentation, are of one record, with what merging needs.
    `entities` are of one service, ten times as many of all; 0 is no bound.
    """

    fields: int = 10_000
    record: int = 2 << 20
    entities: int = MOST_ENTITIES

    @property
    def all_entities(self) -> int:
        """Of all services together."""
        return 10 * self.entities


UNBOUNDED: Final = Bounds(1 << 62, 1 << 62, 0)
"""For what comes from the mirror's own files."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One entity: how many records and tombstones, the highest version, the time of the last event."""

    directory: str
    live: int
    deleted: int
    version: int
    time: str
