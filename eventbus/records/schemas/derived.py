"""From a mapped class or a table to a marshmallow schema, whose fields carry every value through JSON unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marshmallow import Schema
from marshmallow_sqlalchemy import ModelConverter, SQLAlchemyAutoSchema
from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper

from eventbus.errors import ConfigurationError
from eventbus.records.columns import DECLARED
from eventbus.records.schemas.column_types import field_for


class Converter(ModelConverter):
    """marshmallow-sqlalchemy's converter, with our field for each column type.

    For schemas of your own: `class Meta: model = Contact; include_fk = True; model_converter = Converter`. Lengths are
    not validated: that is the database's to decide, and SQLite does not.
    """

    def property2field(self, prop: Any, *, instance: Any = True, **kwargs: Any) -> Any:
        """The field of a mapped attribute; relationships are marshmallow-sqlalchemy's business."""
        if hasattr(prop, "direction") or not instance or kwargs.get("field_class") is not None:
            return super().property2field(prop, instance=instance, **kwargs)
        kwargs.pop("field_class", None)
        return self.column2field(prop.columns[0], **kwargs)

    def column2field(self, column: Any, *, instance: bool = True, **kwargs: Any) -> Any:
        """The field of a column. Raises ConfigurationError for a type without a JSON form."""
        if not instance:
            return super().column2field(column, instance=instance, **kwargs)
        optional = getattr(column, "nullable", True)
        options: dict[str, Any] = {"allow_none": optional, "dump_only": not isinstance(column, Column), **kwargs}
        field = field_for(column.type, getattr(self.schema_cls, "dialect", DECLARED), **options)
        if field is None:
            raise ConfigurationError(
                f"column {column} of type {column.type!r} has no JSON form: declare a field for it, or exclude it"
            )
        return field


def derive_schema(source: Mapper[Any] | Table, keys: Sequence[str], dialect: Dialect) -> Schema:
    """A schema of these attribute keys of a mapped class or table, in this order, for one dialect.

    Only TypeDecorators and variants make it depend on the dialect.
    """
    owner = {"table": source} if isinstance(source, Table) else {"model": source.class_}
    meta = type("Meta", (), {**owner, "include_fk": True, "model_converter": Converter, "fields": tuple(keys)})
    meta.register = False  # type: ignore[attr-defined]
    name = source.name if isinstance(source, Table) else source.class_.__name__
    made: Schema = type(f"{name}Schema", (_DialectSchema,), {"Meta": meta, "dialect": dialect})()
    return made


class _DialectSchema(SQLAlchemyAutoSchema[Any]):
    dialect = DECLARED
