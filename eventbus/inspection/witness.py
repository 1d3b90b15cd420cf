"""A place that an event passes (database, broker, mirror), and what it can say.

Witnesses are found through the entry-point group `eventbus.witnesses`, so that the commands need not know the
consumers, and a package of yours can add its own place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Final, Literal

from eventbus.errors import ConfigurationError, EventBusError
from eventbus.events import naming

GROUP: Final = "eventbus.witnesses"
"""The entry-point group. A value is called with the options that were given, and returns a context manager of a
Witness. It raises `Absent` where there is nothing to ask."""

Level = Literal["ok", "note", "wrong", "unknown"]


class Absent(EventBusError):
    """Raised by a witness that cannot be asked, for want of a setting; says which."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence. `wrong` needs somebody to act, and `remedy` says how; `unknown` could not be found out."""

    level: Level
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a place says of itself: figures by name, and what is wrong with them."""

    figures: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """The record that is asked about. `pk` is a text, or a list where the key is composite."""

    service: str
    entity: str
    pk: Any

    @property
    def model(self) -> str:
        """`crm.contact`."""
        return f"{self.service}.{self.entity}"

    @property
    def name(self) -> str:
        """`contact/ab12`, as it stands in an event's `subject`."""
        return naming.subject(self.entity, self.pk)

    @property
    def keys(self) -> tuple[Any, ...]:
        """The keys it may mean: `5` on a command line is a text or a number."""
        if not isinstance(self.pk, str):
            return (self.pk,)
        try:
            number = int(self.pk)
        except ValueError:
            return (self.pk,)
        return (self.pk, number) if str(number) == self.pk else (self.pk,)

    @property
    def routing_keys(self) -> tuple[str, ...]:
        """What its events are published under."""
        return tuple(naming.routing_key(self.service, self.entity, op) for op in ("c", "u", "d"))


@dataclass(slots=True)
class Evidence:
    """What the places before have seen of the record: the row's published fields, or that there is no row; likewise
    the mirror's document. None: nobody could say."""

    row: Mapping[str, Any] | Literal[False] | None = None
    document: Mapping[str, Any] | Literal[False] | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """A row of an outbox that the broker would not take, for people. `time` is RFC 3339, in UTC."""

    id: str
    time: str
    attempts: int
    events: int
    reason: str


class Witness(ABC):
    """A place that can be asked. Nothing it does changes anything there."""

    @abstractmethod
    def status(self) -> Report:
        """How the place is now. Never raises for a place that is away: that is a finding."""

    def why(self, subject: Subject, evidence: Evidence) -> Iterable[Finding]:
        """What it knows of one record, and adds to the evidence."""
        return ()

    def parked(self) -> Sequence[Parked]:
        """What it holds that is tried again seldom, the oldest first, some fifty at most."""
        return ()

    def examine(self) -> Iterable[Finding]:
        """Settings, names, permissions, versions: what is right and what is not."""
        return ()


@dataclass(frozen=True, slots=True)
class Options:
    """What was given on the command line; each wins over the environment."""

    database: str | None = None
    models: str | None = None
    session: str | None = None
    url: str | None = None
    data_dir: str | None = None


Opener = Callable[[Options], Any]


@contextmanager
def witnesses(options: Options) -> Iterator[dict[str, Witness | Absent]]:
    """Every place by its name, in the order of an event's way; one that cannot be asked is told of as Absent."""
    with ExitStack() as stack:
        found: dict[str, Witness | Absent] = {}
        for name, opener in _openers():
            try:
                found[name] = stack.enter_context(opener(options))
            except Absent as absent:
                found[name] = absent
        yield found


@contextmanager
def witness(name: str, options: Options) -> Iterator[Witness]:
    """The place of this name alone. Raises Absent where it cannot be asked."""
    opener = next((opener for each, opener in _openers() if each == name), None)
    if opener is None:
        raise Absent(f"there is no place {name}")
    with opener(options) as found:
        yield found


def _openers() -> Iterator[tuple[str, Opener]]:
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            yield entry.name.partition("-")[2] or entry.name, entry.load()
        except ImportError as error:
            raise ConfigurationError(f"{entry.value} cannot be imported: {error}") from error
