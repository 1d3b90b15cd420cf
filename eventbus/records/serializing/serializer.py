"""From captured values to what goes into an event: the marshmallow dump of a record, without marshmallow's price.

A schema whose class overrides nothing is compiled into one function (see `compiling`). A schema with hooks or
overridden methods is dumped by its own `dump`. All ways end in the bytes of `orjson.dumps(schema.dump(record))`, where
`record` has the values the database gives back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import orjson
from marshmallow import Schema
from marshmallow.decorators import POST_DUMP, PRE_DUMP
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper
from sqlalchemy.types import TypeEngine

from eventbus.errors import SerializationError
from eventbus.events import naming
from eventbus.events.change import MISSING
from eventbus.records import columns
from eventbus.records.normalising.normaliser import normaliser
from eventbus.records.schemas.published import RecordSchema
from eventbus.records.serializing.compiling import Step, compile_part, compile_record, inline
from eventbus.records.serializing.converters import AbsentError, asking, default_of, is_known, value_converter
from eventbus.records.serializing.json_values import UnfitError, ready
from eventbus.records.serializing.keys import key_converter, key_reader
from eventbus.records.serializing.record import Record, Values

log = logging.getLogger(__name__)

_OVERRIDABLE: Final = ("dump", "_serialize", "get_attribute", "dict_class", "_invoke_dump_processors")


class Serializer:
    """Writes the records of one entity for one dialect. Thread-safe; made by `build_serializer`.

    `after(values)` is the record as a dict that orjson turns into the JSON of `schema.dump`. It is made for orjson:
    dates, moments and UUIDs may stand in it as themselves, and JSON columns as `orjson.Fragment`, already encoded, so a
    later change of the mutable value does not reach the event. A MISSING value's field is absent. Raises
    SerializationError naming record and field for what JSON cannot hold (NaN, Infinity, integers over 64 bits, values
    that do not fit the field); lone surrogates in a text column are left to orjson (no database takes
    them): see `blame`.

    `pk(values)` is the primary key: text, number or truth value; a list of those where it is composite.

    `fields` are the names in `after`; `names` maps attribute keys to them, as far as a field shows one column.
    `computes`: there may be other fields too, of which `others` tells.
    """

    __slots__ = (
        "_entity",
        "_hooked",
        "_keys",
        "_model",
        "_normal",
        "_others",
        "_steps",
        "after",
        "computes",
        "fields",
        "names",
        "pk",
        "schema",
    )

    after: Callable[[Values], Any]
    pk: Callable[[Values], Any]

    def __init__(self, record_schema: RecordSchema, dialect: Dialect) -> None:
        source = record_schema.source
        self.schema: Schema = record_schema.schema(dialect)
        self._entity = record_schema.entity
        self._keys = {key: position for position, key in enumerate(record_schema.keys)}
        self._model = source if isinstance(source, Mapper) else None
        types = {
            key: columns.stored_type(column.type, dialect) if key in record_schema.stored else column.type
            for key, column in zip(record_schema.keys, record_schema.columns, strict=True)
        }
        self._normal = {key: normaliser(type_, dialect) for key, type_ in types.items()}
        self.pk = key_reader(
            [
                (position, *key_converter(types[record_schema.keys[position]], dialect))
                for position in record_schema.pk_index
            ],
            self._entity,
        )
        self._hooked = _has_hooks(self.schema)
        self._steps = [] if self._hooked else [self._step(*item, types, dialect) for item in _dumped(self.schema)]
        self.fields = tuple(_name_of(*item) for item in _dumped(self.schema))
        self.names = {
            field.attribute or name: _name_of(name, field)
            for name, field in _dumped(self.schema)
            if (field.attribute or name) in self._keys
        }
        plain = set(self.names.values())
        self._others = [step for step in self._steps if step.name not in plain]
        self.computes = self._hooked or bool(self._others)
        self.after = (
            self._dump if self._hooked else compile_record(self._steps, len(self._keys), self.record, self._walk)
        )

    def before(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Old values, by attribute key, as a partial record; what is MISSING or stays home is left out.

        So is what JSON cannot hold: never raises, for a record whose old value was unfit must stay repairable.
        """
        known = {key: value for key, value in values.items() if value is not MISSING}
        if self._hooked:
            return self._dump_part(known)
        result: dict[str, Any] = {}
        for step in self._steps:
            if step.key in known:
                try:
                    result[step.name] = step.of_value(known[step.key])
                except Exception as error:  # noqa: BLE001 - see the docstring
                    log.debug("old value of %s left out: %s", step.name, type(error).__name__)
        return result

    def part(self, keys: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """`before` for exactly these keys, made once for many records that changed alike."""
        steps = [step for step in self._steps if step.key in keys]

        def before(old: Mapping[str, Any]) -> dict[str, Any]:
            return self.before({key: old[key] for key in keys})

        return compile_part(steps, before) if steps else before

    def others(self, values: Values, written: Collection[str], shown: Any) -> list[str]:
        """Of the fields that are not in `names`, those that may tell of the columns `written`.

        A field that computes is asked once more, and watched: it tells of the columns it reads, or, reading none, of
        something else that may have changed. What hooks add or rename tells of everything. `shown` is what `after` made
        of the values; None where that failed: then each of them may.
        """
        if self._hooked:
            plain = set(self.names.values())
            names = self.fields if shown is None else orjson.loads(orjson.dumps(shown))
            return [name for name in names if name not in plain]
        return [step.name for step in self._others if shown is None or self._tells_of(step, values, written)]

    def _tells_of(self, step: Step, values: Values, written: Collection[str]) -> bool:
        watched, seen = self.record(values)._eventbus_watched()
        try:
            step.convert(watched)
        except Exception:  # noqa: BLE001 - it has no value to show then
            log.debug("a field cannot be asked", extra={"field": step.name})
        return not seen or not seen.isdisjoint(written)

    def record(self, values: Values) -> Record:
        """The object that stands for these values before marshmallow."""
        row = {key: values[position] for key, position in self._keys.items() if values[position] is not MISSING}
        return Record(row, self._normal, self._model)

    def blame(self, values: Values) -> SerializationError:
        """The error for a record whose event orjson refused although `after` was content (a lone surrogate)."""
        for name, value in self._walk(values).items():
            try:
                orjson.dumps(value)
            except TypeError:
                return self._error(values, name, value, "is not valid Unicode text")
        return SerializationError(f"{self._describe(values)} cannot be written as JSON", record=self._describe(values))

    def _step(self, name: str, field: Any, types: dict[str, TypeEngine[Any]], dialect: Dialect) -> Step:
        key = field.attribute or name
        if key not in types or not is_known(field):
            return Step(_name_of(name, field), None, None, asking(field, name, self.schema), None)
        type_ = columns.resolve(types[key], dialect)
        convert = value_converter(field, name, type_, dialect)
        default = default_of(field, name)
        return Step(_name_of(name, field), key, self._keys[key], convert, inline(field, type_, dialect), default)

    def _walk(self, values: Values) -> dict[str, Any]:
        """Field by field: the way of rows with MISSING values, and of those in which something is wrong."""
        result: dict[str, Any] = {}
        record = self.record(values)
        for step in self._steps:
            value = record if step.position is None else values[step.position]
            try:
                result[step.name] = step.convert(value)
            except AbsentError:
                if step.default is not None:
                    result[step.name] = step.default()
            except UnfitError as error:
                raise self._error(values, step.name, value, str(error)) from None
            except Exception as error:
                raise self._error(values, step.name, value, "does not fit the field") from error
        return result

    def _dump(self, values: Values) -> Any:
        """The way of schemas with hooks."""
        try:
            return ready(self.schema.dump(self.record(values), many=False))
        except Exception as error:
            record = self._describe(values)
            raise SerializationError(
                f"{record}: {type(self.schema).__name__} cannot dump it: {error}", record=record
            ) from error

    def _dump_part(self, known: dict[str, Any]) -> dict[str, Any]:
        """Hooks may hide or rename, so old values go through them too; hooks that need a whole record show none."""
        shown = {self.names[key] for key in known if key in self.names}
        try:
            dumped = self.schema.dump(Record(known, self._normal, self._model), many=False)
            return {name: ready(value) for name, value in dumped.items() if name in shown}
        except Exception as error:  # noqa: BLE001 - see `before`
            log.debug("old values of %s left out: %s", self._entity, type(error).__name__)
            return {}

    def _describe(self, values: Values) -> str:
        try:
            return naming.subject(self._entity, self.pk(values))
        except (SerializationError, TypeError):
            return self._entity

    def _error(self, values: Values, name: str, value: Any, reason: str) -> SerializationError:
        record = self._describe(values)
        what = "" if isinstance(value, Record) else f" of type {type(value).__name__}"
        return SerializationError(
            f"{record}: the value{what} in field {name!r} {reason}; the transaction cannot be published",
            record=record,
            field=name,
        )


def build_serializer(record_schema: RecordSchema, dialect: Dialect) -> Serializer:
    """The serializer of an entity on an engine's dialect."""
    return Serializer(record_schema, dialect)


def _has_hooks(schema: Schema) -> bool:
    """Whether the schema's own `dump` must be used, since its class does something of its own on the way."""
    kind = type(schema)
    if any(schema._hooks.get(tag) for tag in (PRE_DUMP, POST_DUMP)):
        return True
    return any(getattr(kind, name) is not getattr(Schema, name) for name in _OVERRIDABLE)


def _dumped(schema: Schema) -> list[tuple[str, Any]]:
    return list(schema.dump_fields.items())


def _name_of(name: str, field: Any) -> str:
    return name if field.data_key is None else str(field.data_key)
