"""What a body may hold is counted in its bytes, before a million values are made of them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.base.settings import limits_for
from eventbus.errors import BadEvent
from eventbus.events.reading import Limits, parse

FEW = Limits(containers=20, values=60, keys=15)


def counted(value: Any) -> tuple[int, int, int]:
    """Objects and lists, values of all kinds, keys."""
    children = list(value.values()) if type(value) is dict else value if type(value) is list else ()
    below = [counted(each) for each in children]
    return (
        (type(value) in (dict, list)) + sum(each[0] for each in below),
        1 + sum(each[1] for each in below),
        (len(value) if type(value) is dict else 0) + sum(each[2] for each in below),
    )


TEXTS = st.text(st.sampled_from('[]{},:"\\ a\u00e9'), max_size=30)
VALUES = st.recursive(
    TEXTS | st.integers(-(2**63), 2**63) | st.none(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXTS, inner, max_size=8),
    max_leaves=40,
)


@given(st.lists(VALUES, max_size=5), st.sampled_from([0, orjson.OPT_INDENT_2]))
def test_a_body_is_refused_only_for_what_it_holds_outside_texts(value: Any, option: int) -> None:
    containers, values, keys = counted(value)
    body = orjson.dumps(value, option=option)
    # Commas and brackets count an empty list as a value and a place for one, so values may be counted somewhat high.
    if containers <= FEW.containers and keys <= FEW.keys and values + containers < FEW.values:
        assert parse(body, FEW) == value
    elif containers > FEW.containers or keys > FEW.keys or values > FEW.values + containers:
        with pytest.raises(BadEvent, match="too many"):
            parse(body, FEW)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("[]", "too many objects and lists"),
        ("{}", "too many objects and lists"),
        ("[[[[]]]]", "too many objects and lists"),
        ("1", "too many values"),
        ('""', "too many values"),
        ('{"":0}', "too many keys"),
    ],
)
def test_what_is_refused_was_never_made(item: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orjson, "loads", lambda _: pytest.fail("read"))
    body = b"[" + b",".join([item.encode()] * (1_000_000 // (len(item) + 1))) + b"]"
    with pytest.raises(BadEvent, match=reason):
        parse(body, Limits())


def test_texts_full_of_brackets_are_texts() -> None:
    value = {"code": "[{:,}]" * 150_000, "more": ['"\\' * 10_000, "\\"]}
    assert parse(orjson.dumps(value), limits_for(2 << 20)) == value


@pytest.mark.parametrize("text", ["12345678901234567890123", "-9223372036854775809", "[-99999999999999999999]"])
def test_an_integer_that_would_become_a_float_is_refused(text: str) -> None:
    with pytest.raises(BadEvent, match="integer too large"):
        parse(f'{{"a": {text}}}'.encode(), Limits())


@pytest.mark.parametrize(
    "text",
    [
        *("-9223372036854775808", "9223372036854775807", "0.1234567890123456789012345", "1234567890123456789012.5"),
        *("1e0000000000000000000001", "1.0E+0000000000000000000001", "1E-0000000000000000000001"),
        *("12345678901234567890e1", '"12345678901234567890123"', '"a\\"12345678901234567890123"'),
    ],
)
def test_long_digits_of_anything_else_are_not(text: str) -> None:
    document = f'{{"a": {text}}}'.encode()
    assert parse(document, Limits()) == orjson.loads(document)


def test_who_allows_larger_bodies_allows_more_in_them() -> None:
    usual, large = limits_for(1 << 20), limits_for(64 << 20)
    assert (usual.containers, usual.values) == (52_428, 262_144)
    assert large.containers > 60 * usual.containers
    assert limits_for(1_000).values == Limits().values
