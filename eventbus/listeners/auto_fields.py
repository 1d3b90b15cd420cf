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

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import Column, Date, DateTime, Enum, Integer, String, Uuid, select
from sqlalchemy.orm import InstanceState, LoaderCallableStatus, Mapper, RelationshipProperty, Session, UOWTransaction
from sqlalchemy.types import TypeDecorator, TypeEngine

from eventbus.errors import ConfigurationError
from eventbus.events.context import AUTHORS, author_of, current_author, told
from eventbus.events.ids import short_id, uuid7
from eventbus.listeners.base import Listener
from eventbus.listeners.plan import comparison
from eventbus.muting import is_muted

log = logging.getLogger(__name__)

State = InstanceState[Any]
_CHUNK: Final = 500
_TRIES: Final = 20


class IdGenerator(Protocol):
    """Makes ids. One with `may_collide = True` is asked again for each id that is taken already."""

    def __call__(self) -> str: ...


class ShortIds:
    """Ids for people, of `length` characters of about 5 bits each.

    A new id is compared with those of the session and, one SELECT a flush, with those of the table. What remains is
    two transactions that draw the same id at the same time: the second gets an IntegrityError and may retry.
    """

    may_collide = True

    def __init__(self, length: int = 8) -> None:
        self._length = length

    def __call__(self) -> str:
        return short_id(self._length)


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
        moment = _Moment(session, self._author, self._now)
        nameless: dict[_Plan, list[State]] = {}
        plans = self._plans
        for state in list(session._new):
            plan = plans.get(state.manager.mapper) or self._plan(state.mapper)
            if plan.active:
                if plan.id_key is not None and state.dict.get(plan.id_key) is None:
                    nameless.setdefault(plan, []).append(state)
                _fill(plan.on_creation, state, moment)
        for plan, states in nameless.items():
            self._name(session, plan, states)
        deleted = session._deleted
        for state in list(session.identity_map._modified):
            plan = plans.get(state.manager.mapper) or self._plan(state.mapper)
            if plan.on_change and state not in deleted and plan.is_changed(state):
                _stamp(plan.on_change, state, moment)

    def _plan(self, mapper: Mapper[Any]) -> _Plan:
        plan = self._plans.get(mapper)
        if plan is None:
            plan = self._plans[mapper] = _Plan(mapper, self._names)
        return plan

    def _name(self, session: Session, plan: _Plan, states: list[State]) -> None:
        if getattr(self._new_id, "may_collide", False):
            ids = self._unused_ids(session, plan, len(states))
        else:
            ids = [self._new_id() for _ in states]
        for state, new in zip(states, ids, strict=True):
            plan.set_id(state, new)

    def _unused_ids(self, session: Session, plan: _Plan, count: int) -> list[str]:
        """Ids that neither the session nor the table has."""
        taken = plan.ids_in(session)
        chosen: list[str] = []
        for _ in range(_TRIES):
            drawn = {self._new_id() for _ in range(count - len(chosen))} - taken
            fresh = drawn - plan.ids_in_table(session, drawn)
            chosen += fresh
            taken |= drawn
            if len(chosen) == count:
                return chosen
        raise ConfigurationError(
            f"{plan.id_column}: {_TRIES} times in a row too many of the new ids were taken; "
            "use longer ones (new_id=ShortIds(12))"
        )


class _Moment:
    """Author and time of one flush, looked up when first needed."""

    __slots__ = ("_author", "_clock", "_now", "_session", "_who")

    def __init__(self, session: Session, author: Callable[[], str | None], clock: Callable[[], datetime]) -> None:
        self._session, self._author, self._clock = session, author, clock
        self._who: list[str | None] = []
        self._now: datetime | None = None

    @property
    def author(self) -> str | None:
        if not self._who:
            named = author_of(self._session) if AUTHORS in self._session.info else None
            self._who.append(told(self._author) if named is None else named)
        return self._who[0]

    @property
    def now(self) -> datetime:
        if self._now is None:
            self._now = self._clock()
        return self._now


class _Filler(NamedTuple):
    """One attribute and what it is filled with; the value may be None: then it is left as it is."""

    key: str
    value: Callable[[_Moment], Any]


@dataclass(eq=False, slots=True)
class _Plan:
    """What is filled in on objects of one class."""

    mapper: Mapper[Any]
    names: AutoFieldNames
    active: bool = True
    id_key: str | None = None
    id_column: Column[Any] | None = None
    on_creation: tuple[_Filler, ...] = ()
    on_change: tuple[_Filler, ...] = ()
    _equal: dict[str, Callable[[Any, Any], bool]] = field(default_factory=dict)
    _references: dict[str, RelationshipProperty[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mapper, names = self.mapper, self.names
        if all(column.foreign_keys for column in mapper.primary_key) and mapper.inherits is None:
            self.active = False
            return
        columns = {each.key: each.columns[0] for each in mapper.column_attrs if isinstance(each.columns[0], Column)}
        self._choose_id(mapper)
        created = _fillers(columns, names.created_at, _time, _has_default)
        self.on_change = (
            *_fillers(columns, names.last_author, _author, _has_onupdate),
            *_fillers(columns, names.updated_at, _time, _has_onupdate),
        )
        self.on_creation = (
            *_fillers(columns, names.original_author, _author, _has_default),
            *_fillers(columns, names.last_author, _author, _has_default),
            *created,
            *_fillers(columns, names.updated_at, _time, _has_default),
        )
        self.active = bool(self.id_key or self.on_creation)
        self._equal = {key: comparison(column) for key, column in columns.items()}
        self._references = {
            each.key: each for each in mapper.relationships if each.direction.name == "MANYTOONE" and not each.viewonly
        }

    def _choose_id(self, mapper: Mapper[Any]) -> None:
        if len(mapper.primary_key) != 1:
            return
        (column,) = mapper.primary_key
        if not isinstance(column, Column):
            return
        if column.foreign_keys or _has_default(column) or not _holds_ids(column.type):
            return
        self.id_key, self.id_column = mapper.get_property_by_column(column).key, column

    def set_id(self, state: State, new: str) -> None:
        """Give an object its id. Raises ConfigurationError where the column cannot hold it."""
        assert self.id_key is not None
        assert self.id_column is not None
        type_ = self.id_column.type
        if isinstance(type_, Uuid):
            setattr(state.obj(), self.id_key, UUID(new) if type_.as_uuid else new)
            return
        length = getattr(type_, "length", None)
        if length is not None and len(new) > length:
            raise ConfigurationError(
                f"{self.id_column} holds {length} characters, a new id has {len(new)}: widen the column, give the "
                f"objects ids of your own, or install with new_id=ShortIds({length})"
            )
        setattr(state.obj(), self.id_key, new)

    def ids_in(self, session: Session) -> set[Any]:
        """Ids of this class's new objects in the session."""
        base = self.mapper.base_mapper
        states = (each for each in session._new if each.mapper.base_mapper is base)
        return {each.dict.get(str(self.id_key)) for each in states}

    def ids_in_table(self, session: Session, ids: Iterable[str]) -> set[Any]:
        """Which of these ids the table has."""
        column = self.id_column
        assert column is not None
        connection = session.connection(bind_arguments={"mapper": self.mapper})
        drawn = sorted(ids)
        found: set[Any] = set()
        for start in range(0, len(drawn), _CHUNK):
            found.update(connection.scalars(select(column).where(column.in_(drawn[start : start + _CHUNK]))))
        return found

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


def _fill(fillers: Iterable[_Filler], state: State, moment: _Moment) -> None:
    """On a new object: what is not set, or None."""
    dict_ = state.dict
    for key, value in fillers:
        if dict_.get(key) is None:
            _set(state, key, value(moment))


def _stamp(fillers: Iterable[_Filler], state: State, moment: _Moment) -> None:
    """On a changed object: what was not set since it was loaded."""
    committed = state.committed_state
    for key, value in fillers:
        if key not in committed:
            _set(state, key, value(moment))


def _set(state: State, key: str, value: Any) -> None:
    if value is not None:
        setattr(state.obj(), key, value)


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


def _fillers(
    columns: dict[str, Column[Any]],
    names: Iterable[str],
    make: Callable[[TypeEngine[Any]], Callable[[_Moment], Any] | None],
    has_own: Callable[[Column[Any]], bool],
) -> list[_Filler]:
    found = []
    for name in names:
        column = columns.get(name)
        value = None if column is None or has_own(column) else make(column.type)
        if value is not None:
            found.append(_Filler(name, value))
    return found


def _has_default(column: Column[Any]) -> bool:
    return column.default is not None or column.server_default is not None or column.identity is not None


def _has_onupdate(column: Column[Any]) -> bool:
    return column.onupdate is not None or column.server_onupdate is not None


def _holds_ids(type_: TypeEngine[Any]) -> bool:
    return isinstance(type_, String | Uuid) and not isinstance(type_, Enum)


def _author(type_: TypeEngine[Any]) -> Callable[[_Moment], Any] | None:
    """The author as the column has it: text, number or UUID."""
    if isinstance(type_, Integer):
        return lambda moment: _as(int, moment.author)
    if isinstance(type_, Uuid) and type_.as_uuid:
        return lambda moment: _as(UUID, moment.author)
    return lambda moment: moment.author


def _as(kind: Callable[[str], Any], author: str | None) -> Any:
    """The author as a column has it; None, with a line in the log, for one that it cannot have."""
    try:
        return None if author is None else kind(author)
    except ValueError:
        log.warning("author not stamped: %r is no %s, as the column has it", author, kind)
        return None


def _time(type_: TypeEngine[Any]) -> Callable[[_Moment], datetime | date] | None:
    """The time as the column has it: aware where it keeps a zone, else naive UTC; None for what is no time."""
    plain = type_.impl_instance if isinstance(type_, TypeDecorator) else type_
    if isinstance(plain, DateTime):
        if plain.timezone:
            return lambda moment: moment.now
        return lambda moment: moment.now.replace(tzinfo=None)
    if isinstance(plain, Date):
        return lambda moment: moment.now.date()
    return None
