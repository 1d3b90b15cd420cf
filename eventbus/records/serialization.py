"""From captured values to what goes into an event: the marshmallow dump of a record, without marshmallow's price.

From a schema whose class overrides nothing, one function is generated that builds the record's dict from the tuple of
values: a field of a known class is an expression (`v3 if v3.__class__ is str or v3 is None else f3(v3)`), any other
one is asked as marshmallow would ask it. A schema with hooks or overridden methods is dumped by its own `dump`.
All ways end in the bytes of `orjson.dumps(schema.dump(record))`, where `record` has the values the database gives back.
"""

from __future__ import annotations

import datetime as dt
import decimal
import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any, Final

import orjson
import sqlalchemy as sa
from marshmallow import Schema, fields, missing
from marshmallow.decorators import POST_DUMP, PRE_DUMP
from sqlalchemy.orm import Mapper, QueryableAttribute
from sqlalchemy.types import TypeDecorator, TypeEngine

from eventbus.errors import SerializationError
from eventbus.events import naming
from eventbus.events.change import MISSING
from eventbus.records import columns
from eventbus.records.columns import Normaliser
from eventbus.records.fields import Amount, Array, Base64, Choices, Decorated, Duration, Json, StoredEnum, WholeNumber
from eventbus.records.schemas import RecordSchema, field_for

log = logging.getLogger(__name__)

Values = Sequence[Any]
"""Captured values aligned with an entity's keys; MISSING where a column was not loaded."""
Convert = Callable[[Any], Any]

KNOWN_FIELDS: Final[frozenset[type[Any]]] = frozenset(
    {fields.String, fields.Url, fields.Email, fields.UUID, fields.Integer, fields.Float, fields.Decimal, fields.Boolean}
    | {fields.DateTime, fields.NaiveDateTime, fields.AwareDateTime, fields.Date, fields.Time, fields.TimeDelta}
    | {fields.Enum, fields.Raw, fields.IP, fields.IPv4, fields.IPv6, fields.IPInterface}
    | {Amount, Array, Base64, Choices, Duration, Json, StoredEnum, WholeNumber}
)
"""Exactly these classes serialise a value by itself alone; what a subclass does is not known."""

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
    """

    __slots__ = (
        "_entity",
        "_hooked",
        "_keys",
        "_model",
        "_normal",
        "_steps",
        "after",
        "fields",
        "names",
        "pk",
        "schema",
    )

    after: Callable[[Values], Any]
    pk: Callable[[Values], Any]

    def __init__(self, record_schema: RecordSchema, dialect: str) -> None:
        source = record_schema.source
        self.schema: Schema = record_schema.schema(dialect)
        self._entity = record_schema.entity
        self._keys = {key: position for position, key in enumerate(record_schema.keys)}
        self._model = source if isinstance(source, Mapper) else None
        types = {key: column.type for key, column in zip(record_schema.keys, record_schema.columns, strict=True)}
        self._normal = {key: columns.normaliser(type_, dialect) for key, type_ in types.items()}
        self.pk = _key_reader(
            [
                (position, *_key_converter(types[record_schema.keys[position]], dialect))
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
        self.after = self._dump if self._hooked else _compile(self._steps, len(self._keys), self.record, self._walk)

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
                    log.debug("old value left out", extra={"field": step.name, "error": type(error).__name__})
        return result

    def part(self, keys: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """`before` for exactly these keys, made once for many records that changed alike."""
        steps = [step for step in self._steps if step.key in keys]

        def before(old: Mapping[str, Any]) -> dict[str, Any]:
            return self.before({key: old[key] for key in keys})

        return _compile_part(steps, before) if steps else before

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

    def _step(self, name: str, field: Any, types: dict[str, TypeEngine[Any]], dialect: str) -> _Step:
        key = field.attribute or name
        if key not in types or not (type(field) in KNOWN_FIELDS or isinstance(field, Decorated)):
            return _Step(_name_of(name, field), None, None, _asking(field, name, self.schema), None)
        type_ = columns.resolve(types[key], dialect)
        convert = _value_converter(field, name, type_, dialect)
        default = _default(field, name)
        return _Step(_name_of(name, field), key, self._keys[key], convert, _inline(field, type_, dialect), default)

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
            log.debug("old values left out", extra={"entity": self._entity, "error": type(error).__name__})
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


def build_serializer(record_schema: RecordSchema, dialect: str) -> Serializer:
    """The serializer of an entity on a dialect (its name: `sqlite`, `postgresql`, `mysql` or `mariadb`)."""
    return Serializer(record_schema, dialect)


class Record:
    """A row's captured values as an object, for marshmallow and for hooks, methods and properties of schema and model.

    An attribute is the value the database gives back; what was not captured is absent (AttributeError). Properties,
    hybrids, composites, synonyms and methods of the mapped class work on it, and `isinstance` takes it for one.
    """

    __slots__ = ("_eventbus_model", "_eventbus_normal", "_eventbus_row")

    def __init__(self, row: Mapping[str, Any], normal: Mapping[str, Normaliser], model: Mapper[Any] | None) -> None:
        self._eventbus_row = row
        self._eventbus_normal = normal
        self._eventbus_model = model

    def __getattr__(self, name: str) -> Any:
        row, mapper = self._eventbus_row, self._eventbus_model
        if name in row:
            value = row[name]
            return value if value is None else self._eventbus_normal[name](value)
        if mapper is None or name.startswith("__"):
            raise AttributeError(name)
        if name in mapper.synonyms:
            return getattr(self, mapper.synonyms[name].name)
        if name in mapper.composites:
            prop = mapper.composites[name]
            make: Any = prop.composite_class
            return make(*(getattr(self, each.key) for each in prop.props))
        found = getattr_static(mapper.class_, name)
        if isinstance(found, QueryableAttribute):  # a column or relationship
            raise AttributeError(f"{name} was not captured")
        return found.__get__(self, mapper.class_) if hasattr(found, "__get__") else found

    @property
    def __class__(self) -> type[Any]:
        mapper = self._eventbus_model
        return Record if mapper is None else mapper.class_

    @__class__.setter
    def __class__(self, value: type[Any]) -> None:
        raise AttributeError("__class__ of a record cannot be set")


@dataclass(frozen=True, slots=True)
class _Step:
    """One field: where its value comes from, and how it becomes JSON.

    `position` in the values (None: `convert` takes the whole Record), `inline` the expression for the usual case, of
    `{v}` and `{f}`; `default` what stands for a missing value.
    """

    name: str
    key: str | None
    position: int | None
    convert: Convert
    inline: str | None
    default: Callable[[], Any] | None = None

    def of_value(self, value: Any) -> Any:
        return self.convert(value)


_LEAST: Final = -(2**63)
_GREATEST: Final = 2**64 - 1
"""What orjson writes, and other readers read, as an integer."""


class AbsentError(Exception):
    """The field has no value to show; it is left out."""


class UnfitError(ValueError):
    """JSON cannot hold the value; the text says why, and never the value."""


def ready(value: Any) -> Any:
    """What a field's `_serialize` gave, fit for orjson: containers are encoded now, and checked for what JSON lacks."""
    kind = value.__class__
    if kind is str or kind is bool or value is None:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise UnfitError("is NaN or infinite, which JSON cannot hold")
        return value
    if kind is int:
        if not _LEAST <= value <= _GREATEST:
            raise UnfitError("is an integer of more than 64 bits")
        return value
    return orjson.Fragment(encode(value))


def encode(value: Any) -> bytes:
    """JSON of any value; keys that are not text become text, as in the database. Raises UnfitError."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        data = _encode_unusual(value)
    if b"null" in data:  # where orjson also leaves a NaN
        _refuse_nan(value)
    return data


def _encode_unusual(value: Any) -> bytes:
    try:
        return orjson.dumps(_without_huge_integers(value), option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, RecursionError) as error:
        raise UnfitError("holds something that JSON cannot") from error


def _without_huge_integers(value: Any) -> Any:
    """PostgreSQL's jsonb gives 1e22 back as an integer of 23 digits, which is the same number as a float."""
    if isinstance(value, int) and not _LEAST <= value <= _GREATEST:
        if abs(value) < 10**308 and decimal.Decimal(repr(float(value))) == value:
            return float(value)
        raise UnfitError("holds an integer of more than 64 bits")
    if isinstance(value, dict):
        return {key: _without_huge_integers(each) for key, each in value.items()}
    return [_without_huge_integers(each) for each in value] if isinstance(value, list | tuple) else value


def _refuse_nan(value: Any) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnfitError("holds NaN or an infinite number, which JSON cannot")
    elif isinstance(value, dict):
        for key, each in value.items():
            _refuse_nan(key)
            _refuse_nan(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _refuse_nan(each)


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


def _default(field: Any, name: str) -> Callable[[], Any] | None:
    if field.dump_default is missing:
        return None

    def default() -> Any:
        value = field.dump_default
        return ready(field._serialize(value() if callable(value) else value, name, None))

    return default


def _asking(field: Any, name: str, schema: Schema) -> Convert:
    """A field of somebody else's class: asked with the record, as `Schema.dump` would."""

    def convert(record: Any) -> Any:
        value = field.serialize(name, record, accessor=schema.get_attribute)
        if value is missing:
            raise AbsentError
        return ready(value)

    return convert


def _value_converter(field: Any, name: str, type_: TypeEngine[Any], dialect: str) -> Convert:
    """A field of a known class: the value alone, normalised, then serialised."""
    if isinstance(field, Decorated) and isinstance(type_, TypeDecorator):
        return _decorated_converter(field, name, type_, dialect)
    normal = columns.normaliser(type_, dialect)
    serialize = field._serialize
    if normal is columns.json_value and type(field) in {Json, fields.Raw}:
        return _json_converter
    if type(field) is Amount and isinstance(type_, columns.DECIMALS) and type_.asdecimal:
        return _amount_converter(normal, serialize, columns.decimal_places(type_, dialect))

    def convert(value: Any) -> Any:
        if value is MISSING:
            raise AbsentError
        return ready(serialize(value if value is None else normal(value), name, None))

    return convert


def _decorated_converter(field: Decorated, name: str, type_: TypeDecorator[Any], dialect: str) -> Convert:
    below = _value_converter(field.inner, name, columns.decorated_impl(type_, dialect), dialect)
    bind = field.bind

    def convert(value: Any) -> Any:
        if value is MISSING:
            raise AbsentError
        return below(bind(value))

    return convert


def _json_converter(value: Any) -> Any:
    if value is MISSING:
        raise AbsentError
    if value is None or value is sa.JSON.NULL:
        return None
    return ready(value)


def _amount_converter(normal: Normaliser, serialize: Callable[..., Any], places: int | None) -> Convert:
    """Decimals: the usual ones, that have the column's scale and fit a binary float, need their text alone."""
    quantum = decimal.Decimal(1).scaleb(-(places or 0))
    usual = 15 if places is not None and places <= 6 else -1
    zero = "-" + str(quantum * 0)

    def convert(value: Any) -> Any:
        if value.__class__ is decimal.Decimal and value.same_quantum(quantum):
            text = str(value)
            if len(text) <= usual and text != zero:
                return text
        if value is None:
            return None
        if value is MISSING:
            raise AbsentError
        number = normal(value)
        if not number.is_finite():
            raise UnfitError("is NaN or infinite, which JSON cannot hold")
        return serialize(number, None, None)

    return convert


def _key_reader(parts: Sequence[tuple[int, type[Any] | None, Convert]], entity: str) -> Callable[[Values], Any]:
    """What reads the primary key off a row: of each part its position, the class that needs no converting, and how."""

    def read(position: int, plain: type[Any] | None, convert: Convert, values: Values) -> Any:
        value = values[position]
        try:
            return value if value.__class__ is plain else convert(value)
        except (AbsentError, TypeError, ValueError, ArithmeticError) as error:
            because = "it was not captured" if isinstance(error, AbsentError) else error
            raise SerializationError(
                f"{entity}: the primary key cannot be published: {because}", record=entity
            ) from error

    def single(values: Values) -> Any:
        value = values[position]
        return value if value.__class__ is plain else read(position, plain, convert, values)

    def composite(values: Values) -> list[Any]:
        return [read(*part, values) for part in parts]

    if len(parts) > 1:
        return composite
    ((position, plain, convert),) = parts
    return single


def _key_converter(type_: TypeEngine[Any], dialect: str) -> tuple[type[Any] | None, Convert]:
    """Of a part of a primary key, the class whose values are a key as they are, and what converts any other.

    Always by its column: a record's identity does not depend on a user's schema.
    """
    type_ = columns.resolve(type_, dialect)
    plain = None if isinstance(type_, TypeDecorator) else _plain_key(type_, dialect)
    return plain, _value_converter(field_for(type_, dialect), "pk", type_, dialect)


def _plain_key(type_: TypeEngine[Any], dialect: str) -> type[Any] | None:
    """The class whose values are a key as they are."""
    if isinstance(type_, sa.Integer):
        return int
    return str if _is_plain_text(type_, dialect) else None


def _is_plain_text(type_: TypeEngine[Any], dialect: str) -> bool:
    if not isinstance(type_, sa.String) or isinstance(type_, sa.Enum):
        return False
    return dialect == "sqlite" or not isinstance(type_, sa.CHAR | sa.NCHAR)


_TEXT: Final = "{v} if {v}.__class__ is str or {v} is None else {f}({v})"
_FINITE: Final = "{v} if {v}.__class__ is float and {v} - {v} == 0.0 or {v} is None else {f}({v})"
_NAIVE: Final = "{v} if {v}.__class__ is datetime and {v}.tzinfo is None or {v} is None else {f}({v})"
_UTC: Final = "{v} if {v}.__class__ is datetime and {v}.tzinfo is UTC or {v} is None else {f}({v})"
_NAMES: Final = {"datetime": dt.datetime, "date": dt.date, "UTC": dt.UTC, "UUID": uuid.UUID}


def _inline(field: Any, type_: TypeEngine[Any], dialect: str) -> str | None:
    """The expression under which a value of this column passes to orjson untouched, or None if there is none such.

    A time of day is not left to orjson: 3.13 writes 17,468 microseconds as `.17468`.
    """
    kind = type(field)
    if kind in {fields.String, fields.Url, fields.Email}:
        return _TEXT if _is_plain_text(type_, dialect) else None
    if kind in {fields.Integer, WholeNumber}:
        return _TEXT.replace("str", "int") if isinstance(type_, sa.Integer) and not field.as_string else None
    if kind is fields.Boolean:
        return _TEXT.replace("str", "bool") if isinstance(type_, sa.Boolean) else None
    if kind is fields.UUID:
        return _TEXT.replace("str", "UUID") if isinstance(type_, sa.Uuid) and type_.as_uuid else None
    if kind is fields.Float and not field.as_string and _is_plain_float(type_, dialect):
        return _FINITE if dialect == "postgresql" else _FINITE.replace("== 0.0", "== 0.0 != {v}")
    return _inline_temporal(field, type_, dialect)


def _is_plain_float(type_: TypeEngine[Any], dialect: str) -> bool:
    if not isinstance(type_, sa.Float) or type_.asdecimal:
        return False
    return not columns.is_single_precision(type_, dialect)


def _inline_temporal(field: Any, type_: TypeEngine[Any], dialect: str) -> str | None:
    kind = type(field)
    if kind not in {fields.DateTime, fields.NaiveDateTime, fields.AwareDateTime, fields.Date}:
        return None
    if field.format not in {None, "iso", "iso8601"}:
        return None
    if isinstance(type_, sa.Date) and kind is fields.Date:
        return _TEXT.replace("str", "date")
    if columns.fraction_digits(type_, dialect) != 6:
        return None
    if isinstance(type_, sa.DateTime) and kind is not fields.Date:
        return _UTC if dialect == "postgresql" and type_.timezone else _NAIVE
    return None


def _compile(
    steps: Sequence[_Step], width: int, record: Callable[[Values], Record], walk: Callable[[Values], Any]
) -> Callable[[Values], Any]:
    """One function that builds the dict in one expression; whatever it stumbles over is left to `walk`."""
    used = {step.position for step in steps}
    targets = "".join(f"v{position}, " if position in used else "_, " for position in range(width))
    items = "".join(f"            {step.name!r}: {_expression(step, number)},\n" for number, step in enumerate(steps))
    lines = ["def after(values):", "    try:", f"        {targets} = values"]
    if None in used:
        lines.append("        record = record_of(values)")
    lines += ["        return {", items + "        }", "    except Exception:", "        return walk(values)"]
    names: dict[str, Any] = {**_NAMES, "record_of": record, "walk": walk}
    names.update({f"f{number}": step.convert for number, step in enumerate(steps)})
    code = compile("\n".join(lines), "<eventbus serializer>", "exec")
    exec(code, names)  # noqa: S102 - our own text; names are in it as repr()
    made: Callable[[Values], Any] = names["after"]
    return made


def _compile_part(
    steps: Sequence[_Step], before: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """As `_compile`, for the old values of some columns; whatever it stumbles over is left to `before`."""
    reads = [f"        v{step.position} = old[{step.key!r}]" for step in steps]
    items = "".join(f"            {step.name!r}: {_expression(step, number)},\n" for number, step in enumerate(steps))
    lines = ["def part(old):", "    try:", *reads, "        return {", items + "        }"]
    lines += ["    except Exception:", "        return before(old)"]
    names: dict[str, Any] = {**_NAMES, "before": before}
    names.update({f"f{number}": step.convert for number, step in enumerate(steps)})
    exec(compile("\n".join(lines), "<eventbus serializer>", "exec"), names)  # noqa: S102 - as in `_compile`
    made: Callable[[Mapping[str, Any]], dict[str, Any]] = names["part"]
    return made


def _expression(step: _Step, number: int) -> str:
    if step.position is None:
        return f"f{number}(record)"
    return (step.inline or "{f}({v})").format(v=f"v{step.position}", f=f"f{number}")
