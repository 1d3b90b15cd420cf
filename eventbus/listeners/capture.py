"""After a flush: what it inserted, updated and deleted, as plain values, into the frame of its transaction.

The flush's own list of objects is the source (`flush_context.states`): the Session's collections miss delete-orphans.
Values come from the objects' dictionaries, never from attributes: reading an attribute may run a SELECT or raise. What
is not there (a server default that was not returned, a deferred column) is MISSING and read at the commit, if it is
published at all.

Statements are captured by `bulk`, which records into the same ledger: `Capture.open`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.orm import InstanceState, LoaderCallableStatus, Mapper, Session, UOWTransaction, object_mapper

from eventbus.errors import CaptureError
from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.events.context import author_of, current_author, told
from eventbus.events.notes import current_notes
from eventbus.listeners.base import Listener
from eventbus.listeners.cascades import warn_of_conflicts
from eventbus.listeners.doubt import DOUBTED, Doubted, is_doubted
from eventbus.listeners.frame import Frame, Recorded
from eventbus.listeners.ledger import Ledger, open_ledger
from eventbus.listeners.links import link_rows
from eventbus.listeners.places import Places
from eventbus.listeners.plan import ATOMS, Plan, Plans, needed_positions
from eventbus.listeners.present import Present
from eventbus.listeners.transactional import AUTOCOMMIT, autocommitting, check_transactional
from eventbus.muting import MUTED
from eventbus.process import failpoints
from eventbus.records.entities import Entities
from eventbus.records.expressions import is_expression

_OVERWRITTEN: Final = "eventbus.overwritten"
_MODIFIED: Final = "eventbus.modified"
_SWITCHED: Final = (True, True)
"""Flags of a state in a flush: is to be deleted, but is only listed."""
State = InstanceState[Any]


class Overwritten(NamedTuple):
    """Old values, by key, that a flush leaves no history of: of columns it sets by itself (`volatile`), and of others.

    `expressions`: of columns set to expressions, and of a version counter that the application sets.
    `expired`: keys that were not loaded before the flush, so that it is not the flush that has expired them.
    """

    expressions: dict[str, Any]
    volatile: dict[str, Any]
    expired: frozenset[str]


_NOTHING: Final = Overwritten({}, {}, frozenset())


class Capture(Listener):
    """Records every flush, and opens the ledger for others who record.

    `author`: called once a flush for whoever acts, where `acting_as` does not say.
    """

    critical = True

    def __init__(self, entities: Entities, *, author: Callable[[], Any] | None = None) -> None:
        self.entities = entities
        self.plans = Plans(entities)
        self.places = Places()
        self.present = Present()
        self.ended = False
        self._author = author

    def uninstalled(self, session_class: type[Session]) -> None:
        """What a transaction that goes on has recorded is of no more use."""
        self.ended = True

    def open(self, session: Session) -> Ledger | None:
        """The ledger to record into, or None where this session is not to be captured (now)."""
        if MUTED in session.info:
            return None
        ledger = open_ledger(session, self)
        if ledger is not None:
            if (author := self.author(session)) is not None:
                ledger.author = author
            if notes := current_notes():
                ledger.notes = {**(ledger.notes or {}), **notes}
        return ledger

    def needed(self, entity: Entity, connection: Connection) -> Sequence[int]:
        """The positions of an entity's rows that are published, so that they have to be known; if they are there."""
        positions, absent = needed_positions(entity), self.present.absent_of(connection, entity.columns)
        return [each for each in positions if entity.columns[each] not in absent] if absent else positions

    def author(self, session: Session | None = None) -> str | None:
        """Who acts now: `acting_as` wins over the installation's `author`."""
        author = current_author() if session is None else author_of(session)
        if author is None and self._author is not None:
            return told(self._author)
        return author

    def before_flush(self, session: Session, flush_context: UOWTransaction, instances: Sequence[Any] | None) -> None:
        """Keep the old values that the flush will overwrite without leaving a history."""
        info = session.info
        if MUTED in info:
            return
        if AUTOCOMMIT in info:
            self.check_flush(session)
        modified = session.identity_map._modified
        if not modified:
            return
        overwritten: dict[State, Overwritten] = {}
        plans = self.plans
        for state in modified:
            plan = plans[state.manager.mapper]
            if plan.leaves_no_history or state.expired_attributes:
                overwritten[state] = _overwritten(plan, state)
                continue
            dict_ = state.dict
            for key in state.committed_state:
                # Most values are of the usual types: that is much cheaper to tell than what an expression is.
                if type(dict_.get(key)) not in ATOMS:
                    overwritten[state] = _overwritten(plan, state)
                    break
        flush_context.attributes[_OVERWRITTEN] = overwritten
        flush_context.attributes[_MODIFIED] = set(modified)

    def after_flush(self, session: Session, flush_context: UOWTransaction) -> None:
        """Record what the flush did."""
        ledger = self.open(session)
        if ledger is None:
            return
        flushed = _Flush(session, flush_context, self, ledger)
        flushed.read()
        flushed.record()
        ledger.flushed = session._transaction
        failpoints.hit("after_flush")

    def check_flush(self, session: Session) -> None:
        """Raise CaptureError if the flush is about to write on a connection without transactions."""
        for connection in autocommitting(session):
            changed = (each for each in session.dirty if session.is_modified(each))
            for mapper in {object_mapper(each) for each in (*session.new, *session.deleted, *changed)}:
                plan = self.plans[mapper]
                written = plan.entity is not None or plan.links
                if written and session.get_bind(mapper=mapper).engine is connection.engine:
                    check_transactional(session, connection)


class _Flush:
    """One flush, sorted into what it did.

    `old`: objects whose deletion was called off because a new object has their key (row switch), by identity key.

    Updates go into the frame as they are met. What came and what went away is put there at the end, in that order: a
    key may have gone from one object to another, a link may show on both its sides.
    """

    __slots__ = (
        "connections", "created", "deleted", "doubted", "flush_context", "frame", "linked", "modified", "old",
        "overwritten", "partial", "places", "plans", "session", "unlinked",
    )  # fmt: skip

    def __init__(self, session: Session, flush_context: UOWTransaction, capture: Capture, ledger: Ledger) -> None:
        self.session = session
        self.flush_context = flush_context
        self.plans = capture.plans
        self.places = capture.places
        self.connections = ledger.connections
        self.frame = ledger.frame(session)
        self.overwritten: dict[State, Overwritten] = flush_context.attributes.get(_OVERWRITTEN, {})
        self.modified: Collection[State] = flush_context.attributes.get(_MODIFIED, ())
        self.doubted: Doubted = session.info.get(DOUBTED, {})
        self.old: dict[Any, State] = {}
        self.created: dict[Entity, dict[Key, Values]] = {}
        self.deleted: dict[Entity, dict[Key, dict[str, Any]]] = {}
        self.linked: dict[Entity, dict[Key, Values]] = {}
        self.unlinked: dict[Entity, dict[Key, dict[str, Any]]] = {}
        self.partial: set[Entity] = set()

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

    def record(self) -> None:
        """Put into the frame what went away, then what came."""
        if self.unlinked or self.deleted:
            self._record_gone()
        for entity, rows in self.created.items():
            self.frame.created_rows(entity, rows, whole=entity not in self.partial)
        for entity, rows in self.linked.items():
            self.frame.created_rows(entity, rows, whole=entity not in self.partial)
        if self.frame.notes:
            self._record_statements()

    def _record_statements(self) -> None:
        """What statements did that events of mappers ran within the flush.

        The objects were flushed without knowing of them: recorded first, the statements' rows would be overwritten by
        what the objects hold.
        """
        notes, self.frame.notes = self.frame.notes, []
        for note in notes:
            done = Frame()
            note(done)
            for entity, records in done.records.items():
                self._reconcile(entity, records)
            self.frame.merge(done)

    def _reconcile(self, entity: Entity, records: dict[Key, Recorded | Values]) -> None:
        """A row that the flush has deleted is gone, whatever a statement did to it before.

        Raises CaptureError where a statement has deleted the row in whose place the flush wrote a new one.
        """
        created, deleted = self.created.get(entity, {}), self.deleted.get(entity, {})
        for pk, record in list(records.items()):
            if isinstance(record, tuple):
                continue
            if record.op == "u" and pk in deleted:
                del records[pk]
                self._recall(entity, pk, deleted[pk], record.before)
            elif record.op == "d" and pk in created and _is_another(entity, record.before, created[pk]):
                raise CaptureError(
                    f"{entity.name}{pk}: a statement has deleted the row within the flush that writes a new one in its "
                    "place, so what became of the record cannot be told. Delete it before the flush, or with "
                    "session.delete()"
                )

    def _recall(self, entity: Entity, pk: Key, seen: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """Where the deleted object knew what the statement had set, what went away is what the statement found."""
        gone = self.frame.records[entity].get(pk)
        if isinstance(gone, Recorded) and gone.op == "d":
            for key, old in before.items():
                if old is not MISSING and key in seen and gone.before.get(key, MISSING) is seen[key]:
                    gone.before[key] = old

    def _record_gone(self) -> None:
        for away in (self.unlinked, self.deleted):
            for entity, gone in away.items():
                for pk, before in gone.items():
                    self.frame.deleted(entity, pk, before)

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
        rows = self.created.get(entity)
        if rows is None:
            rows = self.created[entity] = {}
            self._touch(entity, plan.mapper)
        rows[pk] = values
        if not whole:
            self.partial.add(entity)

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
        self._touch(entity, plan.mapper)
        values, whole = plan.seen(after, plan.is_whole(after))
        self.frame.updated(entity, pk, before, values, whole=whole)
        return True

    def _update(self, plan: Plan, entity: Entity, state: State) -> None:
        overwritten = self.overwritten.get(state, _NOTHING) if self.overwritten else _NOTHING
        dict_ = state.dict
        before = _set_columns(plan, state.committed_state, dict_)
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
            values, whole, exact = self._without_doubted(plan, state, before, values), False, False
        if not plan.cascades.followed.isdisjoint(before):
            plan.cascades.row_moved()
        if not plan.identity.isdisjoint(before):
            now = self.plans[plan.mapper_of(dict_)]
            if now is not plan or not plan.pk_keys.isdisjoint(before):
                self._move(plan, now, state, before, values)
                return
        if entity not in self.connections:
            self._touch(entity, plan.mapper)
        self.frame.updated(entity, state.key[1], before, values, whole=whole, exact=exact)  # type: ignore[index]

    def _without_doubted(self, plan: Plan, state: State, before: dict[str, Any], values: Values) -> Values:
        """The row, and the old values, without what the object may have of a savepoint that was rolled back."""
        doubted, committed, dict_ = self.doubted[state], state.committed_state, state.dict
        for key in before:
            if is_doubted(doubted, key, committed.get(key, MISSING)):
                before[key] = MISSING
        return tuple(
            [
                MISSING if key not in before and is_doubted(doubted, key, dict_.get(key, MISSING)) else value
                for key, value in zip(plan.keys, values, strict=True)
            ]
        )

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
            self._touch(entity, plan.mapper)
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
            if gone:
                self.unlinked.setdefault(entity, {}).update(gone)
            if came:
                self.linked.setdefault(entity, {}).update(came)
                if link.partial:
                    self.partial.add(entity)
            if gone or came:
                self._touch(entity, link.carrier)

    def _gone(self, entity: Entity, mapper: Mapper[Any], pk: Key, before: dict[str, Any]) -> None:
        self._touch(entity, mapper)
        self.deleted.setdefault(entity, {})[pk] = before

    def _came(self, plan: Plan, entity: Entity, pk: Key, values: Values) -> None:
        self._touch(entity, plan.mapper)
        self.created.setdefault(entity, {})[pk] = values
        if not plan.is_whole(values):
            self.partial.add(entity)

    def _touch(self, entity: Entity, mapper: Mapper[Any]) -> None:
        """Note where an entity's rows are written. Raises CaptureError on a connection without transactions."""
        if entity not in self.connections:
            connection = _connection(self.flush_context, mapper)
            check_transactional(self.session, connection)
            self.places.check(entity, connection)
            self.connections[entity] = connection
            plan = self.plans[mapper]
            if plan.conflicts and connection.dialect.name == "sqlite":
                warn_of_conflicts(entity.name, plan.conflicts)
                plan.conflicts = ""


def _is_spelt_alike(pk: Key, other: Key) -> bool:
    """Whether two keys are one in the database: a number or UUID that was given as text (`session.merge` does so)."""
    return tuple(map(str, pk)) == tuple(map(str, other))


def _is_another(entity: Entity, before: Mapping[str, Any], created: Values) -> bool:
    """Whether a row that was there is not the one that was made."""
    return any(
        MISSING is not before.get(key, MISSING) != value is not MISSING
        for key, value in zip(entity.keys, created, strict=True)
    )


def _set_columns(plan: Plan, committed: dict[str, Any], dict_: dict[str, Any]) -> dict[str, Any]:
    """The columns that the flush set, with their old values: as the flush itself decides it."""
    before: dict[str, Any] = {}
    equal, mutable = plan.equal, plan.mutable
    for key, old in committed.items():
        is_equal = equal.get(key)
        if is_equal is None:
            continue
        if type(old) is LoaderCallableStatus:
            before[key] = MISSING
        elif is_equal(dict_.get(key), old) is not True:
            before[key] = plan.freeze(old) if key in mutable else old
    return before


def _overwritten(plan: Plan, state: State) -> Overwritten:
    dict_, equal = state.dict, plan.equal
    expressions: dict[str, Any] = {}
    for key, old in state.committed_state.items():
        new = dict_.get(key)
        if type(new) not in ATOMS and key in equal and is_expression(new):
            expressions[key] = MISSING if type(old) is LoaderCallableStatus else old
    counter = plan.counter
    if counter is not None and counter in state.committed_state and counter not in expressions:
        expressions.update(_set_columns(plan, {counter: state.committed_state[counter]}, dict_))
    volatile = {key: dict_[key] for key in plan.volatile if key in dict_}
    return Overwritten(expressions, volatile, frozenset(state.expired_attributes))


def _written(entity: Entity, plan: Plan, values: Values, written: Collection[str]) -> Values:
    """The row as far as it is its key, or was written."""
    keys = entity.keys
    return tuple(
        [value if key in written or key in plan.pk_keys else MISSING for key, value in zip(keys, values, strict=True)]
    )


def _connection(flush_context: UOWTransaction, mapper: Mapper[Any]) -> Connection:
    """The connection that the flush wrote this mapper's rows on.

    `transaction.connection(mapper)` says so, and costs as much as all else here for a single row. A transaction that
    holds one connection needs no asking.
    """
    transaction = flush_context.transaction
    held = transaction._parent._connections  # type: ignore[union-attr]  # a flush has a transaction of its own
    if len(held) == 2:  # listed under itself and under its engine
        return next(iter(held.values()))[0]
    return transaction.connection(mapper)
