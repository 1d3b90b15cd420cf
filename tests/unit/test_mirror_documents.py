"""A mirror file's content: indented where that costs little, one line where it would blow the file up."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.json_mirror.disk import documents

INDENTED = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


def nested(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def content(fields: dict[str, Any]) -> dict[str, Any]:
    return {"fields": fields, "model": "crm.contact", "pk": "a", "version": "00000000000000000001"}


@pytest.mark.parametrize(
    "value",
    [nested([1] * 100_000, 57), nested([[]] * 100_000, 50), nested({"": ""}, 60), [nested(1, 50)] * 5_000],
    ids=["numbers", "lists", "levels", "many levels"],
)
def test_depth_costs_little(value: Any) -> None:
    plain = len(orjson.dumps(value))
    written = documents.encode("crm.contact", "a", 1, {"value": value})
    assert len(written) < 4 * plain + 5_000
    assert documents.decode(written).fields == {"value": value}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": "ab12", "phone": None, "tags": ["a", "b"], "place": {"lat": 50.8503, "lon": 4.3517}},
        {"shape": {"type": "Polygon", "coordinates": [[[4.35171, 50.8503]] * 5_000]}},
        {"deep": nested("x" * 100, 30)},
        {"text": "[{,:" * 10_000},
        {str(number): number for number in range(1_000)},
    ],
    ids=["nothing", "a record", "a shape", "thirty levels", "a text of brackets", "many fields"],
)
def test_ordinary_records_are_indented(fields: dict[str, Any]) -> None:
    written = documents.encode("crm.contact", "a", 1, fields)
    assert written == orjson.dumps(content(fields), option=INDENTED)


@given(fields=st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_the_price_of_indentation_is_known_without_paying_it(fields: dict[str, Any]) -> None:
    made = content(fields)
    price = len(orjson.dumps(made, option=INDENTED)) - len(orjson.dumps(made)) - 1
    assert documents._indentation(made, 1 << 40) == price


@pytest.mark.parametrize("levels", [0, 3, 57])
@pytest.mark.parametrize("item", [1, [], "", None, 0.5], ids=repr)
def test_what_is_written_can_be_read(item: Any, levels: int) -> None:
    """orjson refuses some dense JSON that begins as indented JSON does, which a file must never be."""
    for count in (10, 1_000, 30_000):
        fields = {"value": nested([item] * count, levels)}
        assert documents.decode(documents.encode("crm.contact", "a", 1, fields)).fields == fields
