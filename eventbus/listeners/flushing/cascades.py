"""Changes that a database makes by itself: no Session sees them, so each kind is warned of once.

Foreign keys delete or change rows elsewhere (ON DELETE, ON UPDATE), constraints replace or drop rows (SQLite's ON
CONFLICT). What SQLAlchemy does instead of the database, as its relationships say, is captured like anything else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

from sqlalchemy import ForeignKey, Table
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.orm import Mapper, RelationshipProperty

from eventbus.errors import CaptureWarning

_ACTIONS: Final = ("CASCADE", "SET NULL", "SET DEFAULT")
_RESOLUTIONS: Final = ("REPLACE", "IGNORE")


class Cascades:
    """Those of one class, as its flushes meet them. `followed`: keys whose new values the database gives to others."""

    __slots__ = ("_deletion", "_mapper", "_updates", "followed")

    def __init__(self, mapper: Mapper[Any]) -> None:
        relationships = [each for each in mapper.relationships if not each.viewonly]
        foreign = [key for table in mapper.tables if isinstance(table, Table) for key in _referring(table)]
        parts = parts_of(mapper)
        foreign = [key for key in foreign if not _joins(parts, key)]
        passive = [f"relationship {each} has passive_deletes" for each in relationships if each.passive_deletes]
        served = {column for each in relationships for column in _remote_columns(each)}
        self._mapper = mapper
        self._deletion = [*passive, *_described((key for key in foreign if key.parent not in served), "ondelete")]
        served = {column for each in relationships if not each.passive_updates for column in _remote_columns(each)}
        self._updates = [key for key in foreign if _acts(key.onupdate) and key.parent not in served]
        self.followed = frozenset(mapper.get_property_by_column(key.column).key for key in self._updates)

    def row_deleted(self) -> None:
        """An object is deleted: say what else goes or changes."""
        unseen, self._deletion = self._deletion, []
        if unseen:
            _warn(f"Deleting {self._mapper.class_.__name__}", unseen, _DELETED)

    def row_moved(self) -> None:
        """What others refer to was changed in an object: say what follows."""
        unseen, self._updates, self.followed = self._updates, [], frozenset()
        if unseen:
            _warn(f"Changing the key of {self._mapper.class_.__name__}", _described(unseen, "onupdate"), _MOVED)


class StatementCascades:
    """Those of statements, for which no relationship does anything."""

    def __init__(self) -> None:
        self._deletable: set[Table] = set()
        self._followed: dict[Table, list[ForeignKey]] = {}

    def deleted(self, table: Table, name: str, parts: Collection[Table] = ()) -> None:
        """Say once a table what a DELETE does beside; `parts`: the tables that may hold other parts of its records."""
        if table not in self._deletable:
            self._deletable.add(table)
            others = (key for key in _referring(table) if not _joins(parts, key))
            _warn(f"DELETE of {name}", _described(others, "ondelete"), _DELETED)

    def updated(self, table: Table, name: str, is_set: Callable[[Any], bool]) -> None:
        """Say once a table what an UPDATE does beside that sets a column which others refer to."""
        followed = self._followed.get(table)
        if followed is None:
            followed = self._followed[table] = [key for key in _referring(table) if _acts(key.onupdate)]
        if any(is_set(key.column) for key in followed):
            self._followed[table] = []
            _warn(f"UPDATE of {name}", _described(followed, "onupdate"), _MOVED)


def parts_of(mapper: Mapper[Any]) -> frozenset[Any]:
    """The tables that hold parts of the records of a class, and of those that it inherits from or that inherit."""
    return frozenset(table for each in mapper.base_mapper.self_and_descendants for table in each.tables)


def conflicts(mapper: Mapper[Any]) -> str:
    """How SQLite is to resolve conflicts in the tables of a class where no error tells; empty where it is not."""
    found = {name for table in mapper.tables if isinstance(table, Table) for name in _resolved(table)}
    return ", ".join(sorted(found))


def warn_of_conflicts(name: str, found: str) -> None:
    """Say that writing rows of a class may make others go, or not take place, without a word."""
    warnings.warn(
        f"{name}: SQLite resolves conflicts by ON CONFLICT {found}. Rows that are replaced by it, or not written, are "
        "not told of. Let the constraint fail, or write upserts",
        CaptureWarning,
        stacklevel=2,
    )


_DELETED: Final = (
    "No events are made of them. Let SQLAlchemy delete them (no passive_deletes, cascade='all, delete') where they "
    "matter."
)
_MOVED: Final = (
    "No events are made of them, but of objects that are loaded. Let SQLAlchemy change them (passive_updates=False) "
    "where they matter."
)


def _warn(what: str, unseen: Collection[str], advice: str) -> None:
    if unseen:
        text = f"{what} also changes rows that no Session sees: {'; '.join(unseen)}. {advice}"
        warnings.warn(text, CaptureWarning, stacklevel=2)


def _referring(table: Table) -> list[ForeignKey]:
    others = sorted(table.metadata.tables.values(), key=str)
    return [key for other in others for key in sorted(other.foreign_keys, key=str) if _references(key, table)]


def _described(keys: Iterable[ForeignKey], event: str) -> list[str]:
    verb = {"ondelete": "ON DELETE", "onupdate": "ON UPDATE"}[event]
    return [f"{key.parent} references it {verb} {action}" for key in keys if _acts(action := getattr(key, event))]


def _acts(action: str | None) -> bool:
    return (action or "").upper() in _ACTIONS


def _references(key: ForeignKey, table: Table) -> bool:
    try:
        return key.references(table)
    except NoReferenceError:
        return False  # of a table that is not there: SQLAlchemy minds it only where it is used


def _joins(parts: Collection[Any], key: ForeignKey) -> bool:
    """Whether the reference joins the parts of one record."""
    return bool(key.parent.table in parts and key.parent.primary_key and key.column.primary_key)


def _remote_columns(relationship: RelationshipProperty[Any]) -> list[Any]:
    if relationship.direction.name == "MANYTOONE":
        return []
    pairs = [*relationship.synchronize_pairs, *(relationship.secondary_synchronize_pairs or ())]
    return [remote for _, remote in pairs]


def _resolved(table: Table) -> Iterator[str]:
    """How SQLite's constraints of a table resolve conflicts, where no error tells."""
    options = [each.dialect_options["sqlite"] for each in (*table.constraints, *table.columns)]
    for name in ("on_conflict", "on_conflict_unique", "on_conflict_primary_key", "on_conflict_not_null"):
        for each in options:
            resolution = str(each.get(name) or "").upper() if name in each else ""
            if resolution in _RESOLUTIONS:
                yield resolution
