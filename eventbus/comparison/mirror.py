"""The other side of a comparison: a mirror, and what it can be asked.

Mirrors are found through the entry-point group `eventbus.mirrors`, so that the command need not know the consumers,
and a package of yours can have its own store compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NamedTuple

import orjson

from eventbus.errors import ConfigurationError

GROUP: Final = "eventbus.mirrors"
"""The entry-point group. A value is called with the `Place` that was given, and returns a context manager of a Mirror.
It raises ConfigurationError where there is nothing to compare with."""

STUB: Final = b""
"""The content of a record whose service could not publish it."""
_CANONICAL: Final = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
_HEAD: Final = b'{\n  "fields": {\n'
_TAIL: Final = b'\n  },\n  "model": '
_CLOSED: Final = 4
"""Bytes of `_TAIL` that belong to the fields."""


class Held(NamedTuple):
    """A record as a mirror has it: its version, and its fields as `content` writes them (STUB for a stub)."""

    version: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """What was given on the command line; each wins over the environment."""

    data_dir: str | None = None


class Mirror(ABC):
    """Records by model (`crm.contact`) and name. A name stands for a primary key, and is the mirror's own choice.

    Nothing it does changes anything there. Records that were deleted are not there.
    """

    @abstractmethod
    def name(self, pk: Any) -> str:
        """The name of the record with this primary key (a text, a number, or a list of those)."""

    @abstractmethod
    def pk(self, model: str, name: str) -> Any:
        """The primary key that a name stands for; None where the record is gone and its name does not say."""

    @abstractmethod
    def find(self, model: str, names: Sequence[str]) -> Mapping[str, Held]:
        """Those of the named records that are there. At most some thousand names."""

    @abstractmethod
    def names(self, model: str) -> Iterator[Sequence[str]]:
        """The names of all records of a model, some at a time, in any order; one that changes meanwhile may be told
        twice or not at all."""

    def is_behind(self, since: float) -> bool:
        """Whether it is known to have work that it has not done since this moment (seconds since 1970)."""
        return False

    def is_stopped(self) -> bool:
        """Whether it is known that nothing arrives there now."""
        return False


def content(fields: Any) -> bytes:
    """Fields as both sides write them, so that equal fields are equal bytes: as a file of the mirror begins."""
    return orjson.dumps({"fields": fields}, option=_CANONICAL)[:-2]


def content_of_document(document: bytes) -> bytes:
    """The same, of a file of the mirror. Raises ValueError where it is none.

    The usual file is cut, not read: that is ten times as fast. A text in it has no line break, so nothing else can look
    like the end of the fields.
    """
    end = document.find(_TAIL) if document.startswith(_HEAD) else -1
    if end >= 0:
        return STUB if b'\n  "stub": ' in document[end:] else document[: end + _CLOSED]
    match orjson.loads(document):
        case {"fields": dict(), "stub": dict()}:
            return STUB
        case {"fields": dict(fields)}:
            return content(fields)
    raise ValueError("not a document of the mirror")


def opened(name: str, place: Place) -> AbstractContextManager[Mirror]:
    """The mirror of this name. Raises ConfigurationError where there is none."""
    found = _entries()
    if name not in found:
        raise ConfigurationError(f"--against {name}: say one of {', '.join(sorted(found)) or '(none is installed)'}")
    try:
        opener = found[name].load()
    except ImportError as error:
        raise ConfigurationError(f"{found[name].value} cannot be imported: {error}") from error
    made: AbstractContextManager[Mirror] = opener(place)
    return made


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
