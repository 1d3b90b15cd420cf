"""What JSON can hold, as orjson writes it: values are encoded when they are captured, or refused with the reason."""

from __future__ import annotations

import decimal
import math
from typing import Any, Final

import orjson

_LEAST: Final = -(2**63)
_GREATEST: Final = 2**64 - 1
"""What orjson writes, and other readers read, as an integer."""


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
