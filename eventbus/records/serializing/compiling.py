"""One schema as one function: the dict of a record in one expression, from the tuple of its values.

A field of a known class is an expression (`v3 if v3.__class__ is str or v3 is None else f3(v3)`), any other one is
asked as marshmallow would ask it. Whatever the expression stumbles over goes the slow way, field by field.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from marshmallow import fields
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from eventbus.records import columns
from eventbus.records.schemas.fields import WholeNumber
from eventbus.records.serializing.converters import Convert, is_plain_text
from eventbus.records.serializing.record import Record, Values


@dataclass(frozen=True, slots=True)
class Step:
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


def compile_record(
    steps: Sequence[Step], width: int, record: Callable[[Values], Record], walk: Callable[[Values], Any]
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


def compile_part(
    steps: Sequence[Step], before: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """As `compile_record`, for the old values of some columns; whatever it stumbles over is left to `before`."""
    reads = [f"        v{step.position} = old[{step.key!r}]" for step in steps]
    items = "".join(f"            {step.name!r}: {_expression(step, number)},\n" for number, step in enumerate(steps))
    lines = ["def part(old):", "    try:", *reads, "        return {", items + "        }"]
    lines += ["    except Exception:", "        return before(old)"]
    names: dict[str, Any] = {**_NAMES, "before": before}
    names.update({f"f{number}": step.convert for number, step in enumerate(steps)})
    exec(compile("\n".join(lines), "<eventbus serializer>", "exec"), names)  # noqa: S102 - as above
    made: Callable[[Mapping[str, Any]], dict[str, Any]] = names["part"]
    return made


def _expression(step: Step, number: int) -> str:
    if step.position is None:
        return f"f{number}(record)"
    return (step.inline or "{f}({v})").format(v=f"v{step.position}", f=f"f{number}")


_TEXT: Final = "{v} if {v}.__class__ is str or {v} is None else {f}({v})"
_FINITE: Final = "{v} if {v}.__class__ is float and {v} - {v} == 0.0 or {v} is None else {f}({v})"
_NAIVE: Final = "{v} if {v}.__class__ is datetime and {v}.tzinfo is None or {v} is None else {f}({v})"
_UTC: Final = "{v} if {v}.__class__ is datetime and {v}.tzinfo is UTC or {v} is None else {f}({v})"
_NAMES: Final = {"datetime": dt.datetime, "date": dt.date, "UTC": dt.UTC, "UUID": uuid.UUID}


def inline(field: Any, type_: TypeEngine[Any], dialect: Dialect) -> str | None:
    """The expression under which a value of this column passes to orjson untouched, or None if there is none such.

    A time of day is not left to orjson: 3.13 writes 17,468 microseconds as `.17468`.
    """
    kind = type(field)
    if kind in {fields.String, fields.Url, fields.Email}:
        return _TEXT if is_plain_text(type_, dialect) else None
    if kind in {fields.Integer, WholeNumber}:
        return _TEXT.replace("str", "int") if isinstance(type_, sa.Integer) and not field.as_string else None
    if kind is fields.Boolean:
        return _TEXT.replace("str", "bool") if isinstance(type_, sa.Boolean) else None
    if kind is fields.UUID:
        return _TEXT.replace("str", "UUID") if isinstance(type_, sa.Uuid) and type_.as_uuid else None
    if kind is fields.Float and not field.as_string and _is_plain_float(type_, dialect):
        return _FINITE if dialect.name == "postgresql" else _FINITE.replace("== 0.0", "== 0.0 != {v}")
    return _inline_temporal(field, type_, dialect)


def _is_plain_float(type_: TypeEngine[Any], dialect: Dialect) -> bool:
    if not isinstance(type_, sa.Float) or type_.asdecimal:
        return False
    return not columns.is_single_precision(type_, dialect)


def _inline_temporal(field: Any, type_: TypeEngine[Any], dialect: Dialect) -> str | None:
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
        return _UTC if dialect.name == "postgresql" and type_.timezone else _NAIVE
    return None
