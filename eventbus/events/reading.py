"""From the bytes of a body to JSON values, within limits that bound what it costs.

What can be counted in the bytes is counted there: a million lists that are refused were never made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from eventbus.errors import BadEvent

_DIGITS_TO_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER: Final = b"0" * 19
_SEQUENCE: Final = re.compile(rb'"sequence"\s*:\s*"[0-9]{20}"')
_LONG_INTEGER: Final = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}+(?![.eE])")
"""Outside texts; an integer, and no digits of a decimal or of an exponent."""
_BLANKS: Final = (b" ", b"\t", b"\r", b"\n")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may hold before it is refused: bytes, nesting levels, object keys, digits of an integer, objects and
    lists, and values of all kinds. An empty list of two bytes takes thirty times as much in memory.

    Of a batch `body` bounds the whole and each event, `events` their number; the others are an event's.
    """

    body: int = 1 << 20
    depth: int = 64
    keys: int = 10_000
    digits: int = 19
    containers: int = 50_000
    values: int = 250_000
    events: int = 1_000


DEFAULT_LIMITS: Final = Limits()


def parse(body: bytes, limits: Limits) -> Any:
    """The values of a JSON document. Raises BadEvent with a constant reason, and nothing else."""
    if len(body) > limits.body:
        raise BadEvent("body too large", f"{len(body)} bytes, the limit is {limits.body}")
    # Brackets, colons and commas bound all that is counted from above, at the cost of some scans; only a body that
    # might pass a limit is measured exactly. One that is shorter than the limits cannot.
    opened = body.count(b"{") + body.count(b"[")
    if len(body) >= min(limits.containers, limits.keys, limits.values) and _may_pass(body, opened, limits):
        _check_numbers_of(_outside_texts(body), limits)
    long_numbers = body.translate(_DIGITS_TO_ZERO).count(_LONG_NUMBER)
    if long_numbers > 1 or (long_numbers == 1 and not _SEQUENCE.search(body)):
        # Another long number than the sequence: orjson would turn an integer beyond 64 bits into a float, silently.
        _check_digits(_LONG_INTEGER.findall(_outside_texts(body)), limits.digits)
    try:
        # Without blanks behind the first bracket: by those orjson judges how much memory the rest may take.
        document = orjson.loads(body if body[1:2] not in _BLANKS else body[:1] + body[1:].lstrip())
    except orjson.JSONDecodeError as error:
        raise BadEvent("not JSON", str(error)) from error
    if opened > limits.depth:
        _check_depth(document, limits.depth)
    return document


def _may_pass(body: bytes, opened: int, limits: Limits) -> bool:
    return opened > limits.containers or body.count(b":") > limits.keys or body.count(b",") + opened >= limits.values


def _outside_texts(body: bytes) -> bytes:
    """Without what stands between quotes, if the body is JSON at all."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b'""'.join(body.split(b'"')[::2])


def _check_numbers_of(plain: bytes, limits: Limits) -> None:
    opened = plain.count(b"{") + plain.count(b"[")
    if plain.count(b":") > limits.keys:
        raise BadEvent("too many keys", f"more than {limits.keys}")
    if opened > limits.containers:
        raise BadEvent("too many objects and lists", f"more than {limits.containers}")
    if plain.count(b",") + opened >= limits.values:
        raise BadEvent("too many values", f"more than {limits.values}")


def _check_digits(integers: Iterable[bytes], limit: int) -> None:
    for digits in integers:
        if len(digits.lstrip(b"-")) > limit or int(digits) < -(1 << 63):
            raise BadEvent("integer too large", f"more than {limit} digits or 64 bits")


def _check_depth(document: Any, limit: int) -> None:
    level = [document]
    for _ in range(limit):
        below: list[Any] = []
        for value in level:
            below.extend(value.values() if type(value) is dict else value)
        level = [value for value in below if type(value) in (dict, list)]
        if not level:
            return
    raise BadEvent("nested too deep", f"more than {limit} levels")
