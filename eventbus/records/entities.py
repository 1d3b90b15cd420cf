"""The kinds of records of a service: which model or table is which entity."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from marshmallow import Schema
from sqlalchemy import Table, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, registry

from eventbus.errors import ConfigurationError, InstallError
from eventbus.records.entity import Entity
from eventbus.records.meeting.making import Maker
from eventbus.records.meeting.mappers import configure, mappers_of, name_of
from eventbus.records.meeting.remarks import warn_of_shared_tables, warn_of_unknown_names, warn_of_unseen_keys
from eventbus.records.meeting.secondary_tables import Link, SecondaryTables
from eventbus.records.meeting.selection import Selection


class Entities:
    """All entities of one installation, made as their models are first met.

    `include` and `exclude` name models, tables or entity names; a model stands for its subclasses too. With `include`
    nothing else is captured. `withhold` are words of column names that stay home. `names` are those of mappers and
    tables that have others than usual; with it a primary key may be one that has no JSON form, or none. Raises
    InstallError where two models meet in one name.
    """

    def __init__(
        self,
        service: str,
        *,
        include: Iterable[Any] = (),
        exclude: Iterable[Any] = (),
        schemas: Mapping[Any, type[Schema] | Schema] | None = None,
        names: Mapping[Any, str] | None = None,
        withhold: Iterable[str] = (),
    ) -> None:
        self._selection = Selection(include, exclude)
        self._secondary = SecondaryTables()
        schemas = dict(schemas or {})
        self._maker = Maker(service, self._selection, self._secondary, schemas=schemas, names=names, withhold=withhold)
        self._by_mapper: dict[Mapper[Any], Entity | None] = {}
        self._by_table: dict[Table, Entity | None] = {}
        self._lock = threading.RLock()
        self._met: dict[registry, set[Mapper[Any]]] = {}
        for model in (*self._selection.models, *schemas):
            _check_model(model)

    def for_mapper(self, mapper: Mapper[Any]) -> Entity | None:
        """The entity of a mapper, or None if its records are not captured."""
        try:
            return self._by_mapper[mapper]
        except KeyError:
            return self._meet_mapper(mapper)

    def for_table(self, table: Table) -> Entity | None:
        """The entity of a bare table (of its one mapped class, where it has one), or None if it is not captured."""
        try:
            return self._by_table[table]
        except KeyError:
            return self._meet_table(table)

    def for_links(self, table: Table) -> Entity | None:
        """The entity of a secondary table's rows, or None where they are not captured.

        Nor are they where a class with a key of its own is mapped to the table: rows that a collection wrote have one
        that no Session ever sees.
        """
        entity = self.for_table(table)
        return None if entity is None or self._secondary.has_key_of_its_own(entity) else entity

    def is_tableless(self, mapper: Mapper[Any]) -> bool:
        """Whether a class that was met is not captured for being mapped to a join or the like: whose row is whose?"""
        return mapper in self._maker.tableless

    def wants(self, mapper: Mapper[Any]) -> bool:
        """Whether a class, met or not, is one to be captured."""
        return self._selection.wants(name_of(mapper), mapper.class_, mapper.local_table)

    def may_know(self, models: registry) -> bool:
        """Whether these are models that were met; or any, as long as none were."""
        return not self._met or models in self._met

    def is_secondary(self, table: Table) -> bool:
        """Whether the table, which no class is mapped to, carries a many-to-many relationship of a class met so far."""
        return table in self._secondary.tables

    def includes(self, table: Any) -> bool:
        """Whether `include` names this table."""
        return self._selection.includes(table)

    def excludes(self, table: Any) -> bool:
        """Whether `exclude` names this table, its class or one of its name."""
        return self._selection.excludes(table)

    @property
    def secondary_tables(self) -> frozenset[Table]:
        """The tables that carry a many-to-many relationship of a class met so far."""
        return frozenset(self._secondary.tables)

    def __iter__(self) -> Iterator[Entity]:
        return iter(list(self._maker.made.values()))

    def _meet_mapper(self, mapper: Mapper[Any]) -> Entity | None:
        with self._lock:
            self._meet_registry(mapper.registry, mapper)
            if mapper not in self._by_mapper:
                self._by_mapper[mapper] = self._maker.of_mapper(mapper)
            return self._by_mapper[mapper]

    def _meet_registry(self, models: registry, used: Mapper[Any]) -> None:
        """Meet all models of a declarative base with its first, so that two of one name show before a commit.

        Those that are mapped later are met with the first of them. Of another base than the first, those that cannot
        be served are told of only when they are used.
        """
        first = not self._met
        met = self._met.setdefault(models, set())
        # Not all of the process: another base may have classes that are not finished, which is not our business.
        configure(models)
        mappers = sorted(mappers_of(models), key=lambda one: one.class_.__name__)
        new = [each for each in mappers if each not in met]
        met.update(new)
        links = [link for each in mappers for link in each.relationships if isinstance(link.secondary, Table)]
        self._secondary.meet(links)
        for each in new:
            if each not in self._by_mapper:
                with _until_used(first=first, used=each is used):
                    self._by_mapper[each] = self._maker.of_mapper(each)
        self._meet_links(self._secondary.add(links), first=first)
        warn_of_shared_tables(mappers, set(new), self._by_mapper)
        if first:
            warn_of_unknown_names(models, self._selection)

    def _meet_links(self, links: Iterable[Link], *, first: bool) -> None:
        for table in self._secondary.tables:
            with _until_used(first=first, used=False):
                self._meet_table(table)
        for link in links:
            entity = self._by_table.get(link.secondary)  # type: ignore[call-overload]
            if entity is not None and self._secondary.has_key_of_its_own(entity):
                warn_of_unseen_keys(link, entity)

    def _meet_table(self, table: Table) -> Entity | None:
        with self._lock:
            if table not in self._by_table:
                mapped = [m for m in self._by_mapper if m.local_table is table and m.inherits is None]
                self._by_table[table] = self._by_mapper[mapped[0]] if mapped else self._maker.of_table(table)
            return self._by_table[table]


@contextmanager
def _until_used(*, first: bool, used: bool) -> Iterator[None]:
    """What is wrong with a class or table waits until it is used; two of one name in the first base do not wait."""
    try:
        yield
    except ConfigurationError as error:
        if used or (first and isinstance(error, InstallError)):
            raise


def _check_model(model: Any) -> None:
    if isinstance(model, Table):
        return
    try:
        inspect(model)
    except NoInspectionAvailable as error:
        raise ConfigurationError(f"{model!r} is neither a mapped class nor a Table") from error
