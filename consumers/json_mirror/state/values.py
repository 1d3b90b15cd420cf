"""What goes into the state and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Change(NamedTuple):
    """What an event asks for: `document` is the file's content, or None for a deletion; `time` the event's own."""

    directory: str
    filename: str
    version: int
    document: bytes | None
    time: str = ""


class Record(NamedTuple):
    """A record as it stands in the state; `document` is None for a tombstone."""

    directory: str
    filename: str
    version: int
    document: bytes | None

    @property
    def path(self) -> str:
        """Its file, relative to DATA_DIR."""
        return f"{self.directory}/{self.filename}"


class Written(NamedTuple):
    """A record that `apply` has changed; `existed` says that it was there, and not deleted, before."""

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
