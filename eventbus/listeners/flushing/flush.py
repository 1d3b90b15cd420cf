"""One flush, object by object: which records it made, changed and deleted, as plain values.

The flush's own list of objects is the source (`flush_context.states`): the Session's collections miss delete-orphans.
Values come from the objects' dictionaries, never from attributes: reading an attribute may run a SELECT or raise. What
is not there (a server default that was not returned, a deferred column) is MISSING and read at the commit, if it is
published at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy.orm import InstanceState, Mapper, Session, UOWTransaction

from eventbus.errors import CaptureError
from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.listeners.flushing.gathered import Gathered
from eventbus.listeners.flushing.links import link_rows
from eventbus.listeners.flushing.overwritten import NOTHING, modified_before, overwritten_by, set_columns
from eventbus.listeners.flushing.plan import Plan, Plans
from eventbus.listeners.flushing.savepoint_leftovers import DOUBTED, Doubted, is_doubted, without_doubted
from eventbus.listeners.flushing.tables import Tables

_SWITCHED: Final = (True, True)
"""Flags of a state in a flush: is to be deleted, but is only listed."""
State = InstanceState[Any]


class Flush:
    """The walk over one flush's objects. Updates go into the frame as they are met, the rest into `gathered`.

    `old`: objects whose deletion was called off because a new object has their key (row switch), by identity key.
    """

    __slots__ = (
        "doubted", "flush_context", "frame", "gathered", "modified", "old", "overwritten", "plans", "session", "tables",
    )  # fmt: skip

    def __init__(self, session: Session, flush_context: UOWTransaction, plans: Plans, tables: Tables) -> None:
        self.session = session
        self.flush_context = flush_context
        self.plans = plans
        self.tables = tables
        self.frame = tables.ledger.frame(session)
        self.gathered = Gathered(self.frame)
        self.overwritten = overwritten_by(flush_context)
        self.modified = modified_before(flush_context)
        self.doubted: Doubted = session.info.get(DOUBTED, {})
        self.old: dict[Any, State] = {}

    def run(self) -> None:
        """Read every object, and put into the frame what became of it."""
        self.read()
        self.gathered.record()

    def read(self) -> None:
        """Sort every object of the flush; new ones in the order they were added."""
        new, states = self.session._new, self.flush_context.states
        all_new = len(states) == len(new) and states.keys() == new.keys()
        if not all_new:
            self.old = {state.key: state for state, flags in states.items() if flags == _SWITCHED}
        for state in new:
            if all_new or state in states:
                plan = self.plans[state.manager.mapper]
                if plan.entity is not None:
                    self._insert(plan, plan.entity, state)
                if plan.links:
                    self._link(plan, state, is_delete=False)
        if not all_new:
            for state, (is_delete, list_only) in states.items():
                if state not in new:
                    self._old_object(state, is_delete=is_delete, list_only=list_only)

    def _old_object(self, state: State, *, is_delete: bool, list_only: bool) -> None:
        plan = self.plans[state.manager.mapper]
        if plan.entity is not None:
            if not is_delete:
                self._update(plan, plan.entity, state)
            elif not list_only:
                self._delete(plan, plan.entity, state)
        if plan.links:
            self._link(plan, state, is_delete=is_delete)

    def _insert(self, plan: Plan, entity: Entity, state: State) -> None:
        values, whole = plan.inserted(state)
        pk = plan.pk(values)
        if plan.kind is not None and (now := self.plans[plan.mapper_of(state.dict)]) is not plan:
            # The base class was given another's discriminator.
            if now.entity is not None:
                self._came(now, now.entity, pk, now.loaded(state.dict)[0])
            return
        if self.old and self._switch(plan, entity, state, pk):
            return
        rows = self.gathered.created.get(entity)
        if rows is None:
            rows = self.gathered.created[entity] = {}
            self.tables.touch(entity, plan.mapper)
        rows[pk] = values
        if not whole:
            self.gathered.partial.add(entity)

    def _switch(self, plan: Plan, entity: Entity, state: State, pk: Key) -> bool:
        """Whether this new object took over the row of a deleted one: then the flush updated the row."""
        identity = plan.mapper.identity_key_from_primary_key(pk)
        old = self.old.get(identity)
        if old is None:
            return False
        old_plan = self.plans[old.mapper]
        known = old_plan.known(old)
        if old_plan.entity is not entity:
            # Another class of the same single table: the old record has gone, and columns nobody set are still there.
            if old_plan.entity is not None:
                self._gone(old_plan.entity, old_plan.mapper, identity[1], known)
            self._came(plan, entity, pk, plan.loaded(state.dict)[0])
            return True
        # What the UPDATE set to something only the database knows is expired on the new object.
        dict_, unknown = state.dict, state.expired_attributes
        before = {key: known.get(key, MISSING) for key in entity.keys if key in dict_ or key in unknown}
        kept = {key: value for key, value in known.items() if key not in unknown}
        after = tuple([dict_.get(key, kept.get(key, MISSING)) for key in entity.keys])
        self.tables.touch(entity, plan.mapper)
        values, whole = plan.seen(after, plan.is_whole(after))
        self.frame.updated(entity, pk, before, values, whole=whole)
        return True

    def _update(self, plan: Plan, entity: Entity, state: State) -> None:
        overwritten = self.overwritten.get(state, NOTHING) if self.overwritten else NOTHING
        dict_ = state.dict
        before = set_columns(plan, state.committed_state, dict_)
        before.update(overwritten.expressions)
        exact = not overwritten.expressions
        if state.expired_attributes and state in self.modified:
            # Set to expressions within the flush (a mapper's event): only that they are expired now tells of it.
            unseen = plan.equal.keys() & state.expired_attributes - overwritten.expired - plan.volatile.keys()
            before = {**dict.fromkeys(unseen, MISSING), **before}
            exact = exact and not unseen
        if not before:
            return
        if plan.rewritten:
            before.update((key, MISSING) for key in plan.rewritten if key in before)
            exact = False
        if plan.volatile:
            plan.add_volatile(before, overwritten.volatile)
            exact = False
        values, whole = plan.loaded(dict_)
        if state in self.doubted:
            values, whole, exact = without_doubted(self.doubted[state], state, plan.keys, before, values), False, False
        if not plan.cascades.followed.isdisjoint(before):
            plan.cascades.row_moved()
        if not plan.identity.isdisjoint(before):
            now = self.plans[plan.mapper_of(dict_)]
            if now is not plan or not plan.pk_keys.isdisjoint(before):
                self._move(plan, now, state, before, values)
                return
        if entity not in self.tables.connections:
            self.tables.touch(entity, plan.mapper)
        self.frame.updated(entity, state.key[1], before, values, whole=whole, exact=exact)  # type: ignore[index]

    def _move(self, plan: Plan, now: Plan, state: State, before: dict[str, Any], values: Values) -> None:
        """A primary key or the discriminator was changed: the old record has gone, a new one has come."""
        entity = plan.entity
        assert entity is not None
        pk = plan.pk(values)
        if any(part is MISSING for part in pk):
            raise CaptureError(
                f"The primary key of a {entity.name} was set to an SQL expression that this database does not return: "
                "set it to a value, or write within eventbus.muted(session)."
            )
        if now is plan and _is_spelt_alike(pk, state.key[1]):  # type: ignore[index]
            self._respell(plan, entity, state, before, values)
            return
        known = {key: value for key, value in zip(entity.keys, values, strict=True) if value is not MISSING}
        known.update(before)
        old = {key: value for key, value in known.items() if value is not MISSING}
        self._gone(entity, plan.mapper, state.key[1], old)  # type: ignore[index]
        # The new record is told of as a whole, and the object may be stale: what was not written is read at the commit.
        if now is plan:
            self._came(plan, entity, pk, _written(entity, plan, values, before))
        elif now.entity is not None:
            self._came(now, now.entity, pk, _written(now.entity, now, now.loaded(state.dict)[0], before))

    def _respell(self, plan: Plan, entity: Entity, state: State, before: Mapping[str, Any], values: Values) -> None:
        """The key was set to what it is, as text: the record stays, under the key that it was read by."""
        written = {key: old for key, old in before.items() if key not in plan.pk_keys}
        if written:
            key = state.key[1]  # type: ignore[index]
            parts = dict(zip(entity.pk_index, key, strict=True))
            after = tuple([parts.get(position, value) for position, value in enumerate(values)])
            self.tables.touch(entity, plan.mapper)
            self.frame.updated(entity, key, written, after, whole=plan.is_whole(after))

    def _delete(self, plan: Plan, entity: Entity, state: State) -> None:
        plan.cascades.row_deleted()
        known = plan.known(state)
        if self.doubted and state in self.doubted:
            doubted = self.doubted[state]
            known = {key: value for key, value in known.items() if not is_doubted(doubted, key, state.dict.get(key))}
        self._gone(entity, plan.mapper, state.key[1], known)  # type: ignore[index]

    def _link(self, plan: Plan, state: State, *, is_delete: bool) -> None:
        for link in plan.links:
            gone, came = link_rows(link, self.flush_context, state, is_delete=is_delete)
            entity = link.entity
            if gone or came:
                self.gathered.link(entity, gone, came, partial=link.partial)
                self.tables.touch(entity, link.carrier)

    def _gone(self, entity: Entity, mapper: Mapper[Any], pk: Key, before: dict[str, Any]) -> None:
        self.tables.touch(entity, mapper)
        self.gathered.deleted.setdefault(entity, {})[pk] = before

    def _came(self, plan: Plan, entity: Entity, pk: Key, values: Values) -> None:
        self.tables.touch(entity, plan.mapper)
        self.gathered.created.setdefault(entity, {})[pk] = values
        if not plan.is_whole(values):
            self.gathered.partial.add(entity)


def _written(entity: Entity, plan: Plan, values: Values, written: Collection[str]) -> Values:
    """The row as far as it is its key, or was written."""
    keys = entity.keys
    return tuple(
        [value if key in written or key in plan.pk_keys else MISSING for key, value in zip(keys, values, strict=True)]
    )


def _is_spelt_alike(pk: Key, other: Key) -> bool:
    """Whether two keys are one in the database: a number or UUID that was given as text (`session.merge` does so)."""
    return tuple(map(str, pk)) == tuple(map(str, other))
