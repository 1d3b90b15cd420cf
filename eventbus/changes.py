"""What a transaction changes: plain values, folded to one net change a record.

Capture writes each flush into the `Frame` of its (nested) transaction. A released savepoint's frame merges into its
parent's, a rolled-back one is dropped. At the commit the root frame holds at most one `Recorded` a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from eventbus.entities import Entity

Op = Literal["c", "u", "d"]


class _Missing:
    """The value of a column nobody has loaded. Falsy; its own type so that it never equals a value."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()

Key = tuple[Entity, tuple[Any, ...]]
"""A record: its entity and its primary key in mapper order."""


class Recorded:
    """The net change of one record in one frame.

    `after`: values aligned with `entity.keys`, MISSING where unknown; None for a deletion.
    `before`: for an update the old value of each column that was set, MISSING where it was never loaded; for a deletion
    all that was known of the row.
    """

    __slots__ = ("after", "before", "entity", "op", "pk")

    def __init__(
        self, op: Op, entity: Entity, pk: tuple[Any, ...], before: dict[str, Any], after: tuple[Any, ...] | None
    ) -> None:
        self.op = op
        self.entity = entity
        self.pk = pk
        self.before = before
        self.after = after

    @property
    def complete(self) -> bool:
        """Whether every column of the row is known."""
        return self.after is None or MISSING not in self.after

    def changed(self) -> list[str]:
        """The keys whose value is not what it was, in capture order; a key with an unknown old value counts as changed.

        Empty for an update that came back to where it began (A → B → A).
        """
        if self.after is None or self.op == "c":
            return []
        positions, after, before = self.entity.positions, self.after, self.before
        return sorted(
            (key for key in before if _differs(before[key], after[positions[key]])), key=positions.__getitem__
        )


class Frame:
    """The records one (nested) transaction changed, in the order of their first change."""

    __slots__ = ("committed", "records")

    def __init__(self) -> None:
        self.records: dict[Key, Recorded] = {}
        self.committed = False

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self.records.values())

    def __len__(self) -> int:
        return len(self.records)

    def created(self, entity: Entity, pk: tuple[Any, ...], after: tuple[Any, ...]) -> None:
        """A row came into being. After a deletion of the same key it is an update (row switch)."""
        earlier = self.records.get((entity, pk))
        if earlier is None:
            self.records[entity, pk] = Recorded("c", entity, pk, {}, after)
        elif earlier.op == "d":
            earlier.op, earlier.after = "u", after
        else:
            earlier.after = after

    def updated(self, entity: Entity, pk: tuple[Any, ...], before: dict[str, Any], after: tuple[Any, ...]) -> None:
        """Columns of a row were set: `before` holds their old values (MISSING where unknown)."""
        earlier = self.records.get((entity, pk))
        if earlier is None:
            self.records[entity, pk] = Recorded("u", entity, pk, before, after)
            return
        earlier.after = after if earlier.after is None else _overlay(earlier.after, after)
        if earlier.op == "d":
            earlier.op = "u"
        if earlier.op == "u":
            earlier.before = {**before, **earlier.before}

    def deleted(self, entity: Entity, pk: tuple[Any, ...], before: Mapping[str, Any]) -> None:
        """A row went away. One that this frame created leaves no trace."""
        earlier = self.records.get((entity, pk))
        if earlier is None:
            self.records[entity, pk] = Recorded("d", entity, pk, dict(before), None)
        elif earlier.op == "c":
            del self.records[entity, pk]
        else:
            known = {key: value for key, value in earlier.before.items() if value is not MISSING}
            earlier.op, earlier.after, earlier.before = "d", None, {**before, **known}

    def merge(self, child: Frame) -> None:
        """Take over what a released savepoint changed."""
        for record in child:
            if record.op == "c":
                self.created(record.entity, record.pk, record.after)  # type: ignore[arg-type]
            elif record.op == "u":
                self.updated(record.entity, record.pk, record.before, record.after)  # type: ignore[arg-type]
            else:
                self.deleted(record.entity, record.pk, record.before)


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change, as in-process hooks see it: plain captured values, before marshmallow.

    `before` and `after` map attribute keys to Python values; `after` is None for a deletion; `before` holds the old
    values as far as they were loaded. `index` and `size` are its place in the transaction.
    """

    op: Literal["created", "updated", "deleted"]
    entity: str
    model: type[Any] | None
    pk: tuple[Any, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any] | None
    changed: tuple[str, ...]
    author: str | None
    transaction: str
    index: int
    size: int


def _differs(old: Any, new: Any) -> bool:
    return old is MISSING or new is MISSING or type(old) is not type(new) or old != new


def _overlay(older: tuple[Any, ...], newer: tuple[Any, ...]) -> tuple[Any, ...]:
    """The newer values, and the older ones where the newer are not known."""
    if MISSING not in newer:
        return newer
    return tuple(old if new is MISSING else new for old, new in zip(older, newer, strict=True))
