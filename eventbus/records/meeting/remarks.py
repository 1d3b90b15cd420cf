"""What is said of models that can be captured in part only, or that an option of `install()` does not mean."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Table
from sqlalchemy.orm import Mapper, registry

from eventbus.errors import CaptureWarning
from eventbus.events import naming
from eventbus.records.entity import Entity, describe
from eventbus.records.meeting.mappers import mappers_of, name_of
from eventbus.records.meeting.secondary_tables import Link
from eventbus.records.meeting.selection import Selection

log = logging.getLogger(__name__)


def warn_of_unknown_names(models: registry, selection: Selection) -> None:
    """With the first registry, and in the log alone: a name may be of one that is met later."""
    mappers = mappers_of(models)
    mapped = {each.local_table for each in mappers if each.inherits is None}
    metadata = {models.metadata, *(table.metadata for table in mapped if isinstance(table, Table))}
    known = {name_of(each) for each in mappers}
    known |= {naming.quote(t.name) for each in metadata for t in each.tables.values() if t not in mapped}
    for option, name in selection.unknown(known):
        log.warning(
            "install(%s=[%r]): no model or table met with the first one has this name; they are: %s",
            option,
            name,
            ", ".join(sorted(known)[:20]),
        )


def warn_of_shared_tables(
    mappers: Iterable[Mapper[Any]], new: set[Mapper[Any]], entities: Mapping[Mapper[Any], Entity | None]
) -> None:
    """Of classes met now that are mapped to a table of another class's."""
    first: dict[Any, Entity] = {}
    for mapper in sorted(mappers, key=new.__contains__):
        entity = entities.get(mapper)  # none of a class whose name is another's, which was refused
        if entity is None or mapper.inherits is not None:
            continue
        other = first.setdefault(mapper.local_table, entity)
        if other is not entity and mapper in new:
            warnings.warn(
                f"{describe(other)} and {describe(entity)} are mapped to the same table: what is changed through "
                "one of them is no event of the other. Leave one out with install(…, exclude=[…])",
                CaptureWarning,
                stacklevel=2,
            )


def warn_of_unseen_keys(link: Link, entity: Entity) -> None:
    """Of a relationship whose secondary table is mapped to a class with a primary key of its own."""
    warnings.warn(
        f"{link} has secondary={entity.table.name!r}, to which {describe(entity)} is mapped with a primary key of "
        "its own. A Session never sees the keys of rows that it writes for the relationship, so changes made "
        f"through {link} are not captured. Make it viewonly=True and change {describe(entity)} objects, or "
        "make the foreign keys the primary key.",
        CaptureWarning,
        stacklevel=2,
    )
