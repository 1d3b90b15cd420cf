"""What a cache of the mirror's current records can do, wherever it keeps them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from consumers.json_mirror import filenames
from consumers.json_mirror.disk import documents
from consumers.json_mirror.state import Record


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a record: its version, and its fields, or None where it was deleted.

    `stub` says why its service could not publish it: then `fields` hold its key alone. None where all is well.
    """

    version: int
    fields: Mapping[str, Any] | None
    stub: Mapping[str, Any] | None = None

    @property
    def deleted(self) -> bool:
        """Whether this is a tombstone."""
        return self.fields is None


class Cache(ABC):
    """Current records, versions and tombstones.

    A service reads with `get`. The mirror writes with `store`, in which the newest version wins whatever the order, and
    leaves a mark once everything is there; a cache that lost its content has lost its mark.
    Each method raises CacheUnavailable where the back end does not answer.
    """

    def get(self, service: str, entity: str, pk: Any) -> Entry | None:
        """The record, a deleted one too; None where the cache does not know it.

        `service` and `entity` are the names in the event's `model`, `pk` is the key as JSON holds it (`"ab12"`, 5,
        `[1, "a"]`). Not known is not the same as never there: a cache may have lost it.
        """
        record = self.find(filenames.directory(service, entity), filenames.filename(pk))
        if record is None:
            return None
        if record.document is None:
            return Entry(record.version, None)
        try:
            document = documents.decode(record.document)
        except ValueError:
            return None  # whoever may write there has put something else in its place
        return Entry(record.version, document.fields, document.stub)

    @abstractmethod
    def find(self, directory: str, filename: str) -> Record | None:
        """The record whose file has this name."""

    @abstractmethod
    def documents(self, directory: str, filenames: Sequence[str]) -> Mapping[str, tuple[int, bytes]]:
        """Of those filenames that have a record: version and document; tombstones are left out."""

    @abstractmethod
    def filenames(self, directory: str) -> Iterator[Sequence[str]]:
        """The file names of one entity's records, some at a time, in no order, and maybe some of tombstones too.

        One that comes or goes meanwhile may be told twice, or not at all.
        """

    @abstractmethod
    def store(self, records: Sequence[Record]) -> None:
        """Keep these, but none that is older than what is there."""

    @abstractmethod
    def holds(self, mark: str) -> bool:
        """Whether this mark, and so what was stored before it, is still there."""

    @abstractmethod
    def mark(self, mark: str) -> None:
        """Leave this mark; it replaces the one before."""

    def forget(self, directory: str, filename: str) -> None:  # noqa: B027  a cache that is the state has forgotten it
        """Know nothing of this record any more, whatever its version."""

    def evictions(self) -> int:
        """How many records the back end has thrown out by itself so far, for want of room."""
        return 0

    def close(self) -> None:  # noqa: B027  not every cache has something to let go of
        """Let go of connections; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
