"""Marshmallow fields for columns that marshmallow's own cannot carry through JSON and back unchanged."""

# ruff: noqa: RUF012 - the signatures and class attributes are those of marshmallow's Field

from __future__ import annotations

import base64
import binascii
import datetime as dt
import decimal
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from marshmallow import fields
from marshmallow.exceptions import ValidationError

from eventbus.records.columns import Normaliser
from eventbus.records.decimals import CONTEXT, to_decimal

_DURATION: Final = re.compile(
    r"(?P<sign>-?)P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d{1,6}))?S)?)?"
)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DAYS: Final = dt.timedelta.days.__get__
_SECONDS: Final = dt.timedelta.seconds.__get__
_MICROSECONDS: Final = dt.timedelta.microseconds.__get__


class WholeNumber(fields.Integer):
    """An integer; unlike marshmallow's, `1.5` is refused when loading, not cut to 1."""

    def _validated(self, value: Any) -> int:
        if isinstance(value, float | decimal.Decimal) and value != int(value):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Amount(fields.Decimal):
    """A decimal as text (`"5.00"`), quantised to the column's scale at any precision; halves round away from zero."""

    def __init__(self, places: int | None = None, **kwargs: Any) -> None:
        super().__init__(places, as_string=True, **kwargs)

    def _format_num(self, value: Any) -> decimal.Decimal:
        number = to_decimal(value)
        if self.places is None or not number.is_finite():
            return number
        return number.quantize(self.places, context=CONTEXT)


class Base64(fields.Field[bytes]):
    """Bytes as base64 text (RFC 4648, with padding)."""

    default_error_messages = {"invalid": "Not valid base64 text."}

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else base64.b64encode(value).decode("ascii")

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bytes:
        try:
            return base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise self.make_error("invalid") from error


class Duration(fields.Field[dt.timedelta]):
    """A timedelta as an ISO 8601 duration of days and seconds, exact to the microsecond: `P3DT4H5M6.5S`, `-PT1S`."""

    default_error_messages = {"invalid": "Not an ISO 8601 duration of days, hours, minutes and seconds."}

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else format_duration(value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dt.timedelta:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None or value[-1] in "PT":
            raise self.make_error("invalid")
        units = {name: int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds")}
        try:
            delta = dt.timedelta(**units, microseconds=int((match["fraction"] or "0").ljust(6, "0")))
            return -delta if match["sign"] else delta
        except OverflowError as error:
            raise self.make_error("invalid") from error


def format_duration(value: dt.timedelta) -> str:
    """ISO 8601 text of a timedelta; zero is `PT0S`."""
    # By the class itself: subclasses divide in ways of their own.
    days, seconds, fraction = _DAYS(value), _SECONDS(value), _MICROSECONDS(value)
    total = (days * 86_400 + seconds) * 1_000_000 + fraction
    sign, total = ("-", -total) if total < 0 else ("", total)
    seconds, fraction = divmod(total, 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    second = f"{seconds}.{fraction:06d}".rstrip("0") if fraction else str(seconds)
    time = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "") + (f"{second}S" if second != "0" else "")
    if not days and not time:
        time = "0S"
    return f"{sign}P{f'{days}D' if days else ''}{f'T{time}' if time else ''}"


class StoredEnum(fields.Field[Any]):
    """A member of an enum column as the text SQLAlchemy stores for it: its name, or what `values_callable` says."""

    default_error_messages = {"unknown": "Must be one of: {choices}."}

    def __init__(self, members: Mapping[str, Any], *, strict: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.members = dict(members)
        self.texts = {member: text for text, member in reversed(self.members.items())}
        self.strict = strict

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        if value is None:
            return None
        text = self.texts.get(value)
        return str(value) if text is None else text

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, str):
            if value in self.members:
                return self.members[value]
            if not self.strict:
                return value
        raise self.make_error("unknown", choices=", ".join(self.members))


class Choices(fields.Field[set[str]]):
    """A MySQL SET as a list, in the order of its definition."""

    default_error_messages = {"invalid": "Not a list of: {choices}."}

    def __init__(self, choices: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.choices = list(choices)

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> list[str] | None:
        return None if value is None else sorted(value, key=self.choices.index)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> set[str]:
        if not isinstance(value, list) or not set(self.choices).issuperset(value):
            raise self.make_error("invalid", choices=", ".join(self.choices))
        return set(value)


class Json(fields.Raw):
    """Whatever JSON can hold, as it is; SQLAlchemy's `JSON.NULL` is null."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return None if value is sa.JSON.NULL else value


class Array(fields.Field[Any]):
    """A list of any depth with one kind of items, some of which may be null."""

    default_error_messages = {"invalid": "Not a valid list."}

    def __init__(self, inner: fields.Field[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if isinstance(value, list | tuple | set | frozenset):
            return [self._serialize(each, attr, obj) for each in value]
        return self.inner._serialize(value, attr, obj)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        return [self._item(each) for each in value]

    def _item(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list):
            return [self._item(each) for each in value]
        return self.inner._deserialize(value, None, None)


class Decorated(fields.Field[Any]):
    """A TypeDecorator's value, as the value of the type below: what the decorator sends to the database.

    A UUID that is kept as bytes is text all the same, since that is how everybody else knows it.
    """

    def __init__(self, inner: fields.Field[Any], *, bind: Normaliser, result: Normaliser, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner
        self.bind = bind
        self.result = result

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        bound = self.bind(value)
        if isinstance(self.inner, Base64) and bound is not None and isinstance(shown := self.result(bound), uuid.UUID):
            return str(shown)
        return self.inner._serialize(bound, attr, obj)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(self.inner, Base64) and isinstance(value, str) and _UUID.fullmatch(value):
            return uuid.UUID(value)
        below = self.inner._deserialize(value, attr, data)
        try:
            return self.result(below)
        except Exception as error:
            raise ValidationError("Not a value the column's type accepts.") from error
