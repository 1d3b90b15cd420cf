"""Moments, times of day and intervals as texts: ISO 8601, as far as that goes, and what databases have beyond it."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Final

_PERIOD: Final = re.compile(
    r"(?P<sign>-?)P(?:(?P<years>-?\d+)Y)?(?:(?P<months>-?\d+)M)?(?:(?P<weeks>-?\d+)W)?(?:(?P<days>-?\d+)D)?"
    r"(?:T(?:(?P<hours>-?\d+)H)?(?:(?P<minutes>-?\d+)M)?(?:(?P<seconds>-?\d+)(?:\.(?P<fraction>\d{1,6}))?S)?)?"
)
_FRACTION: Final = re.compile(r"\.\d+")
_SECOND: Final = 1_000_000
_DAY: Final = 86_400 * _SECOND
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_CLOCK: Final = re.compile(
    r"(?P<sign>-?)(?P<hours>\d{2,3}):(?P<minutes>[0-5]\d)(?::(?P<seconds>[0-5]\d)(?:\.(?P<fraction>\d{1,6}))?)?"
)
_BEYOND: Final = re.compile(
    r"-?infinity|(?=\d{5}|.* BC$)\d{4,7}-\d\d-\d\d"
    r"(?:[ T]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[+-]\d\d(?::?\d\d){0,2})?)?(?: BC)?"
)


@dataclass(frozen=True, slots=True)
class Period:
    """An interval as PostgreSQL keeps it: months, days and microseconds, which do not make one another."""

    months: int
    days: int
    microseconds: int

    @classmethod
    def parse(cls, text: object) -> Period:
        """ISO 8601 (`P1Y2M3DT4H5M6.5S`), each part with a sign of its own if need be. Raises ValueError."""
        match = _PERIOD.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[0][-1] in "PT":
            raise ValueError("not an ISO 8601 duration")
        part = {
            name: int(match[name] or 0) for name in ("years", "months", "weeks", "days", "hours", "minutes", "seconds")
        }
        fraction = int((match["fraction"] or "").ljust(6, "0"))
        if (match["seconds"] or "").startswith("-"):
            fraction = -fraction
        sign = -1 if match["sign"] else 1
        clock = (part["hours"] * 60 + part["minutes"]) * 60 + part["seconds"]
        return cls(
            sign * (part["years"] * 12 + part["months"]),
            sign * (part["weeks"] * 7 + part["days"]),
            sign * (clock * _SECOND + fraction),
        )

    @classmethod
    def of(cls, value: dt.timedelta) -> Period:
        """A timedelta's days and seconds, all of one sign."""
        total = value // _MICROSECOND
        sign = -1 if total < 0 else 1
        days, rest = divmod(abs(total), _DAY)
        return cls(0, sign * days, sign * rest)

    def timedelta(self) -> dt.timedelta:
        """As Python keeps it. Raises ValueError for months, whose days nobody knows."""
        if self.months:
            raise ValueError("an interval with months or years, which this column cannot hold")
        try:
            return dt.timedelta(days=self.days, microseconds=self.microseconds)
        except OverflowError:
            raise ValueError("an interval beyond what this column can hold") from None

    def __str__(self) -> str:
        """ISO 8601: a minus before all where every part has it (`-PT1S`), else one before each part that has it."""
        parts = (self.months, self.days, self.microseconds)
        whole = max(parts) <= 0 and min(parts) < 0
        months, days, micros = (-each for each in parts) if whole else parts
        text = _unit(_quotient(months, 12), "Y") + _unit(_rest(months, 12), "M") + _unit(days, "D")
        clock = _unit(_quotient(micros, 3600 * _SECOND), "H") + _unit(
            _quotient(_rest(micros, 3600 * _SECOND), 60 * _SECOND), "M"
        )
        clock += _seconds(_rest(micros, 60 * _SECOND))
        if not text and not clock:
            clock = "0S"
        return f"{'-' if whole else ''}P{text}{f'T{clock}' if clock else ''}"

    def postgresql(self) -> str:
        """As PostgreSQL reads it without a doubt."""
        return f"{self.months} months {self.days} days {self.microseconds} microseconds"


def _quotient(number: int, unit: int) -> int:
    """Towards zero."""
    return abs(number) // unit * (-1 if number < 0 else 1)


def _rest(number: int, unit: int) -> int:
    return number - _quotient(number, unit) * unit


def _unit(number: int, letter: str) -> str:
    return f"{number}{letter}" if number else ""


def _seconds(micros: int) -> str:
    if not micros:
        return ""
    whole, fraction = divmod(abs(micros), _SECOND)
    text = f"{whole}.{fraction:06d}".rstrip("0") if fraction else str(whole)
    return f"{'-' if micros < 0 else ''}{text}S"


def clock(value: dt.timedelta) -> str:
    """A MariaDB TIME, which may be negative or beyond a day: `12:30:00`, `-12:30:00`, `838:59:59.5`."""
    micros = value // _MICROSECOND
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    seconds, fraction = divmod(micros, _SECOND)
    text = f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06d}" if fraction else text


def parse_clock(text: object) -> tuple[str, int]:
    """A MariaDB TIME as it is written there, and the digits of its fraction that count. Raises ValueError."""
    match = _CLOCK.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("not a time")
    return match[0], len((match["fraction"] or "").rstrip("0"))


def is_beyond(text: object) -> bool:
    """Whether this is a date or moment of PostgreSQL that Python has none for: infinity, BC, after the year 9999."""
    return isinstance(text, str) and _BEYOND.fullmatch(text) is not None


def iso(text: str) -> str:
    """A moment as PostgreSQL writes it (`2026-01-02 03:04:05+00`) in ISO 8601 (`2026-01-02T03:04:05+00:00`)."""
    if "." in text:  # as Python writes fractions: six digits
        text = _FRACTION.sub(lambda match: match[0].ljust(7, "0"), text)
    if text[10:11] == " " and text[-1] != "C":
        text = f"{text[:10]}T{text[11:]}"
    return f"{text}:00" if text[-3:-2] in ("+", "-") and ":" in text else text
