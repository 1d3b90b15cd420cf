"""A schema that the user gives for a model: taken as it is, without what it derived by itself and should stay home."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import Schema, fields, missing
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema
from sqlalchemy import Table
from sqlalchemy.orm import Mapper

from eventbus.errors import ConfigurationError

log = logging.getLogger(__name__)


def own_schema(
    entity: str, schema: type[Schema] | Schema, source: Mapper[Any] | Table, reasons: Mapping[str, str]
) -> Schema:
    """The user's schema without what it derived by itself and should stay home."""
    try:
        made = schema() if isinstance(schema, type) else copy.copy(schema)
    except Exception as error:
        raise ConfigurationError(f"the schema for {entity} cannot be made without arguments: {error}") from error
    if not isinstance(made, Schema):
        raise ConfigurationError(f"schemas={{…}}: {schema!r} for {entity} is not a marshmallow schema")
    hidden = {name for name, field in made.dump_fields.items() if _stays_home(name, field, made, source, reasons)}
    if hidden:
        made.exclude = set(made.exclude) | hidden
        made._init_fields()
    return made


def _stays_home(
    name: str, field: fields.Field[Any], schema: Schema, source: Mapper[Any] | Table, reasons: Mapping[str, str]
) -> bool:
    key = field.attribute or name
    if isinstance(source, Mapper) and key in source.relationships:
        return True
    return key in reasons and not _names(schema, name, source)


def _names(schema: Schema, name: str, source: Mapper[Any] | Table) -> bool:
    """Whether the author of a schema wrote this field down, rather than having it derived.

    marshmallow keeps no trace of that: what an automatic schema derives follows what was declared, in mapper order. In
    doubt a field counts as derived.
    """
    if (
        not isinstance(schema, SQLAlchemyAutoSchema)
        or schema.only is not None
        or name in getattr(schema.opts, "fields", ())
    ):
        return True
    order = [prop.key for prop in source.attrs] if isinstance(source, Mapper) else [each.key for each in source.columns]
    declared = [each for each, made in schema._declared_fields.items() if each in order and made is not None]
    if name not in order:
        return True
    later = declared[declared.index(name) + 1 :]
    places = [order.index(each) for each in (name, *later)]
    return places != sorted(places) or _differs_from_derived(schema, name)


def _differs_from_derived(schema: SQLAlchemyAutoSchema[Any], name: str) -> bool:
    """Whether a field is of another class than the schema's converter would have made."""
    options: Any = schema.opts
    converter = options.model_converter(schema_cls=type(schema))
    model, table = options.model, options.table
    if model is None and table is None:
        return True
    derived = converter.column2field(table.columns[name]) if model is None else converter.field_for(model, name)
    return type(schema._declared_fields[name]) is not type(derived)


def warn_of_lost_fields(entity: str, schema: Schema, source: Mapper[Any] | Table, keys: Sequence[str]) -> None:
    """marshmallow leaves out a field whose attribute is not there, without a word: it may be a slip of the pen."""
    if schema._hooks.get("pre_dump") or type(schema).get_attribute is not Schema.get_attribute:
        return  # which may find a value elsewhere
    model = source.class_ if isinstance(source, Mapper) else object
    for name, field in schema.dump_fields.items():
        attribute = (field.attribute or name).partition(".")[0]
        if (
            field._CHECK_ATTRIBUTE
            and field.dump_default is missing
            and attribute not in keys
            and inspect.getattr_static(model, attribute, missing) is missing
        ):
            log.warning(
                "a field of a schema is left out: %s.%s, as %s has no attribute %r",
                type(schema).__name__,
                name,
                entity,
                attribute,
            )
