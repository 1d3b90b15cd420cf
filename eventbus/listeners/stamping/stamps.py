"""What objects are stamped with: the author and the time of one flush, each as its column has it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Column, Date, DateTime, Integer, Uuid
from sqlalchemy.orm import InstanceState, Session
from sqlalchemy.types import TypeDecorator, TypeEngine

from eventbus.events.context import AUTHORS, author_of, told

log = logging.getLogger(__name__)

State = InstanceState[Any]


class Moment:
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


class Stamp(NamedTuple):
    """One attribute and what it is filled with; the value may be None: then it is left as it is."""

    key: str
    value: Callable[[Moment], Any]


def fill(stamps: Iterable[Stamp], state: State, moment: Moment) -> None:
    """On a new object: what is not set, or None."""
    dict_ = state.dict
    for key, value in stamps:
        if dict_.get(key) is None:
            _set(state, key, value(moment))


def restamp(stamps: Iterable[Stamp], state: State, moment: Moment) -> None:
    """On a changed object: what was not set since it was loaded."""
    committed = state.committed_state
    for key, value in stamps:
        if key not in committed:
            _set(state, key, value(moment))


def _set(state: State, key: str, value: Any) -> None:
    if value is not None:
        setattr(state.obj(), key, value)


def stamps_of(
    columns: Mapping[str, Column[Any]],
    names: Iterable[str],
    make: Callable[[TypeEngine[Any]], Callable[[Moment], Any] | None],
    has_own: Callable[[Column[Any]], bool],
) -> list[Stamp]:
    """Those of the columns of these names that have no value of their own."""
    found = []
    for name in names:
        column = columns.get(name)
        value = None if column is None or has_own(column) else make(column.type)
        if value is not None:
            found.append(Stamp(name, value))
    return found


def has_default(column: Column[Any]) -> bool:
    """Whether an INSERT gives the column a value by itself."""
    return column.default is not None or column.server_default is not None or column.identity is not None


def has_onupdate(column: Column[Any]) -> bool:
    """Whether an UPDATE gives the column a value by itself."""
    return column.onupdate is not None or column.server_onupdate is not None


def author_as(type_: TypeEngine[Any]) -> Callable[[Moment], Any] | None:
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


def time_as(type_: TypeEngine[Any]) -> Callable[[Moment], datetime | date] | None:
    """The time as the column has it: aware where it keeps a zone, else naive UTC; None for what is no time."""
    plain = type_.impl_instance if isinstance(type_, TypeDecorator) else type_
    if isinstance(plain, DateTime):
        if plain.timezone:
            return lambda moment: moment.now
        return lambda moment: moment.now.replace(tzinfo=None)
    if isinstance(plain, Date):
        return lambda moment: moment.now.date()
    return None
