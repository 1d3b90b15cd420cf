"""From a mapped class or a bare table to its entity."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from marshmallow import Schema
from sqlalchemy import Column, Table
from sqlalchemy.orm import Mapper

from eventbus.errors import InstallError
from eventbus.events import naming
from eventbus.records.entity import Entity, describe
from eventbus.records.meeting.mappers import is_sentinel, name_of
from eventbus.records.meeting.secondary_tables import SecondaryTables
from eventbus.records.meeting.selection import Selection
from eventbus.records.sensitive import Names

log = logging.getLogger(__name__)


class Maker:
    """Makes the entities of one installation, each once. `made`: by name; raises InstallError where two meet in one.

    `tableless`: classes that are not captured for being mapped to a join or the like: whose row is whose?
    """

    def __init__(
        self,
        service: str,
        selection: Selection,
        secondary: SecondaryTables,
        *,
        schemas: Mapping[Any, type[Schema] | Schema],
        names: Mapping[Any, str] | None,
        withhold: Iterable[str],
    ) -> None:
        self.made: dict[str, Entity] = {}
        self.tableless: set[Mapper[Any]] = set()
        self._service = service
        self._selection = selection
        self._secondary = secondary
        self._schemas = schemas
        self._names = dict(names or {})
        self._any_key = names is not None
        self._withhold = Names(withhold)

    def of_mapper(self, mapper: Mapper[Any]) -> Entity | None:
        """The entity of a class, or None where it is not captured."""
        name = self._names.get(mapper) or name_of(mapper)
        if not self._selection.wants(name, mapper.class_, mapper.local_table):
            return None
        if not isinstance(mapper.local_table, Table):
            self.tableless.add(mapper)
            return None
        columns = {
            str(prop.key): column
            for prop in mapper.column_attrs
            if isinstance(column := prop.columns[0], Column) and not is_sentinel(column)
        }
        keys = [str(mapper.get_property_by_column(column).key) for column in mapper.primary_key]
        return self._make(name, mapper.local_table, columns, keys, mapper)

    def of_table(self, table: Table) -> Entity | None:
        """The entity of a table that no class is mapped to, or None where it is not captured."""
        name = self._names.get(table) or naming.quote(table.name)
        if not self._selection.wants(name, None, table):
            return None
        # Names may be `quoted_name`s, which orjson does not take for texts.
        columns: dict[str, Column[Any]] = {str(each.key): each for each in table.columns if not is_sentinel(each)}
        keys = [str(column.key) for column in self._secondary.primary_key(table, needed=not self._any_key)]
        return self._make(name, table, columns, keys)

    def _make(
        self,
        name: str,
        table: Table,
        columns: Mapping[str, Column[Any]],
        keys: Iterable[str],
        mapper: Mapper[Any] | None = None,
    ) -> Entity:
        entity = Entity(
            name,
            self._service,
            table=table,
            columns=columns,
            primary_key=keys,
            mapper=mapper,
            schema=self._schemas.get(table if mapper is None else mapper.class_),
            any_key=self._any_key,
            withhold=self._withhold,
        )
        other = self.made.setdefault(name, entity)
        if other is not entity:
            raise InstallError(
                f"{describe(other)} and {describe(entity)} would both be the entity {name!r}: "
                "rename one, or leave one out with install(…, exclude=[…])"
            )
        log.info(
            "entity %s published: %s; stays home: %s",
            name,
            ", ".join(entity.published),
            ", ".join(f"{key} ({why})" for key, why in entity.withheld.items()) or "nothing",
            extra={"entity": name, "fields": list(entity.published), "withheld": dict(entity.withheld)},
        )
        return entity
