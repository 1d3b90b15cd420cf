"""From a mapped class or a table to a marshmallow schema, and to the decision which columns go out.

`Converter` gives every column type a field that carries its values through JSON and back unchanged. `record_schema`
decides what is published: secrets by name, deferred and binary columns stay home unless a schema or
`Column.info={"eventbus": True}` names them; the primary key always goes out.
"""

from __future__ import annotations

import copy
import inspect
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from marshmallow import Schema, fields, missing
from marshmallow_sqlalchemy import ModelConverter, SQLAlchemyAutoSchema
from sqlalchemy import Column, Table
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

from eventbus.errors import ConfigurationError
from eventbus.records import columns
from eventbus.records.columns import (
    DECLARED,
    depends_on_dialect,
    is_read_through_sql,
    is_uuid,
    stored_type,
    undecorated,
)
from eventbus.records.fields import Amount, Array, Base64, Choices, Decorated, Duration, Json, StoredEnum, WholeNumber
from eventbus.records.sensitive import Names, is_secret

log = logging.getLogger(__name__)

_Maker = Callable[[Any, Dialect, dict[str, Any]], fields.Field[Any] | None]
"""Column type, dialect and the field's options to a field."""

INFO_KEY: Final = "eventbus"
"""`Column.info={"eventbus": False}` keeps a column home, `True` publishes one that would stay home."""

BINARY: Final = (sa.LargeBinary, sa.BINARY, sa.VARBINARY, mysql.BIT, mysql.TINYBLOB, mysql.MEDIUMBLOB, mysql.LONGBLOB)


def field_for(type_: TypeEngine[Any], dialect: Dialect, **kwargs: Any) -> fields.Field[Any] | None:
    """The field for a column type on a dialect, or None where its values have no JSON form that we know of.

    `kwargs` go to the field. Pickled values have none on purpose: reading them back would run what they hold.
    """
    type_ = columns.resolve(type_, dialect)
    for kinds, make in _MAKERS:
        if isinstance(type_, kinds):
            return make(type_, dialect, kwargs)
    return _by_python_type(type_, dialect, kwargs)


def _plainly(made: type[fields.Field[Any]]) -> _Maker:
    return lambda _type, _dialect, kwargs: made(**kwargs)


def _enum(type_: sa.Enum, _dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any]:
    return StoredEnum(columns.enum_members(type_), strict=type_.enum_class is not None, **kwargs)


def _array(type_: sa.ARRAY[Any], dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any] | None:
    inner = field_for(type_.item_type, dialect)
    return None if inner is None else Array(inner, **kwargs)


def _number(type_: Any, dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any]:
    if type_.asdecimal:
        return Amount(columns.decimal_places(type_, dialect), **kwargs)
    return fields.Float(**kwargs)


def _decorated(type_: TypeDecorator[Any], dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any] | None:
    inner = field_for(columns.decorated_impl(type_, dialect), dialect)
    if inner is None:
        return None
    return Decorated(inner, bind=columns.bound(type_, dialect), result=columns.returned(type_, dialect), **kwargs)


def _by_python_type(type_: TypeEngine[Any], _dialect: Dialect, kwargs: dict[str, Any]) -> fields.Field[Any] | None:
    """A type of somebody else's, by the Python type it says its values have."""
    try:
        made = _BY_PYTHON_TYPE.get(type_.python_type)
    except NotImplementedError:
        return None
    return None if made is None else made(**kwargs)


_BY_PYTHON_TYPE: Final[Mapping[type[Any], type[fields.Field[Any]]]] = {
    str: fields.String,
    int: WholeNumber,
    bool: fields.Boolean,
    float: fields.Float,
    bytes: Base64,
    uuid.UUID: fields.UUID,
    dict: Json,
    list: Json,
}
_MAKERS: Final[tuple[tuple[Any, _Maker], ...]] = (
    (sa.PickleType, lambda _type, _dialect, _kwargs: None),
    (columns.INTERVALS, _plainly(Duration)),
    (TypeDecorator, _decorated),
    (mysql.SET, lambda type_, _dialect, kwargs: Choices(type_.values, **kwargs)),
    (sa.Enum, _enum),
    (sa.ARRAY, _array),
    (columns.DECIMALS, _number),
    ((*columns.JSON_TYPES, NullType), _plainly(Json)),
    (sa.Boolean, _plainly(fields.Boolean)),
    ((sa.Integer, postgresql.OID), _plainly(WholeNumber)),
    (sa.DateTime, _plainly(fields.DateTime)),
    (sa.Date, _plainly(fields.Date)),
    (sa.Time, _plainly(fields.Time)),
    (sa.Uuid, _plainly(fields.UUID)),
    (BINARY, _plainly(Base64)),
    (sa.String, _plainly(fields.String)),
    ((postgresql.INET, postgresql.CIDR, postgresql.MACADDR, postgresql.MACADDR8), _plainly(fields.String)),
    (postgresql.MONEY, _plainly(fields.String)),
)
"""First match counts: subclasses before their bases."""


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


@dataclass(frozen=True, slots=True)
class RecordSchema:
    """How the records of one entity are published.

    `keys`, `columns` and `pk_index` are the entity's. `published` are the attribute keys that go out, `withheld` those
    that stay home with the reason. `own` is the schema the user gave for it, ready to dump, or None.
    """

    entity: str
    source: Mapper[Any] | Table
    keys: tuple[str, ...]
    columns: tuple[Column[Any], ...]
    pk_index: tuple[int, ...]
    own: Schema | None
    published: tuple[str, ...]
    withheld: Mapping[str, str]
    stored: frozenset[str] = frozenset()
    """Keys whose captured values are what the table holds, not what their types make of it (`columns.stored`)."""

    def schema(self, dialect: Dialect) -> Schema:
        """The schema whose `dump` is an event's `after` on this dialect.

        A type may be another one on this dialect than it is declared to be, and have to stay home after all.
        """
        if self.own is not None:
            return self.own
        published = [key for key in self.published if not self._stays_home_on(dialect, key)]
        return derive_schema(self.source, published, dialect)

    def _stays_home_on(self, dialect: Dialect, key: str) -> bool:
        position = self.keys.index(key)
        column = self.columns[position]
        if position in self.pk_index or not depends_on_dialect(column.type):
            return False
        reason = _reason_to_stay(key, column, self.source, Names(), dialect)
        if reason is not None:
            log.warning("a field stays home: %s.%s on %s: %s", self.entity, key, dialect.name, reason)
        return reason is not None


def record_schema(
    entity: str,
    source: Mapper[Any] | Table,
    keys: Iterable[str],
    columns: Iterable[Column[Any]],
    pk_index: Iterable[int],
    schema: type[Schema] | Schema | None,
    *,
    any_key: bool = False,
    withhold: Names = Names(),
) -> RecordSchema:
    """Decide what is published of an entity, with the user's schema where one is given.

    A field that the schema names (declares, or lists in `Meta.fields` or `only`) goes out whatever it is; what a
    `SQLAlchemyAutoSchema` derives by itself is not named. Relationships are left out: the rows they lead to are records
    of their own. Raises ConfigurationError where the schema is not one, and for
    a key without a JSON form unless `any_key`.
    """
    keys, columns, primary = tuple(keys), tuple(columns), frozenset(pk_index)
    for position in () if any_key else primary:
        if field_for(columns[position].type, DECLARED) is None and not depends_on_dialect(columns[position].type):
            raise ConfigurationError(
                f"{entity}: the primary key {keys[position]!r} has no JSON form; exclude the model"
            )
    reasons = {
        key: reason
        for position, (key, column) in enumerate(zip(keys, columns, strict=True))
        if position not in primary and (reason := _reason_to_stay(key, column, source, withhold))
    }
    own = None if schema is None else _own_schema(entity, schema, source, reasons)
    if own is not None:
        _warn_of_lost_fields(entity, own, source, keys)
        read = {field.attribute or name for name, field in own.dump_fields.items()}
        not_named = f"not in {type(own).__name__}"
        reasons = {key: reasons.get(key, not_named) for key in keys if key not in read}
    published = tuple(key for key in keys if key not in reasons)
    stored = frozenset(key for key, column in zip(keys, columns, strict=True) if is_read_through_sql(column.type))
    return RecordSchema(entity, source, keys, columns, tuple(pk_index), own, published, reasons, stored)


def _reason_to_stay(
    key: str, column: Column[Any], source: Mapper[Any] | Table, withhold: Names, dialect: Dialect = DECLARED
) -> str | None:
    """Why a column that is not part of the primary key stays home, or None if it goes out."""
    wanted = column.info.get(INFO_KEY)
    if wanted is False:
        return f'info={{"{INFO_KEY}": False}}'
    unknown = dialect is DECLARED and depends_on_dialect(column.type)
    if not unknown and field_for(stored_type(column.type, dialect), dialect) is None:
        return f"no JSON form for {type(column.type).__name__}"
    if wanted is True:
        return None
    if isinstance(source, Mapper) and getattr(source.attrs[key], "deferred", False):
        return "deferred"
    if is_read_through_sql(column.type):
        return "kept in another form than it is read (column_expression)"
    plain = sa.Uuid() if is_uuid(column.type) else undecorated(column.type, dialect)
    if isinstance(plain, BINARY) and not column.foreign_keys:
        return "binary"
    names = {key, column.key, column.name}
    if any(is_secret(name, plain, foreign_key=bool(column.foreign_keys)) for name in names):
        return "looks like a secret"
    return "withhold=" if any(map(withhold.hold, names)) else None


def _own_schema(
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


def _warn_of_lost_fields(entity: str, schema: Schema, source: Mapper[Any] | Table, keys: Sequence[str]) -> None:
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
