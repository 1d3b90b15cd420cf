"""One change, as hooks and events tell it, and the words that captured rows are spoken of in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

Op = Literal["c", "u", "d", "r"]
"""Created, updated, deleted; read, for a snapshot, which is no change and never in a frame."""
Key = tuple[Any, ...]
"""A primary key in mapper order, always a tuple."""
Values = tuple[Any, ...]
"""A row: aligned with `Entity.keys`, MISSING where a value is not known."""


class Entity(Protocol):
    """What is needed to know of a kind of record; `eventbus.records.entity.Entity` is one. Compared by identity."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> type[Any] | None: ...

    @property
    def mapper(self) -> Any: ...

    @property
    def table(self) -> Any: ...

    @property
    def keys(self) -> tuple[str, ...]: ...

    @property
    def columns(self) -> tuple[Any, ...]: ...

    @property
    def positions(self) -> Mapping[str, int]: ...

    @property
    def pk_index(self) -> tuple[int, ...]: ...

    @property
    def routing_keys(self) -> Mapping[str, str]: ...

    @property
    def published(self) -> tuple[str, ...]: ...

    @property
    def read(self) -> tuple[str, ...]: ...

    @property
    def quiet(self) -> frozenset[str]: ...

    def serializer(self, dialect: Any) -> Any: ...


class _Missing:
    """The value of a column nobody has loaded. Falsy; its own type so that it never equals a value."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change, as in-process hooks see it: plain captured values, before marshmallow.

    `before` and `after` map attribute keys to Python values; `after` is None for a deletion; `before` holds the old
    values as far as they were loaded. `index` and `size` are its place among the transaction's events; an update of
    which nothing is published comes after them (`index >= size`).
    """

    op: Literal["created", "updated", "deleted"]
    entity: str
    model: type[Any] | None
    pk: tuple[Any, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any] | None
    changed: tuple[str, ...]
    author: str | None
    transaction: str
    index: int
    size: int
