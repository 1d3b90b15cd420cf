"""Ids of new objects: which column gets one, and that none is given twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self
from uuid import UUID

from sqlalchemy import Column, Enum, String, Uuid, select
from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.types import TypeEngine

from eventbus.errors import ConfigurationError
from eventbus.events.ids import short_id
from eventbus.listeners.stamping.stamps import has_default

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


@dataclass(eq=False, slots=True)
class IdColumn:
    """The primary key of a class whose new objects get an id where they have none."""

    mapper: Mapper[Any]
    key: str
    column: Column[Any]

    @classmethod
    def of(cls, mapper: Mapper[Any]) -> Self | None:
        """None where the key is not one column of text (or Uuid) without default and foreign key."""
        if len(mapper.primary_key) != 1:
            return None
        (column,) = mapper.primary_key
        if not isinstance(column, Column):
            return None
        if column.foreign_keys or has_default(column) or not _holds_ids(column.type):
            return None
        return cls(mapper, mapper.get_property_by_column(column).key, column)

    def give(self, session: Session, states: Sequence[State], new_id: IdGenerator) -> None:
        """Give each object an id. Raises ConfigurationError where the column cannot hold it."""
        if getattr(new_id, "may_collide", False):
            ids = self._unused(session, len(states), new_id)
        else:
            ids = [new_id() for _ in states]
        for state, new in zip(states, ids, strict=True):
            setattr(state.obj(), self.key, self._fit(new))

    def _unused(self, session: Session, count: int, new_id: IdGenerator) -> list[str]:
        """Ids that neither the session nor the table has."""
        taken = self._in_session(session)
        chosen: list[str] = []
        for _ in range(_TRIES):
            drawn = {new_id() for _ in range(count - len(chosen))} - taken
            fresh = drawn - self._in_table(session, drawn)
            chosen += fresh
            taken |= drawn
            if len(chosen) == count:
                return chosen
        raise ConfigurationError(
            f"{self.column}: {_TRIES} times in a row too many of the new ids were taken; "
            "use longer ones (new_id=ShortIds(12))"
        )

    def _fit(self, new: str) -> Any:
        type_ = self.column.type
        if isinstance(type_, Uuid):
            return UUID(new) if type_.as_uuid else new
        length = getattr(type_, "length", None)
        if length is not None and len(new) > length:
            raise ConfigurationError(
                f"{self.column} holds {length} characters, a new id has {len(new)}: widen the column, give the "
                f"objects ids of your own, or install with new_id=ShortIds({length})"
            )
        return new

    def _in_session(self, session: Session) -> set[Any]:
        """Ids of this class's new objects."""
        base = self.mapper.base_mapper
        states = (each for each in session._new if each.mapper.base_mapper is base)
        return {each.dict.get(self.key) for each in states}

    def _in_table(self, session: Session, ids: Iterable[str]) -> set[Any]:
        """Which of these ids the table has."""
        connection = session.connection(bind_arguments={"mapper": self.mapper})
        drawn = sorted(ids)
        found: set[Any] = set()
        for start in range(0, len(drawn), _CHUNK):
            some = drawn[start : start + _CHUNK]
            found.update(connection.scalars(select(self.column).where(self.column.in_(some))))
        return found


def _holds_ids(type_: TypeEngine[Any]) -> bool:
    return isinstance(type_, String | Uuid) and not isinstance(type_, Enum)
