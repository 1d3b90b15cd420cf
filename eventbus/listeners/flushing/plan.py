"""How the rows of one mapped class are read off its objects: prepared once, used for every row."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Table, types
from sqlalchemy.orm import InstanceState, LoaderCallableStatus, Mapper

from eventbus.errors import CaptureWarning
from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.listeners.flushing.cascades import Cascades, conflicts
from eventbus.listeners.flushing.links import Link, links_of
from eventbus.records.entities import Entities

State = InstanceState[Any]
Row = tuple[Values, bool]
"""Values, and whether all of them that are published are known."""

ATOMS: Final = frozenset({str, int, float, bool, bytes, type(None), Decimal, UUID, datetime, date, time, timedelta})
"""Types of values that never change in place."""
_IMMUTABLE_TYPES: Final = (
    types.String, types.Integer, types.Numeric, types.Float, types.Boolean, types.Date, types.DateTime, types.Time,
    types.Interval, types.Uuid, types.LargeBinary,
)  # fmt: skip


class Plans(dict[Mapper[Any], "Plan"]):
    """The plans of one installation, made as their mappers are first flushed."""

    def __init__(self, entities: Entities) -> None:
        super().__init__()
        self._entities = entities

    def __missing__(self, mapper: Mapper[Any]) -> Plan:
        plan = self[mapper] = Plan(mapper, self._entities)
        return plan


class Plan:
    """What capture needs to know of one mapper."""

    __slots__ = (
        "_blank", "_known_blank", "_mutable_index", "_needed", "_row", "_touched_up",
        "cascades", "conflicts", "counter", "counts_up", "entity", "equal", "identity", "keys", "kind",
        "leaves_no_history", "links", "mapper", "mutable", "pk", "pk_keys",
        "rewritten", "volatile",
    )  # fmt: skip

    entity: Entity | None
    """None where this class is not captured."""
    keys: tuple[str, ...]
    """Those of a row, in its order."""
    pk: Callable[[Values], Key]
    """The primary key within a row."""
    pk_keys: frozenset[str]
    kind: str | None
    """The key of the discriminator, if a row may be a record of another class of the same tables."""
    identity: frozenset[str]
    """Those, and the key of the discriminator: setting one of them may make another record of the row."""
    equal: dict[str, Callable[[Any, Any], bool]]
    """For each column's key how the flush tells whether a set value differs from the old one."""
    mutable: frozenset[str]
    """Keys whose values may be changed in place later, so they are copied: not of a primary key, whose hash stays."""
    rewritten: frozenset[str]
    """Keys of columns whose type wraps values into SQL, on their way in or out: what is read is never what was set."""
    volatile: dict[str, Table]
    """Keys that an UPDATE sets by itself (onupdate, computed, version counter), with the table whose UPDATE does."""
    counter: str | None
    """The key of a version counter that the application may set itself: the flush forgets what it was."""
    counts_up: bool
    """Whether there is a version counter that SQLAlchemy or the database sets with each UPDATE."""
    leaves_no_history: bool
    """Whether there are any of either."""
    links: tuple[Link, ...]
    cascades: Cascades
    conflicts: str
    """How SQLite resolves conflicts where no error tells."""

    def __init__(self, mapper: Mapper[Any], entities: Entities) -> None:
        self.mapper = mapper
        self.entity = entity = entities.for_mapper(mapper)
        self.links = links_of(mapper, entities)
        self.conflicts, self.counter, self.counts_up, self.leaves_no_history = "", None, False, False
        self.volatile, self.equal, self.mutable, self.rewritten = {}, {}, frozenset(), frozenset()
        if entity is not None:
            self._prepare(mapper, entity)
        elif entities.is_tableless(mapper):
            warnings.warn(
                f"{mapper.class_.__name__} is mapped to a join or subquery: what is changed through it is not "
                "captured. Change the rows through classes that are mapped to the tables",
                CaptureWarning,
                stacklevel=2,
            )

    def _prepare(self, mapper: Mapper[Any], entity: Entity) -> None:
        columns: dict[str, Column[Any]] = dict(zip(entity.keys, entity.columns, strict=True))
        self._row = getter(entity.keys)
        self.keys = entity.keys
        self.pk = _positions(entity.pk_index)
        self.pk_keys = frozenset(entity.keys[position] for position in entity.pk_index)
        on = mapper.polymorphic_on
        self.kind = next((prop.key for prop in mapper.column_attrs if on is not None and on in prop.columns), None)
        self.identity = self.pk_keys if self.kind is None else self.pk_keys | {self.kind}
        self.equal = {key: comparison(column) for key, column in columns.items()}
        self.mutable = frozenset(key for key, column in columns.items() if may_mutate(column)) - self.pk_keys
        self._mutable_index = tuple(entity.positions[key] for key in self.mutable)
        self.rewritten = frozenset(key for key, column in columns.items() if is_rewritten(column)) - self.pk_keys
        self._touched_up = bool(self.mutable or self.rewritten)
        self.counter = _own_counter(mapper)
        self.counts_up = _counts_up(mapper)
        self.volatile = _volatile(mapper, columns)
        self.leaves_no_history = bool(self.volatile or self.counter)
        self._blank = tuple((key, _blank(column)) for key, column in columns.items())
        self._needed = needed_positions(entity)
        self._known_blank = all(
            self._blank[position][1] is None for position in set(self._needed) - set(entity.pk_index)
        )
        self.cascades = Cascades(mapper)
        self.conflicts = conflicts(mapper)

    def inserted(self, state: State) -> Row:
        """The row of a new object. A column that was not set and has no default is NULL."""
        dict_ = state.dict
        try:
            values, whole = self._row(dict_), True
        except KeyError:
            get, computed = dict_.get, state.expired_attributes
            if computed:  # set to expressions, for one
                values = tuple([get(key, MISSING if key in computed else blank) for key, blank in self._blank])
                whole = self.is_whole(values)
            else:
                values = tuple([get(key, blank) for key, blank in self._blank])
                whole = self._known_blank or self.is_whole(values)
        return self.seen(values, whole) if self._touched_up else (values, whole)

    def loaded(self, dict_: Mapping[str, Any]) -> Row:
        """The row as far as it is loaded."""
        try:
            values, whole = self._row(dict_), True
        except KeyError:
            get = dict_.get
            values = tuple([get(key, MISSING) for key in self.keys])
            whole = self.is_whole(values)
        return self.seen(values, whole) if self._touched_up else (values, whole)

    def seen(self, values: Values, whole: bool) -> Row:
        """The row with copies of what may be changed in place, without what SQL makes something else of."""
        values = self.frozen(values)
        if self.rewritten:
            values = tuple(
                [MISSING if key in self.rewritten else value for key, value in zip(self.keys, values, strict=True)]
            )
            whole = self.is_whole(values)
        return values, whole

    def known(self, state: State) -> dict[str, Any]:
        """What is known of the row as it was before the flush; the primary key always is."""
        equal, mutable = self.equal, self.mutable
        known = {key: value for key, value in state.dict.items() if key in equal}
        for key, old in state.committed_state.items():
            if key not in equal:
                continue
            if type(old) is LoaderCallableStatus:
                known.pop(key, None)
            else:
                known[key] = old
        for key in self.rewritten:
            known.pop(key, None)
        for key in mutable.intersection(known):
            known[key] = self.freeze(known[key])
        if state.key is not None and self.entity is not None:
            known.update(zip([self.keys[i] for i in self.entity.pk_index], state.key[1], strict=True))
        return known

    def mapper_of(self, dict_: Mapping[str, Any]) -> Mapper[Any]:
        """The class whose record a row is, by its discriminator."""
        return self.mapper.polymorphic_map.get(dict_.get(self.kind or ""), self.mapper)

    def is_whole(self, values: Values) -> bool:
        """Whether all that is published of the row is known."""
        return all(values[position] is not MISSING for position in self._needed)

    def frozen(self, values: Values) -> Values:
        """The row with copies of what may be changed in place."""
        if all(type(values[position]) in ATOMS for position in self._mutable_index):
            return values
        changed = list(values)
        for position in self._mutable_index:
            changed[position] = self.freeze(changed[position])
        return tuple(changed)

    @staticmethod
    def freeze(value: Any) -> Any:
        """A copy that later changes in place do not reach."""
        return _freeze(value)

    def add_volatile(self, before: dict[str, Any], old: Mapping[str, Any]) -> None:
        """Add what the UPDATE of the tables concerned has set by itself."""
        attributes = self.mapper.column_attrs
        tables = {column.table for key in before if key in attributes for column in attributes[key].columns}
        if self.counts_up:
            tables.add(self.mapper.version_id_col.table)  # type: ignore[union-attr] # is counted up with whichever table is updated
        for key, table in self.volatile.items():
            if table in tables:
                before.setdefault(key, old.get(key, MISSING))


def needed_positions(entity: Entity) -> tuple[int, ...]:
    """The positions of what must be known to publish a record of an entity, its primary key included."""
    wanted = {*(entity.positions[key] for key in entity.read), *entity.pk_index}
    return tuple(sorted(wanted))


def getter(items: tuple[Any, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """`itemgetter` that gives a tuple for a single item too."""
    if len(items) == 1:
        (item,) = items
        return lambda row: (row[item],)
    return cast("Callable[[Any], tuple[Any, ...]]", operator.itemgetter(*items))


def _positions(index: tuple[int, ...]) -> Callable[[Values], Key]:
    """Reads these positions of a row, as a tuple."""
    return operator.itemgetter(slice(index[0], index[0] + 1)) if len(index) == 1 else operator.itemgetter(*index)


def comparison(column: Column[Any]) -> Callable[[Any, Any], bool]:
    """How a flush tells whether a set value differs from the old one."""
    if type(column.type).compare_values is types.TypeEngine.compare_values:
        return operator.eq
    return column.type.compare_values


def is_rewritten(column: Column[Any]) -> bool:
    """Whether its type wraps values into SQL, on their way in or out."""
    return column.type._has_bind_expression or column.type._has_column_expression


def may_mutate(column: Column[Any]) -> bool:
    """Whether its values may be changed in place."""
    return not isinstance(column.type, _IMMUTABLE_TYPES)


def _freeze(value: Any) -> Any:
    if type(value) in ATOMS:
        return value
    try:
        return _copied(value)
    except Exception:  # noqa: BLE001 - a value that cannot be copied is rarely one that changes
        return value


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _freeze(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_freeze(item) for item in value]
    if isinstance(value, set):
        return {_freeze(item) for item in value}
    if isinstance(value, bytearray):
        return bytes(value)
    return copy.deepcopy(value)


def _blank(column: Column[Any]) -> Any:
    """What an INSERT that does not name the column stores: NULL, or something only the database knows."""
    knows = column.default is None and column.server_default is None and column.identity is None
    return None if knows and not column.primary_key else MISSING


def _volatile(mapper: Mapper[Any], columns: Mapping[str, Column[Any]]) -> dict[str, Table]:
    return {
        key: column.table
        for key, column in columns.items()
        if column.onupdate is not None or column.server_onupdate is not None or _counts(mapper, column)
    }


def _counts(mapper: Mapper[Any], column: ColumnElement[Any]) -> bool:
    """Whether this is a version counter that each UPDATE sets, by SQLAlchemy or the database."""
    if column is not mapper.version_id_col:
        return False
    return mapper.version_id_generator is not False or getattr(column, "server_default", None) is not None


def _own_counter(mapper: Mapper[Any]) -> str | None:
    """The key of a version counter that the application may set."""
    column = mapper.version_id_col
    if column is None or mapper.version_id_generator is not False:
        return None
    return str(mapper.get_property_by_column(column).key)


def _counts_up(mapper: Mapper[Any]) -> bool:
    column = mapper.version_id_col
    return column is not None and (_counts(mapper, column) or getattr(column, "server_onupdate", None) is not None)
