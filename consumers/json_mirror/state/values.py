"""What goes into the state and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


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
class Figures:
    """One entity: how many records and tombstones, the highest version, the time of the last event."""

    directory: str
    live: int
    deleted: int
    version: int
    time: str
