"""JSON Schema 2020-12 of records and of their events, from the marshmallow schemas by which they are dumped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from marshmallow import Schema, fields

from eventbus.errors import ConfigurationError
from eventbus.records.columns import dialect_named
from eventbus.records.entity import Entity
from eventbus.records.schemas import fields as own

JsonSchema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DURATION: Final = r"^-?P(?=.)(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+(\.\d{1,6})?S)?)?$"
_NUMBER: Final = r"^(-?\d+(\.\d+)?([eE][+-]?\d+)?|NaN|-?Infinity)$"
_NULL: Final[JsonSchema] = {"type": "null"}


class Describer:
    """Describes what `dump` writes. Fields of other people are described by apispec, as far as it knows them.

    Raises ConfigurationError where apispec (extra `schema`) is not installed.
    """

    def __init__(self) -> None:
        try:
            from apispec.ext.marshmallow.openapi import OpenAPIConverter  # noqa: PLC0415  an optional package
        except ImportError as error:
            raise ConfigurationError(
                "describing schemas takes apispec: pip install 'sqlalchemy-eventbus[schema]'"
            ) from error
        # Nested schemas are written out where they stand: no name of theirs is part of the contract.
        unnamed: Any = None
        self._converter: Any = OpenAPIConverter("3.1.0", schema_name_resolver=lambda _: None, spec=unnamed)

    def record(self, schema: Schema) -> JsonSchema:
        """The object that the schema dumps. No field is required: a stub has its key alone."""
        return {
            "type": "object",
            "properties": {
                field.data_key if field.data_key is not None else name: self.field(field)
                for name, field in schema.dump_fields.items()
            },
        }

    def field(self, field: fields.Field[Any]) -> JsonSchema:
        """What the field dumps; null too where it may be."""
        described = self._bare(field)
        if not described or not field.allow_none:
            return described
        if isinstance(described.get("type"), str):
            choices = {"enum": [*described["enum"], None]} if "enum" in described else {}
            return {**described, **choices, "type": [described["type"], "null"]}
        return described if "null" in described.get("type", ()) else {"anyOf": [described, _NULL]}

    def _bare(self, field: fields.Field[Any]) -> JsonSchema:
        for kind, describe in _OWN.items():
            if isinstance(field, kind):
                return describe(self, field)
        if type(field) not in _KNOWN:
            return {}  # a Method, a Function, a class of the application's: it may write anything
        found: JsonSchema = self._converter.field2property(field)
        return {name: value for name, value in found.items() if name not in ("readOnly", "writeOnly", "default")}

    def _decorated(self, field: own.Decorated) -> JsonSchema:
        return self.field(field.inner)

    def _array(self, field: own.Array) -> JsonSchema:
        # Arrays may be nested to any depth, and hold nulls.
        return {"type": "array", "items": {"anyOf": [self.field(field.inner), {"type": ["array", "null"]}]}}

    def _nested(self, field: fields.Nested) -> JsonSchema:
        one = self.record(field.schema)
        return {"type": "array", "items": one} if field.many else one

    def _list(self, field: fields.List[Any]) -> JsonSchema:
        return {"type": "array", "items": self.field(field.inner)}


def _enum(_: Describer, field: own.StoredEnum) -> JsonSchema:
    return {"type": "string", "enum": list(field.members)} if field.strict else {"type": "string"}


_OWN: Final[Mapping[type[Any], Callable[[Describer, Any], JsonSchema]]] = {
    own.Amount: lambda _, __: {"type": "string", "pattern": _NUMBER},
    own.Base64: lambda _, __: {"type": "string", "contentEncoding": "base64"},
    own.Duration: lambda _, __: {"type": "string", "pattern": _DURATION},
    own.StoredEnum: _enum,
    own.Choices: lambda _, field: {"type": "array", "items": {"type": "string", "enum": field.choices}},
    own.Json: lambda _, __: {},
    own.Array: Describer._array,
    own.Decorated: Describer._decorated,
    fields.Nested: Describer._nested,
    fields.List: Describer._list,
    fields.NaiveDateTime: lambda _, __: {"type": "string"},
    fields.DateTime: lambda _, __: {"type": "string"},  # without an offset it is no RFC 3339 date-time
    fields.Time: lambda _, __: {"type": "string"},
    fields.Decimal: lambda _, field: {"type": "string", "pattern": _NUMBER} if field.as_string else {"type": "number"},
}
"""First match counts: subclasses before their bases."""

_KNOWN: Final = frozenset(
    {
        own.WholeNumber,
        fields.Boolean,
        fields.Date,
        fields.Dict,
        fields.Email,
        fields.Float,
        fields.Integer,
        fields.String,
        fields.URL,
        fields.UUID,
    }
)


def events(describer: Describer, entity: Entity, source: str, dialect: str) -> dict[str, JsonSchema]:
    """The schemas of an entity's events, by routing key: created (snapshots too), updated, deleted."""
    serializer = entity.serializer(dialect_named(dialect))
    record = describer.record(serializer.schema)
    return {
        key: _event(key, ops, record, entity, source)
        for key, ops in (
            (entity.routing_keys["c"], ["c", "r"]),
            (entity.routing_keys["u"], ["u"]),
            (entity.routing_keys["d"], ["d"]),
        )
    }


def _event(key: str, ops: list[str], record: JsonSchema, entity: Entity, source: str) -> JsonSchema:
    old: JsonSchema = {**record, "description": "old values, as far as they were known"}
    return {
        "$schema": DIALECT,
        "title": key,
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "sequence", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string"},
            "source": {"const": source},
            "type": {"const": key},
            "subject": {"type": "string", "description": f"{entity.name}/<key>"},
            "time": {"type": "string", "format": "date-time"},
            "sequence": {"type": "string", "pattern": r"^\d{20}$", "description": "the record's version"},
            "data": {
                "type": "object",
                "required": ["op", "model", "pk", "before", "after", "changed", "transaction"],
                "properties": {
                    "op": {"enum": ops},
                    "model": {"const": key.rpartition(".")[0]},
                    "pk": _key(entity),
                    "before": _NULL if "c" in ops else old,
                    "after": _NULL if "d" in ops else record,
                    "changed": {"type": "array", "items": {"type": "string"}},
                    "written": {"type": "array", "items": {"type": "string"}},
                    "whole": {"const": True},
                    "author": {"type": ["string", "null"]},
                    "transaction": {"type": "object"},
                },
            },
        },
    }


def _key(entity: Entity) -> JsonSchema:
    one: JsonSchema = {"type": ["string", "number", "boolean", "null"]}
    count = len(entity.pk_index)
    return one if count == 1 else {"type": "array", "items": one, "minItems": count, "maxItems": count}
