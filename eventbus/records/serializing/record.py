"""A row's captured values as an object, for whatever works on records: marshmallow, and the model's own properties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import getattr_static
from typing import Any

from sqlalchemy.orm import Mapper, QueryableAttribute

from eventbus.records.columns import Normaliser
from eventbus.records.expressions import refuse_expression

Values = Sequence[Any]
"""Captured values aligned with an entity's keys; MISSING where a column was not loaded."""


class Record:
    """A row's captured values as an object, for marshmallow and for hooks, methods and properties of schema and model.

    An attribute is the value the database gives back; what was not captured is absent (AttributeError). Properties,
    hybrids, composites, synonyms and methods of the mapped class work on it, and `isinstance` takes it for one.
    """

    __slots__ = ("_eventbus_model", "_eventbus_normal", "_eventbus_row")

    def __init__(self, row: Mapping[str, Any], normal: Mapping[str, Normaliser], model: Mapper[Any] | None) -> None:
        self._eventbus_row = row
        self._eventbus_normal = normal
        self._eventbus_model = model

    def __getattr__(self, name: str) -> Any:
        row, mapper = self._eventbus_row, self._eventbus_model
        if name in row:
            value = row[name]
            refuse_expression(value)
            return value if value is None else self._eventbus_normal[name](value)
        if mapper is None or name.startswith("__"):
            raise AttributeError(name)
        if name in mapper.synonyms:
            return getattr(self, mapper.synonyms[name].name)
        if name in mapper.composites:
            prop = mapper.composites[name]
            make: Any = prop.composite_class
            return make(*(getattr(self, each.key) for each in prop.props))
        found = getattr_static(mapper.class_, name)
        if isinstance(found, QueryableAttribute):  # a column or relationship
            raise AttributeError(f"{name} was not captured")
        return found.__get__(self, mapper.class_) if hasattr(found, "__get__") else found

    @property
    def __class__(self) -> type[Any]:
        mapper = self._eventbus_model
        return Record if mapper is None else mapper.class_

    @__class__.setter
    def __class__(self, value: type[Any]) -> None:
        raise AttributeError("__class__ of a record cannot be set")

    def _eventbus_watched(self) -> tuple[Record, set[str]]:
        """The same, and the names of its columns that have been read from now on."""
        row = _Watched(self._eventbus_row)
        return Record(row, self._eventbus_normal, self._eventbus_model), row.seen


class _Watched(dict[str, Any]):
    """A row that notes which of its columns are read."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.seen: set[str] = set()

    def __contains__(self, key: object) -> bool:
        if super().__contains__(key):
            self.seen.add(str(key))
            return True
        return False
