"""What a transaction changes so far: plain values, folded to one net change a record.

Capture writes each flush into the `Frame` of its (nested) transaction. A released savepoint's frame merges into its
parent's, a rolled-back one is dropped. At the commit the root frame holds at most one `Recorded` a record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from typing import Any

from eventbus.events.change import MISSING, Entity, Key, Op, Values


class Recorded:
    """The net change of one record in one frame.

    `after`: values aligned with `entity.keys`, MISSING where unknown; None for a deletion.
    `before`: for an update the old value of each column that was written, MISSING where it was never loaded; for a
    deletion all that was known of the row; empty for a creation.
    `exact`: the keys of `before` are known to be those that changed.
    `certain`: beside the keys of `before`, those of which `after` is what the row holds, since it was read; None: no
    more than these, the others are what an object had, which may be stale.
    `stale`: the old values may be an object's too, so that what came back to its old value may have changed the row.
    """

    __slots__ = ("after", "before", "certain", "entity", "exact", "op", "pk", "stale")

    def __init__(
        self,
        op: Op,
        entity: Entity,
        pk: Key,
        before: dict[str, Any],
        after: Values | None,
        exact: bool = False,
        *,
        certain: tuple[str, ...] | None = None,
        stale: bool = True,
    ) -> None:
        self.op = op
        self.entity = entity
        self.pk = pk
        self.before = before
        self.after = after
        self.exact = exact
        self.certain = certain
        self.stale = stale

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
            changed = [key for key, old in self.before.items() if differs(old, after[positions[key]])]
        if len(changed) > 1:
            changed.sort(key=positions.__getitem__)
        return changed

    def came_back(self) -> bool:
        """Whether an update wrote anything that is published, changed or not; a key is what it was in any case."""
        entity = self.entity
        key = {entity.keys[position] for position in entity.pk_index}
        return not self.before.keys() <= (entity.quiet | key)


Net = tuple[Recorded, tuple[str, ...]]
"""A record that was written, and which of its keys changed (of an update; none where all came back)."""


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
        """The records to be published; apart from them those of which nothing published has changed.

        An update that came back to where it began is published if the object may have been stale: the row may have had
        another value, which it has no more.
        """
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
                    if not entity.quiet.issuperset(changed) or (record.stale and record.came_back()):
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
        certain: bool = False,
    ) -> None:
        """Columns of a row were written: `before` has exactly their keys, with the old values (MISSING where unknown).

        `whole`: the caller knows that no value of `after` is MISSING; `exact`: that all of these columns did change;
        `certain`: that old and new values are the row's, which is locked (it was read, or a statement gave it back),
        and not an object's, of which only what it wrote is.
        """
        if not whole:
            self._note_missing(entity, after)
        records = self.records.get(entity)
        if records is None:
            records = self.records[entity] = {}
        earlier = records.get(pk)
        if earlier is None:
            records[pk] = (
                Recorded("u", entity, pk, before, after, exact, certain=entity.keys, stale=False)
                if certain
                else Recorded("u", entity, pk, before, after, exact)
            )
        elif type(earlier) is tuple:
            records[pk] = _overlay(entity, earlier, after, before, entity.keys, certain=certain)
        else:
            _update(earlier, before, after, certain=certain)  # type: ignore[arg-type]

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

    def copied(self, entities: Collection[Entity]) -> Frame:
        """These entities' records as they are now."""
        part = Frame()
        for entity, records in self.records.items():
            if entity in entities:
                part.records[entity] = {pk: each if type(each) is tuple else copy(each) for pk, each in records.items()}
        part.partial = self.partial & part.records.keys()
        return part

    def split(self, entities: Collection[Entity]) -> Frame:
        """Take these entities' records out, into a frame of their own."""
        part = Frame()
        part.records = {entity: self.records.pop(entity) for entity in list(self.records) if entity in entities}
        part.partial = self.partial & part.records.keys()
        self.partial = self.partial - part.partial
        return part

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
                self._fold_update(entity, pk, record)  # type: ignore[arg-type]

    def _fold_update(self, entity: Entity, pk: Key, record: Recorded) -> None:
        assert record.after is not None
        self.updated(entity, pk, record.before, record.after, certain=record.certain is not None)
        ours = self.records[entity][pk]
        if type(ours) is Recorded:
            ours.stale = ours.stale or record.stale

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


def differs(old: Any, new: Any) -> bool:
    """Whether two values of a column are known to differ, or not known to be equal."""
    if old is MISSING or new is MISSING or type(old) is not type(new):
        return True
    try:
        return bool(old != new) and bool(old == old or new == new)  # noqa: PLR0124 - not a number is not even itself
    except Exception:  # noqa: BLE001 - the application's own comparison
        # Values that compare element by element (arrays of numpy) have no one answer, others refuse.
        return True


def _update(earlier: Recorded, before: dict[str, Any], after: Values, *, certain: bool) -> None:
    """A record updated or deleted before in this frame is now updated: the oldest old values stay."""
    entity, kept = earlier.entity, earlier.certain or earlier.before
    earlier.exact = False
    earlier.after = (
        after if earlier.after is None else _overlay(entity, earlier.after, after, before, kept, certain=certain)
    )
    if certain:
        earlier.certain = entity.keys
    else:
        earlier.stale = True
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
    earlier.after, earlier.exact, earlier.certain = after, False, earlier.entity.keys


def _delete(earlier: Recorded, before: Mapping[str, Any]) -> None:
    """A record updated before in this frame is now deleted: what it was before the frame is what went away."""
    known = {key: value for key, value in earlier.before.items() if value is not MISSING}
    overwritten = earlier.before.keys() - known.keys()
    rest = {key: value for key, value in before.items() if key not in overwritten}
    earlier.op, earlier.after, earlier.before = "d", None, {**rest, **known}


def _overlay(
    entity: Entity,
    older: Values,
    newer: Values,
    touched: Mapping[str, Any],
    kept: Collection[str],
    *,
    certain: bool,
) -> Values:
    """The newer values where the column was written since; else, of those `kept`, the older ones.

    `kept` are the row's own: written or read before. What the object holds that was flushed since need not be: it may
    have been changed in place where nothing tracks that, or be left over from a savepoint. Of the other columns neither
    is certain, and the newer is the better guess. What was not known stays so, to be read at the commit: a statement
    may have changed it. `certain` newer values are the row's, too, as far as they are known.
    """
    if certain:
        return tuple(
            [
                old if new is MISSING and key in kept and key not in touched else new
                for key, old, new in zip(entity.keys, older, newer, strict=True)
            ]
        )
    return tuple(
        [
            new if key in touched or (key not in kept and old is not MISSING and new is not MISSING) else old
            for key, old, new in zip(entity.keys, older, newer, strict=True)
        ]
    )
