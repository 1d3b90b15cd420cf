"""Moments, dates, times of day and durations, as they come back."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy.engine import Dialect

from eventbus.records.columns import MYSQL, Normaliser, fraction_digits, same

_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - SQLAlchemy's own, naive


def datetime(type_: Any, dialect: Dialect) -> Normaliser:
    """Moments, in the zone and to the fraction of a second that the column keeps."""
    cut = _fraction(type_, dialect)
    keeps_zone = bool(getattr(type_, "timezone", False)) and dialect.name not in MYSQL and dialect.name != "sqlite"

    def normal(value: Any) -> dt.datetime:
        moment: dt.datetime = cut(_moment(value))
        if moment.tzinfo is None:
            return moment.replace(tzinfo=dt.UTC) if keeps_zone and dialect.name == "postgresql" else moment
        if keeps_zone:
            return moment.astimezone(dt.UTC)
        return (moment.astimezone(dt.UTC) if dialect.name == "postgresql" else moment).replace(tzinfo=None)

    return normal


def _moment(value: Any) -> dt.datetime:
    if value.__class__ is dt.datetime:
        return value
    if isinstance(value, dt.datetime):
        return dt.datetime.combine(dt.datetime.date(value), dt.datetime.timetz(value))
    if isinstance(value, dt.date):
        return dt.datetime.combine(value, dt.time())
    return dt.datetime.fromisoformat(value)


def date(_type: Any, _dialect: Dialect) -> Normaliser:
    """Dates; of a moment its date."""

    def normal(value: Any) -> dt.date:
        if isinstance(value, dt.date):
            return dt.date.fromordinal(dt.date.toordinal(value))
        return dt.date.fromisoformat(value)

    return normal


def time(type_: Any, dialect: Dialect) -> Normaliser:
    """Times of day, to the fraction of a second that the column keeps."""
    cut = _fraction(type_, dialect)
    keeps_zone = bool(getattr(type_, "timezone", False)) and dialect.name == "postgresql"

    def normal(value: Any) -> dt.time:
        if isinstance(value, dt.time):
            value = dt.datetime.combine(dt.date.min, value)
        time: dt.time = cut(
            dt.datetime.timetz(value) if isinstance(value, dt.datetime) else dt.time.fromisoformat(value)
        )
        return time if keeps_zone else time.replace(tzinfo=None)

    return normal


def interval(type_: Any, dialect: Dialect) -> Normaliser:
    """Durations, to the fraction of a second that the column keeps."""
    if dialect.name not in MYSQL:
        return same
    cut = _fraction(type_, dialect)
    return lambda value: cut(_EPOCH + value) - _EPOCH


def _fraction(type_: Any, dialect: Dialect) -> Normaliser:
    digits = fraction_digits(type_, dialect)
    if digits == 6:
        return same
    unit = 10 ** (6 - digits)
    if dialect.name in MYSQL:
        return lambda value: value.replace(microsecond=value.microsecond // unit * unit)
    return lambda value: _round_half_up(value, unit)


def _round_half_up(value: Any, unit: int) -> Any:
    if isinstance(value, dt.time):
        moment = dt.datetime.combine(dt.date(2000, 1, 1), value)
        return _round_half_up(moment, unit).timetz()
    rounded = (value.microsecond + unit // 2) // unit * unit
    return value.replace(microsecond=0) + dt.timedelta(microseconds=rounded)
