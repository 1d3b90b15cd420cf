"""What statements write to: the class or table that is meant, however it is named."""

from __future__ import annotations

import warnings
from typing import Any

from sqlalchemy import Delete, Insert, MetaData, Table, TableClause, Update, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapper, mapperlib, registry

from eventbus.errors import CaptureWarning
from eventbus.listeners.statements.rows import Hit, MappedHit, TableHit
from eventbus.listeners.statements.sent import table_of
from eventbus.records.entities import Entities
from eventbus.records.meeting.mappers import mappers_of

_Name = tuple[str | None, str]


class _Mapped:
    """How many classes were ever mapped in this process."""

    def __init__(self) -> None:
        self.classes = 0
        event.listen(Mapper, "after_mapper_constructed", self._count)

    def _count(self, mapper: Mapper[Any], class_: type[Any]) -> None:
        self.classes += 1


_mapped = _Mapped()


class Rows:
    """Finds out what statements write to."""

    def __init__(self, entities: Entities) -> None:
        self._entities = entities
        self._hits: dict[Any, Hit | None] = {}
        self._names: dict[_Name, str] = {}
        self._known = (-1, 0)

    def hit_by(self, statement: Update | Delete | Insert) -> Hit | None:
        """What a statement writes to, itself or by an alias; None where nothing of it is captured."""
        mapper = mapper_of(statement)
        return self.hit_through(table_of(statement.table)) if mapper is None else self.hit_of(mapper)

    def hit_through(self, table: Any) -> Hit | None:
        """What a statement on a table writes to."""
        if not isinstance(table, Table):
            return None
        self._notice_new_classes()
        try:
            return self._hits[table]
        except KeyError:
            hit = self._hits[table] = self._of_table(table)
            return hit

    def hit_of(self, mapper: Mapper[Any]) -> Hit | None:
        """What a statement on a class writes to."""
        self._notice_new_classes()
        try:
            return self._hits[mapper]
        except KeyError:
            found = MappedHit(mapper, self._entities)
            hit = self._hits[mapper] = found if found.entities else None
            return hit

    def hit_sent(self, table: Any, mapper: Mapper[Any] | None) -> Hit | None:
        """What a statement that is sent to a table writes to; `mapper`: the class that its author has named, if any.

        It tells whose rows they are where several classes are mapped to one table and no discriminator tells.
        """
        if mapper is None or mapper.local_table is not table:
            return self.hit_through(table)
        while (
            mapper.polymorphic_on is not None and mapper.inherits is not None and mapper.inherits.local_table is table
        ):
            mapper = mapper.inherits
        return self.hit_of(mapper)

    def namesake_of(self, statement: Update | Delete | Insert) -> str | None:
        """The class or table that is captured and has a table of the same name as one that nobody has mapped."""
        table = table_of(statement.table)
        self._notice_new_classes()
        if not self._names:
            self._names = self._tables_by_name()
        found = self._names.get((getattr(table, "schema", None), getattr(table, "name", "")))
        return None if found is None or mapper_of(statement) or _mappers_of(table) else found

    def _notice_new_classes(self) -> None:
        """A class mapped since may be what a table belongs to, a subclass of one that is known, or have links."""
        known = (_mapped.classes, len(self._entities.secondary_tables))
        if known != self._known:
            self._known = known
            self._hits.clear()
            self._names = {}

    def _tables_by_name(self) -> dict[_Name, str]:
        """Those of all captured classes and links, by schema and name, each with whose it is."""
        registries = [each for each in mapperlib._all_registries() if self._entities.may_know(each)]
        named: dict[_Name, str] = {}
        for mapper in (mapper for each in registries for mapper in mappers_of(each)):
            if isinstance(mapper.local_table, Table) and self._entities.wants(mapper):
                named[mapper.local_table.schema, mapper.local_table.name] = mapper.class_.__name__
        for table in self._entities.secondary_tables:
            if self._entities.for_table(table):
                named.setdefault((table.schema, table.name), table.name)
        return named

    def is_stray(self, statement: Update | Delete | Insert) -> bool:
        """Whether a statement writes to a table that nobody has mapped, captures or leaves out on purpose."""
        table = table_of(statement.table)
        secondary = isinstance(table, Table) and self._entities.is_secondary(table)
        if mapper_of(statement) or secondary or self._entities.excludes(table):
            return False
        return isinstance(table, TableClause) and not _mappers_of(table)

    def _meet(self, models: registry) -> bool:
        """Meet all classes of a base, one of which may have a table; a statement on a Table needs none of them."""
        try:
            for mapper in mappers_of(models):
                self._entities.for_mapper(mapper)
        except SQLAlchemyError as error:
            warnings.warn(
                f"Classes of {models} cannot be used yet, so statements on their tables are not captured: {error}",
                CaptureWarning,
                stacklevel=2,
            )
            return False
        return True

    def _of_table(self, table: Table) -> Hit | None:
        if not all(self._meet(models) for models in _registries_with(table.metadata)):
            return None
        mappers = _mappers_of(table)
        if mappers:
            top = min(mappers, key=lambda mapper: len(list(mapper.iterate_to_root())))
            hit = MappedHit(top, self._entities)
            return hit if hit.entities else None
        if not self._entities.is_secondary(table) and not self._entities.includes(table):
            return None
        entity = self._entities.for_table(table)
        return None if entity is None else TableHit(entity)


def mapper_of(statement: Update | Delete | Insert) -> Mapper[Any] | None:
    """The class that a statement names, if it names one."""
    return statement.table._annotations.get("parentmapper")


def _mappers_of(table: Any) -> list[Mapper[Any]]:
    # SQLAlchemy has no public way from a Table to its classes.
    registries = mapperlib._all_registries()
    return [mapper for models in registries for mapper in mappers_of(models) if mapper.local_table is table]


def _registries_with(metadata: MetaData) -> list[registry]:
    """Those of the declarative bases of a MetaData, and those whose classes were mapped to its tables by hand."""
    return [
        each
        for each in mapperlib._all_registries()
        if each.metadata is metadata
        or any(getattr(mapper.local_table, "metadata", None) is metadata for mapper in mappers_of(each))
    ]
