"""The event on the wire: what is written reads back, and nothing else is taken for an event."""

from typing import Any

import orjson
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from eventbus.errors import BadEvent
from eventbus.events import envelope
from eventbus.events.envelope import Batch
from eventbus.events.reading import Limits


def body(version: int = 7, **changes: Any) -> bytes:
    data = {
        "op": "u",
        "model": "crm.contact",
        "pk": "ab12",
        "before": {"phone": None},
        "after": {"id": "ab12", "phone": "+32"},
        "changed": ["phone"],
        "author": "u1",
        "transaction": {"id": "t", "index": 0, "size": 1},
    }
    return envelope.seal(
        envelope.encode(
            id="t-0",
            source="/crm",
            type="crm.contact.updated",
            subject="contact/ab12",
            time="2026-11-23T08:00:00.123456Z",
            transaction="t",
            data={**data, **changes},
        ),
        version,
    )


def altered(**attributes: Any) -> bytes:
    return orjson.dumps({**orjson.loads(body()), **attributes})


def test_an_event_reads_back_as_it_was_written() -> None:
    event = envelope.decode(body(version=1763884800123456))
    assert event.version == 1763884800123456
    assert (event.service, event.entity, event.record, event.op) == ("crm", "contact", "ab12", "u")
    assert event.before == {"phone": None}
    assert event.after == {"id": "ab12", "phone": "+32"}
    assert (event.changed, event.author, event.transaction["size"]) == (["phone"], "u1", 1)


def test_another_implementation_of_cloudevents_reads_the_same() -> None:
    event = JSONFormat().read(CloudEvent, body(version=7))
    assert (event.get_id(), event.get_source(), event.get_type()) == ("t-0", "/crm", "crm.contact.updated")
    assert event.get_subject() == event.get_extension("partitionkey") == "contact/ab12"
    assert event.get_time().isoformat() == "2026-11-23T08:00:00.123456+00:00"
    assert event.get_extension("sequence") == f"{7:020d}"
    assert event.get_data()["pk"] == "ab12"


def test_the_version_is_twenty_digits_so_that_texts_sort_as_numbers() -> None:
    assert orjson.loads(body(version=42))["sequence"] == "00000000000000000042"


def test_sealing_again_gives_the_same_bytes() -> None:
    unsealed = envelope.encode(
        id="t-0", source="/s", type="s.e.created", subject="e/1", time="now", transaction="t", data={}
    )
    assert envelope.seal(unsealed, 5) == envelope.seal(unsealed, 5)


def test_a_batch_numbers_its_messages_from_its_first_index() -> None:
    batch = Batch(version=9, transaction="t", keys=["a.b.created"] * 2, bodies=[b'{"a":1}', b'{"b":2}'], first_index=3)
    messages = batch.messages()
    assert [message.id for message in messages] == ["t-3", "t-4"]
    assert [orjson.loads(message.body)["sequence"] for message in messages] == [f"{9:020d}"] * 2
    assert batch.size == 14


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a":' * 3000, "not JSON"),
        (b"[]", "not an object"),
        (b"{}", "not a CloudEvents 1.0 event"),
        (altered(specversion="0.3"), "not a CloudEvents 1.0 event"),
        (altered(data=None), "no data object"),
        (altered(id=""), "id is not a text"),
        (altered(source=5), "source is not a text"),
        (altered(time=None), "time is not a text"),
        (altered(id="i" * 301), "id is too long"),
        (altered(source="/" * 301), "source is too long"),
        (altered(type="t" * 301), "type is too long"),
        (altered(time="2" * 301), "time is too long"),
        (body(model=f"crm.{'m' * 297}"), "model is too long"),
        (altered(traceparent=1), "traceparent is not a text"),
        (altered(sequence=7), "sequence is not 20 digits"),
        (altered(sequence="7"), "sequence is not 20 digits"),
        (altered(sequence="\u0660" * 20), "sequence is not 20 digits"),
        (body(op="x"), "unknown operation"),
        (body(op=["u"]), "unknown operation"),
        (body(model="contact"), "model is not service.entity"),
        (body(model="a.b.c"), "model is not service.entity"),
        (body(model=".b"), "model is not service.entity"),
        (body(model="a."), "model is not service.entity"),
        (body(pk=None), "primary key is not a scalar or a list of scalars"),
        (body(pk={}), "primary key is not a scalar or a list of scalars"),
        (body(pk=[]), "primary key is not a scalar or a list of scalars"),
        (body(pk=[[1]]), "primary key is not a scalar or a list of scalars"),
        (body(after=None), "after is not an object"),
        (body(after="x"), "after is not an object"),
        (body(before=[]), "before is not an object"),
        (body(op="d"), "after is not null in a deletion"),
        (body(author=5), "author is not a text"),
        (body(changed="phone"), "changed is not a list of names"),
        (body(changed=[{}]), "changed is not a list of names"),
        (body(written={"phone": 1}), "written is not a list of names"),
    ],
)
def test_what_is_not_an_event_of_ours_is_refused_with_its_reason(bad: bytes, reason: str) -> None:
    with pytest.raises(BadEvent) as refused:
        envelope.decode(bad)
    assert refused.value.reason == reason


@pytest.mark.parametrize("blank", [b" ", b"\n", b"\r\n\t  "])
def test_blanks_do_not_make_an_event_unreadable(blank: bytes) -> None:
    """orjson judges by them how much memory a text may need, and gives up on a dense rest."""
    dense = body(after={"numbers": [1] * 10_000})
    assert envelope.decode(dense[:1] + blank + dense[1:]) == envelope.decode(dense)


@pytest.mark.parametrize(
    ("told", "written", "whole"),
    [
        ({}, ["phone"], False),
        ({"written": ["phone", "name"]}, ["phone", "name"], False),
        ({"changed": [], "written": ["phone"]}, ["phone"], False),
        ({"changed": [], "written": []}, [], False),
        ({"changed": [], "stub": {}, "written": ["phone"]}, ["phone"], False),
        # Of a service that does not say what it wrote.
        ({"changed": None}, [], True),
        ({"changed": []}, [], True),
        ({"whole": True}, ["phone"], True),
        ({"whole": 1}, ["phone"], False),
        ({"op": "c"}, ["phone"], True),
        ({"op": "r"}, ["phone"], True),
    ],
)
def test_an_event_vouches_for_what_it_wrote_or_for_all(told: dict[str, Any], written: list[str], whole: bool) -> None:
    event = envelope.decode(body(**told))
    assert (event.written, event.whole) == (written, whole)


def test_limits_hold_at_their_edge() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return value

    # The event itself is three levels: event, data, after.
    assert envelope.decode(body(after={"x": nested(7)}), Limits(depth=10)).after
    with pytest.raises(BadEvent, match="nested too deep"):
        envelope.decode(body(after={"x": nested(8)}), Limits(depth=10))
    with pytest.raises(BadEvent, match="body too large"):
        envelope.decode(body(), Limits(body=len(body()) - 1))
    assert envelope.decode(body(), Limits(body=len(body())))
    with pytest.raises(BadEvent, match="too many keys"):
        envelope.decode(body(after=dict.fromkeys(map(str, range(100)))), Limits(keys=100))


@pytest.mark.parametrize("number", ["123456789012345678901", "-9999999999999999999", "1" * 5000])
def test_an_integer_that_would_become_a_float_is_refused(number: str) -> None:
    with pytest.raises(BadEvent, match="integer too large"):
        envelope.decode(body(after={"n": "@"}).replace(b'"@"', number.encode()))


@pytest.mark.parametrize("text", ["1" * 30, ":12345678901234567890", "[1234567890123456789012]"])
def test_long_digits_within_a_text_are_only_a_text(text: str) -> None:
    assert envelope.decode(body(after={"n": text, "m": 9223372036854775807})).after == {
        "n": text,
        "m": 9223372036854775807,
    }


@given(st.binary(max_size=200))
def test_no_bytes_make_decode_raise_anything_else(data: bytes) -> None:
    with pytest.raises(BadEvent):
        envelope.decode(data)
