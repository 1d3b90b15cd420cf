"""Before the flush: missing ids, authors and timestamps are filled in, as the application would have set them.

* A missing primary key gets a unique id, where it is one column of text (or Uuid) without default and foreign key.
* The author of the moment becomes the original author of new objects and the last author of new and changed ones.
* `created_at` and `updated_at` get the time of the flush, where the column has no default (`onupdate`) of its own.

What the application sets wins. On a new object None counts as not set (dataclass models set every field); on a changed
object setting the column to anything, None too, is the application's word. Nothing is touched on an object without a
real change, so that no UPDATE arises that would not be sent anyway. Association rows (the whole primary key is foreign
keys) are left alone. Changes that arise only within the flush are not stamped: a foreign key set to NULL since the
parent is deleted, or filled in from a collection that has no back reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column
from sqlalchemy.orm import InstanceState, LoaderCallableStatus, Mapper, RelationshipProperty, Session, UOWTransaction

from eventbus.events.context import current_author
from eventbus.events.ids import uuid7
from eventbus.listeners.base import Listener
from eventbus.listeners.flushing.plan import comparison
from eventbus.listeners.stamping.new_ids import IdColumn, IdGenerator, ShortIds
from eventbus.listeners.stamping.stamps import (
    Moment,
    Stamp,
    author_as,
    fill,
    has_default,
    has_onupdate,
    restamp,
    stamps_of,
    time_as,
)
from eventbus.muting import is_muted

__all__ = ["AutoFieldNames", "AutoFields", "IdGenerator", "ShortIds"]

State = InstanceState[Any]


@dataclass(frozen=True, slots=True)
class AutoFieldNames:
    """The attributes that are filled in, where a class has them as columns."""

    original_author: tuple[str, ...] = ("original_author", "original_author_id", "created_by", "created_by_id")
    last_author: tuple[str, ...] = ("last_author", "last_author_id", "updated_by", "updated_by_id")
    created_at: tuple[str, ...] = ("created_at",)
    updated_at: tuple[str, ...] = ("updated_at",)


class AutoFields(Listener):
    """Fills in ids, authors and timestamps.

    `author` says who acts, once a flush, if anything is to be stamped. `new_id` makes ids; `names` says which
    attributes are filled in.
    """

    critical = True

    def __init__(
        self,
        *,
        author: Callable[[], str | None] = current_author,
        new_id: IdGenerator = uuid7,
        names: AutoFieldNames = AutoFieldNames(),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._author = author
        self._new_id = new_id
        self._names = names
        self._now = now
        self._plans: dict[Mapper[Any], _Plan] = {}

    def before_flush(self, session: Session, flush_context: UOWTransaction, instances: Sequence[Any] | None) -> None:
        """Fill in what is missing on new and changed objects."""
        if is_muted(session):
            return
        moment = Moment(session, self._author, self._now)
        nameless: dict[IdColumn, list[State]] = {}
        plans = self._plans
        for state in list(session._new):
            plan = plans.get(state.manager.mapper) or self._plan(state.mapper)
            if plan.active:
                if plan.id is not None and state.dict.get(plan.id.key) is None:
                    nameless.setdefault(plan.id, []).append(state)
                fill(plan.on_creation, state, moment)
        for id_, states in nameless.items():
            id_.give(session, states, self._new_id)
        deleted = session._deleted
        for state in list(session.identity_map._modified):
            plan = plans.get(state.manager.mapper) or self._plan(state.mapper)
            if plan.on_change and state not in deleted and plan.is_changed(state):
                restamp(plan.on_change, state, moment)

    def _plan(self, mapper: Mapper[Any]) -> _Plan:
        plan = self._plans.get(mapper)
        if plan is None:
            plan = self._plans[mapper] = _Plan(mapper, self._names)
        return plan


class _Plan:
    """What is filled in on objects of one class. `id`: the column that gets an id, if one does."""

    __slots__ = ("_equal", "_references", "active", "id", "on_change", "on_creation")

    def __init__(self, mapper: Mapper[Any], names: AutoFieldNames) -> None:
        self.active = False
        self.id: IdColumn | None = None
        self.on_creation: tuple[Stamp, ...] = ()
        self.on_change: tuple[Stamp, ...] = ()
        self._equal: dict[str, Callable[[Any, Any], bool]] = {}
        self._references: dict[str, RelationshipProperty[Any]] = {}
        if not all(column.foreign_keys for column in mapper.primary_key) or mapper.inherits is not None:
            self._prepare(mapper, names)

    def _prepare(self, mapper: Mapper[Any], names: AutoFieldNames) -> None:
        columns = {each.key: each.columns[0] for each in mapper.column_attrs if isinstance(each.columns[0], Column)}
        self.id = IdColumn.of(mapper)
        self.on_change = (
            *stamps_of(columns, names.last_author, author_as, has_onupdate),
            *stamps_of(columns, names.updated_at, time_as, has_onupdate),
        )
        self.on_creation = (
            *stamps_of(columns, names.original_author, author_as, has_default),
            *stamps_of(columns, names.last_author, author_as, has_default),
            *stamps_of(columns, names.created_at, time_as, has_default),
            *stamps_of(columns, names.updated_at, time_as, has_default),
        )
        self.active = bool(self.id or self.on_creation)
        self._equal = {key: comparison(column) for key, column in columns.items()}
        self._references = {
            each.key: each for each in mapper.relationships if each.direction.name == "MANYTOONE" and not each.viewonly
        }

    def is_changed(self, state: State) -> bool:
        """Whether the flush is going to UPDATE this object's row."""
        dict_ = state.dict
        for key, old in state.committed_state.items():
            equal = self._equal.get(key)
            if equal is not None:
                if type(old) is LoaderCallableStatus or equal(dict_.get(key), old) is not True:
                    return True
            elif key in self._references and _refers_elsewhere(self._references[key], state, old):
                return True
        return False


def _refers_elsewhere(reference: RelationshipProperty[Any], state: State, old: Any) -> bool:
    """Whether setting a many-to-one relationship is going to change the foreign key."""
    new = state.dict.get(reference.key)
    if old is new:
        return False
    pairs = reference.local_remote_pairs or ()
    here = [_column_value(state, local) for local, _ in pairs]
    if new is None:
        return any(value is not None for value in here)
    target: State = new._sa_instance_state
    return here != [_column_value(target, remote) for _, remote in pairs]


def _column_value(state: State, column: Any) -> Any:
    return state.dict.get(state.mapper.get_property_by_column(column).key)
