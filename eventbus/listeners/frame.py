"""What a transaction changes so far: plain values, folded to one net change a record.

Capture writes each flush into the `Frame` of its (nested) transaction. A released savepoint's frame merges into its
parent's, a rolled-back one is dropped. At the commit the root frame holds at most one `Recorded` a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventbus.events.change import MISSING, Entity, Key, Op, Values


class Recorded:
    """The net change of one record in one frame.

    `after`: values aligned with `entity.keys`, MISSING where unknown; None for a deletion.
    `before`: for an update the old value of each column that was set, MISSING where it was never loaded; for a deletion
    all that was known of the row; empty for a creation.
    `exact`: the keys of `before` are known to be those that changed.
    """

    __slots__ = ("after", "before", "entity", "exact", "op", "pk")

    def __init__(
        self,
        op: Op,
        entity: Entity,
        pk: Key,
        before: dict[str, Any],
        after: Values | None,
        exact: bool = False,
    ) -> None:
        self.op = op
        self.entity = entity
        self.pk = pk
        self.before = before
        self.after = after
        self.exact = exact

    def __repr__(self) -> str:
        return f"<{self.op} {self.entity.name}{self.pk}>"

    def changed(self) -> list[str]:
        """The keys whose value is not what it was, in capture order; a key with an unknown old value counts as changed.

        Empty for an update that came back to where it began (A → B → A).
        """
        if self.op != "u" or self.after is None:
            return []
        positions, after = self.entity.positions, self.after
        if self.exact:
            changed = list(self.before)
        else:
            changed = [key for key, old in self.before.items() if _differs(old, after[positions[key]])]
        if len(changed) > 1:
            changed.sort(key=positions.__getitem__)
        return changed


Net = tuple[Recorded, tuple[str, ...]]
"""A record that did change, and which of its keys (of an update)."""


class Frame:
    """The net changes of one (nested) transaction, by entity and primary key, in the order of their first change.

    A row that the frame created is kept as its bare values: most rows of a large transaction are such, and an object
    for each would be the greater part of what capturing them costs. `net` gives `Recorded`s alike for all.

    `partial` names the entities of which some row may hold MISSING. `committed` is set once the transaction is.
    """

    __slots__ = ("committed", "partial", "records")

    def __init__(self) -> None:
        self.records: dict[Entity, dict[Key, Recorded | Values]] = {}
        self.partial: set[Entity] = set()
        self.committed = False

    def net(self) -> tuple[list[Net], list[Net]]:
        """The records that did change; apart from them those of which nothing published did."""
        net: list[Net] = []
        quiet: list[Net] = []
        for entity, records in self.records.items():
            for pk, record in records.items():
                if isinstance(record, tuple):
                    net.append((Recorded("c", entity, pk, {}, record), ()))
                elif record.op != "u":
                    net.append((record, ()))
                else:
                    changed = tuple(record.before) if record.exact else tuple(record.changed())
                    if not entity.quiet.issuperset(changed):
                        net.append((record, changed))
                    elif changed:
                        quiet.append((record, changed))
        return net, quiet

    def created(self, entity: Entity, pk: Key, after: Values) -> None:
        """A row came into being. After a deletion of the same key it is an update."""
        self._note_missing(entity, after)
        self._create(self._of(entity), pk, after)

    def created_rows(self, entity: Entity, rows: dict[Key, Values], *, whole: bool = False) -> None:
        """Many rows came into being; the frame takes over the dict. `whole`: the caller knows that none is MISSING."""
        if not whole:
            for after in rows.values():
                self._note_missing(entity, after)
        records = self.records.get(entity)
        if not records:
            self.records[entity] = rows  # type: ignore[assignment]
        elif records.keys().isdisjoint(rows):
            records.update(rows)
        else:
            for pk, after in rows.items():
                self._create(records, pk, after)

    def updated(
        self,
        entity: Entity,
        pk: Key,
        before: dict[str, Any],
        after: Values,
        *,
        whole: bool = False,
        exact: bool = False,
    ) -> None:
        """Columns of a row were set: `before` has exactly their keys, with the old values (MISSING where unknown).

        `whole`: the caller knows that no value of `after` is MISSING; `exact`: that all of these columns did change.
        """
        if not whole:
            self._note_missing(entity, after)
        records = self.records.get(entity)
        if records is None:
            records = self.records[entity] = {}
        earlier = records.get(pk)
        if earlier is None:
            records[pk] = Recorded("u", entity, pk, before, after, exact)
        elif type(earlier) is tuple:
            records[pk] = _overlay(entity, earlier, after, before)
        else:
            _update(earlier, before, after)  # type: ignore[arg-type]

    def deleted(self, entity: Entity, pk: Key, before: Mapping[str, Any]) -> None:
        """A row went away; `before` holds what is known of it. One that this frame created leaves no trace."""
        records = self._of(entity)
        earlier = records.get(pk)
        if earlier is None:
            records[pk] = Recorded("d", entity, pk, dict(before), None)
        elif type(earlier) is tuple:
            del records[pk]
        else:
            _delete(earlier, before)  # type: ignore[arg-type]

    def merge(self, child: Frame) -> None:
        """Take over what a released savepoint changed."""
        self.partial |= child.partial
        for entity, theirs in child.records.items():
            ours = self.records.get(entity)
            if not ours:
                self.records[entity] = theirs
            elif ours.keys().isdisjoint(theirs):
                ours.update(theirs)
            else:
                self._fold(entity, theirs)

    def clear(self) -> None:
        """Forget all records: they have been written."""
        self.records = {}
        self.partial = set()

    def _fold(self, entity: Entity, theirs: dict[Key, Recorded | Values]) -> None:
        for pk, record in theirs.items():
            if type(record) is tuple:
                self.created(entity, pk, record)
            elif record.op == "d":  # type: ignore[union-attr]
                self.deleted(entity, pk, record.before)  # type: ignore[union-attr]
            else:
                self.updated(entity, pk, record.before, record.after)  # type: ignore[union-attr, arg-type]

    def _create(self, records: dict[Key, Recorded | Values], pk: Key, after: Values) -> None:
        earlier = records.get(pk)
        if earlier is None or type(earlier) is tuple:
            records[pk] = after
        else:
            _recreate(earlier, after)  # type: ignore[arg-type]

    def _of(self, entity: Entity) -> dict[Key, Recorded | Values]:
        records = self.records.get(entity)
        if records is None:
            records = self.records[entity] = {}
        return records

    def _note_missing(self, entity: Entity, after: Values) -> None:
        if entity not in self.partial and any(value is MISSING for value in after):
            self.partial.add(entity)


def _differs(old: Any, new: Any) -> bool:
    if old is MISSING or new is MISSING or type(old) is not type(new):
        return True
    try:
        return bool(old != new)
    except (TypeError, ValueError):
        # Values that compare element by element (arrays of numpy) have no one answer.
        return True


def _update(earlier: Recorded, before: dict[str, Any], after: Values) -> None:
    """A record updated or deleted before in this frame is now updated: the oldest old values stay."""
    earlier.exact = False
    earlier.after = after if earlier.after is None else _overlay(earlier.entity, earlier.after, after, before)
    if earlier.op == "d":
        earlier.op = "u"
        earlier.before = {**dict.fromkeys(earlier.entity.keys, MISSING), **earlier.before}
    else:
        earlier.before = {**before, **earlier.before}


def _recreate(earlier: Recorded, after: Values) -> None:
    """A row was created under the key of one that was deleted: together an update of every column."""
    if earlier.op == "d":
        earlier.op = "u"
    earlier.before = {**dict.fromkeys(earlier.entity.keys, MISSING), **earlier.before}
    earlier.after, earlier.exact = after, False


def _delete(earlier: Recorded, before: Mapping[str, Any]) -> None:
    """A record updated before in this frame is now deleted: what it was before the frame is what went away."""
    known = {key: value for key, value in earlier.before.items() if value is not MISSING}
    overwritten = earlier.before.keys() - known.keys()
    rest = {key: value for key, value in before.items() if key not in overwritten}
    earlier.op, earlier.after, earlier.before = "d", None, {**rest, **known}


def _overlay(entity: Entity, older: Values, newer: Values, touched: Mapping[str, Any]) -> Values:
    """The newer values, where both are known or the column was set since; else what is older, known or not.

    What was not known stays so: a statement may have changed it, and the object that was flushed since need not know.
    """
    if all(value is not MISSING for value in (*older, *newer)):
        return newer
    return tuple(
        [
            new if key in touched or (old is not MISSING and new is not MISSING) else old
            for key, old, new in zip(entity.keys, older, newer, strict=True)
        ]
    )
