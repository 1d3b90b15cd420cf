"""Secondary tables: those that carry the many-to-many relationships of the classes met so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.orm import RelationshipProperty

from eventbus.errors import ConfigurationError
from eventbus.records.entity import Entity

Link = RelationshipProperty[Any]
"""A many-to-many relationship."""


class SecondaryTables:
    """What is known of them from the relationships themselves. A row, a link, is known by what it links."""

    def __init__(self) -> None:
        self.tables: set[Any] = set()
        self._links: set[Link] = set()
        self._linked: dict[Table, set[Any]] = {}

    def meet(self, links: Iterable[Link]) -> None:
        """Note which columns of its table each relationship links by."""
        for link in links:
            pairs = [*link.synchronize_pairs, *(link.secondary_synchronize_pairs or ())]
            self._linked.setdefault(link.secondary, {column for _, column in pairs})  # type: ignore[arg-type]

    def add(self, links: Iterable[Link]) -> list[Link]:
        """Take in the relationships that write; returns those that were not known."""
        new = [link for link in links if not link.viewonly and link not in self._links]
        self._links.update(new)
        self.tables.update(link.secondary for link in new)
        return new

    def primary_key(self, table: Table, *, needed: bool = True) -> list[Column[Any]]:
        """What the rows of a bare table are known by. Where nothing tells them apart, which one reference does not
        either unless it is `needed`: nothing, or ConfigurationError.
        """
        linked = self._linked.get(table)
        primary = list(table.primary_key) or [column for column in table.columns if column.foreign_keys]
        if linked is not None and (not table.primary_key or not linked.issuperset(primary)):
            # Without a key, or with an id of its own that no Session ever sees: a link is known by what it links.
            primary = [column for column in table.columns if column in linked]
        elif not needed and not table.primary_key and len(primary) == 1:
            primary = []
        if needed and not primary:
            raise ConfigurationError(
                f"table {table.name} has no primary key, so its rows are no records: give it one, or leave it out"
            )
        return primary

    def has_key_of_its_own(self, entity: Entity) -> bool:
        """Whether the rows of a class have a key beside what they link, which no Session sees that writes links."""
        keys = {entity.columns[position] for position in entity.pk_index}
        return not keys <= self._linked.get(entity.table, keys)
