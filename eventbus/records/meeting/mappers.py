"""What is asked of SQLAlchemy's registries and mappers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapper, registry

from eventbus.events import naming


def configure(models: registry) -> None:
    """Let SQLAlchemy finish the classes of a base, as it does at their first use.

    Where it cannot, because one is not finished, nothing is left behind: its author may finish it yet.
    """
    try:
        models.configure(cascade=True)
    except SQLAlchemyError:
        for mapper in mappers_of(models):
            mapper.__dict__.pop("_configure_failed", None)
        raise


def mappers_of(models: registry) -> list[Mapper[Any]]:
    """The mapped classes of a declarative base; some of its classes may be waiting for their tables to be reflected."""
    return [manager.mapper for manager in list(models._managers) if manager.is_mapped]


def name_of(mapper: Mapper[Any]) -> str:
    """What the entity of a class is called, unless it is given a name."""
    return naming.quote(naming.snake_case(mapper.class_.__name__))


def is_sentinel(column: Column[Any]) -> bool:
    """Whether this is SQLAlchemy's own `insert_sentinel()`, whose values mean nothing beyond one INSERT."""
    return column.default is not None and column.default.is_sentinel
