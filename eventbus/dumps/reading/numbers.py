"""Numbers of a JSON text that are longer than a float, which would round them."""

from __future__ import annotations

import json
from typing import Any

import orjson


class LongNumber(float):
    """A number with more digits than a float has; as text it is what stands in the file."""

    __slots__ = ("text",)
    text: str

    def __str__(self) -> str:
        return self.text


def exact_float(text: str) -> float:
    """For `json.loads(parse_float=…)`: a float where that is the same number, else a LongNumber."""
    number = float(text)
    if len(text) < 16 or (number - number == 0 and _digits(repr(number)) == _digits(text)):
        return number
    long = LongNumber(number)
    long.text = text
    return long


def is_text_of(number: float, text: str) -> bool:
    """Whether this text stands for this float alone: its shortest text, or more of its digits."""
    if len(text) < 16:
        return True
    wanted = _digits(text)
    return wanted in (_digits(repr(number)), _digits(f"{number:.{max(len(wanted[0]) - 1, 0)}e}"))


def _digits(text: str) -> tuple[str, int]:
    """A number's significant digits and its exponent: the same for `1.50` and `15e-1`."""
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("+-").partition(".")
    digits = (whole + fraction).lstrip("0")
    return digits.rstrip("0"), int(exponent or 0) - len(fraction) + len(digits) - len(digits.rstrip("0"))


def json_text(value: Any, serialize: Any) -> str:
    """A JSON value as text, its long numbers with all their digits."""
    try:
        orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError:  # a LongNumber, an integer of more than 64 bits, or very deep
        try:
            return _exact(value)
        except RecursionError:
            raise ValueError("nested too deep") from None
    text: str = serialize(value)
    return text


def _exact(value: Any) -> str:
    if isinstance(value, LongNumber):
        return value.text
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)}: {_exact(each)}' for key, each in value.items())}}}"
    return f"[{', '.join(map(_exact, value))}]" if isinstance(value, list) else json.dumps(value)
