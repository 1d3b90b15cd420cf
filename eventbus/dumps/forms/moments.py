"""Moments, dates and times of day, from and to ISO 8601: what Python takes too lightly is refused."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Final, TypeVar

_Kind = TypeVar("_Kind", dt.datetime, dt.date, dt.time)


def naive(value: Any) -> dt.datetime:
    """A moment for a column without a zone: one with an offset is converted to UTC."""
    found = moment(value)
    return found if found.tzinfo is None else in_utc(found).replace(tzinfo=None)


def moment(value: Any) -> dt.datetime:
    """A moment, with its offset if it has one."""
    found = _parsed(dt.datetime, value, "a moment in ISO 8601 (2026-01-31T10:00:00)")
    _check_digits(value, _MOMENT_LENGTH)
    return found


def in_utc(value: dt.datetime) -> dt.datetime:
    """The same moment in UTC."""
    try:
        return value.astimezone(dt.UTC)
    except OverflowError:
        raise ValueError("a moment that in UTC is not within the years 1 to 9999") from None


def day(value: Any) -> dt.date:
    """A date."""
    return _parsed(dt.date, value, "a date in ISO 8601 (2026-01-31)")


def clock_time(value: Any) -> dt.time:
    """A time of day, with its offset if it has one."""
    found = _parsed(dt.time, value, "a time of day in ISO 8601 (10:00:00)")
    _check_digits(value, _TIME_LENGTH)
    return found


def _parsed(kind: type[_Kind], value: Any, what: str) -> _Kind:
    try:
        return kind.fromisoformat(value)
    except (ValueError, TypeError):
        raise ValueError(f"not {what}") from None


def _check_digits(value: str, length: int) -> None:
    """Python cuts a fraction of a second after six digits."""
    if len(value) > length and _BEYOND_MICROSECONDS.search(value):
        raise too_fine(6)


_MOMENT_LENGTH: Final = len("2026-01-31T10:00:00.123456")
_TIME_LENGTH: Final = len("10:00:00.123456")
_BEYOND_MICROSECONDS: Final = re.compile(r"[.,][0-9]{6}[0-9]*[1-9]")


def time_of_day(value: Any) -> dt.time:
    """A time of day for a column without a zone; with an offset it would need a date to be converted."""
    found = clock_time(value)
    if found.tzinfo is not None:
        raise ValueError("a time of day with an offset, which this column cannot hold")
    return found


def time_text(value: Any) -> str:
    """A time of day in ISO 8601."""
    text: str = value.isoformat()
    return text


def checked_fraction(moment: Any, digits: int | None) -> Any:
    """A moment or time of day whose fraction of a second the column keeps."""
    if digits is not None and digits < 6 and moment.microsecond % 10 ** (6 - digits):
        raise ValueError(_fraction(digits))
    return moment


def _fraction(digits: int) -> str:
    return f"has a fraction of a second of which the column keeps {digits or 'no'} digit{'s' if digits > 1 else ''}"


def too_fine(digits: int) -> ValueError:
    """What to say of a fraction that a column would cut."""
    return ValueError(_fraction(digits))
