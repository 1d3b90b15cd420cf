"""Records of one model looked at on both sides at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar, final

from eventbus.comparison.difference import Difference, difference
from eventbus.comparison.mirror import Held, Mirror
from eventbus.comparison.rows import AT_ONCE, Row, Rows
from eventbus.events.change import Key

T = TypeVar("T")


class Named(Protocol):
    """A record: its name in the mirror, its key as JSON, and as values; None where the table can hold no such key."""

    @property
    def name(self) -> str: ...

    @property
    def pk(self) -> Any: ...

    @property
    def key(self) -> Key | None: ...


N = TypeVar("N", bound=Named)


class Sight(NamedTuple):
    """What both sides were at one look, as short as can be: hashes, and the version in the mirror."""

    version: int | None
    held: int | None
    row: int | None


class Seen(NamedTuple):
    """What was seen of a record: how it differs (None: not at all), and what both sides were."""

    difference: Difference | None
    sight: Sight


@final
class Looking:
    """The two sides of one model; fields in `quiet` stay home, so they never count."""

    def __init__(self, rows: Rows, mirror: Mirror, model: str, quiet: Sequence[str]) -> None:
        self.rows = rows
        self.mirror = mirror
        self.model = model
        self._quiet = quiet

    def at(self, records: Iterable[N]) -> Iterator[tuple[N, Seen]]:
        """Each of these records, as it is now: the mirror's side first, so that the row is never the older one."""
        for some in batches(records, AT_ONCE):
            held = self.mirror.find(self.model, [each.name for each in some])
            rows = self._rows_of(some)
            for each in some:
                row, theirs = rows.get(each.name), held.get(each.name)
                found = difference(self.model, each.pk, row, theirs, self._quiet)
                yield each, Seen(found, _sight(row, theirs))

    def _rows_of(self, records: Sequence[Named]) -> dict[str, Row]:
        """The rows by the names of their records: a collation may find a row that is another record."""
        keys = [each.key for each in records if each.key is not None]
        return {self.mirror.name(row.pk): row for row in self.rows.find(keys)}


def _sight(row: Row | None, held: Held | None) -> Sight:
    version, content = held or (None, None)
    return Sight(version, None if content is None else hash(content), None if row is None else hash(row.content))


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, so many at a time."""
    remaining = iter(items)
    while some := list(islice(remaining, size)):
        yield some
