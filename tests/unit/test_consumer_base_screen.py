"""What comes near a handler, and what becomes a letter instead."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Any

import amqp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.base.reading.delivery import Delivery
from consumers.base.reading.letter import dead_letter, original_key
from consumers.base.reading.screen import Screen
from consumers.trust import Trust
from eventbus.errors import BadEvent
from eventbus.events.envelope import Limits
from tests.support.consuming import STANDARD, delivery, event_body

SCREEN = Screen(Limits(body=2000), Trust())


def refused(bad: Delivery) -> str:
    with pytest.raises(BadEvent) as caught:
        SCREEN.check(bad)
    return caught.value.reason


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"content_type": "application/cloudevents+json; charset=utf-8"},
        {"content_type": "Application/CloudEvents+JSON"},
        {"content_encoding": None},
        {"content_encoding": "UTF-8"},
        {"application_headers": {"anything": 1, "compression": None}},
    ],
)
def test_an_event_is_read(properties: dict[str, Any]) -> None:
    good = delivery("ab12", 5, **properties)
    SCREEN.check(good)
    assert (good.event.version, good.event.pk) == (5, "ab12")


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"application_headers": {"compression": "application/x-gzip"}}, "compressed"),
        ({"content_encoding": "gzip"}, "content encoding is not UTF-8"),
        ({"content_encoding": "utf-16"}, "content encoding is not UTF-8"),
        ({"content_encoding": 3}, "content encoding is not UTF-8"),
        ({"content_type": None}, "content type missing"),
        ({"content_type": "application/x-python-serialize"}, "content type is not an event's"),
        ({"content_type": 7}, "content type is not an event's"),
        ({"unreadable": "OverflowError"}, "properties unreadable"),
    ],
)
def test_properties_alone_can_disqualify(properties: dict[str, Any], reason: str) -> None:
    assert refused(delivery(**properties)) == reason


def test_size_is_looked_at_before_content() -> None:
    assert refused(delivery(body=b"x" * 2001)) == "body too large"
    assert refused(Delivery(b"", size=10 << 20, standard=True)) == "body too large"


@given(st.binary(max_size=300))
def test_no_body_raises_anything_but_a_bad_event(body: bytes) -> None:
    with pytest.raises(BadEvent):
        SCREEN.check(Delivery(body, standard=True))


@given(
    st.dictionaries(st.sampled_from(["content_type", "content_encoding", "application_headers"]), st.none() | st.text())
)
def test_no_properties_raise_anything_but_a_bad_event(properties: dict[str, Any]) -> None:
    with suppress(BadEvent):
        SCREEN.check(Delivery(event_body(), properties=properties))


def letter_of(bad: Delivery) -> dict[str, Any]:
    return dict(dead_letter(bad, BadEvent("not JSON", "x" * 500), queue="q.0", exchange="dlx", key="q").properties)


def test_a_letter_tells_everything_and_keeps_the_message() -> None:
    bad = delivery(body=b"{", message_id="t-1", user_id="crm_writer", application_headers={"a": 1})
    letter = dead_letter(bad, BadEvent("not JSON"), queue="q.0", exchange="dlx", key="q")
    headers = letter.properties["application_headers"]
    assert (letter.exchange, letter.routing_key, letter.body) == ("dlx", "q", b"{")
    assert letter.properties["message_id"] == "t-1"
    assert headers["a"] == 1
    assert headers["x-eventbus-reason"] == "not JSON"
    assert headers["x-eventbus-queue"] == "q.0"
    assert headers["x-eventbus-routing-key"] == "crm.contact.updated"
    assert headers["x-eventbus-user"] == "crm_writer"
    assert headers["x-eventbus-sha256"] == "021fb596db81e6d02bf3d2586ee3981fe519f275c0ac9ca76bbcf2ebb4097d96"
    assert headers["x-eventbus-attempts"] == 1
    assert datetime.fromisoformat(headers["x-eventbus-time"]).tzinfo is not None


def test_a_letter_cannot_expire_nor_claim_another_sender() -> None:
    properties = letter_of(delivery(expiration="10", user_id="crm_writer", delivery_mode=1))
    assert "expiration" not in properties
    assert "user_id" not in properties
    assert properties["delivery_mode"] == 2


def test_attempts_are_counted_and_the_first_routing_key_is_kept() -> None:
    again = delivery(application_headers={"x-eventbus-attempts": 2, "x-eventbus-routing-key": "crm.contact.created"})
    assert letter_of(again)["application_headers"]["x-eventbus-attempts"] == 3
    assert original_key(again) == "crm.contact.created"


@pytest.mark.parametrize("count", ["2", True, -1, 10**9, None])
def test_a_made_up_count_of_attempts_is_not_believed(count: object) -> None:
    made_up = delivery(application_headers={"x-eventbus-attempts": count})
    assert letter_of(made_up)["application_headers"]["x-eventbus-attempts"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"n": Decimal("1E+500")},
        {"big": "x" * 100_000},
        {"deep": __import__("functools").reduce(lambda inner, _: {"a": inner}, range(2000), {})},
        {"n": 1 << 70},
        {"odd": object()},
    ],
)
def test_headers_that_cannot_be_sent_are_left_out_and_the_letter_is_sent(headers: dict[str, Any]) -> None:
    properties = letter_of(delivery(application_headers=headers))
    assert properties["application_headers"]["x-eventbus-reason"] == "not JSON"
    assert len(amqp.Message(b"", **properties)._serialize_properties()) < 40_000


def test_what_the_broker_added_is_not_repeated() -> None:
    added = {"x-death": [{"count": 1}], "x-delivery-count": 3, "x-first-death-queue": "q", "mine": 1}
    assert set(letter_of(delivery(application_headers=added))["application_headers"]) >= {"mine", "x-eventbus-reason"}
    assert not any(
        name.startswith("x-de") for name in letter_of(delivery(application_headers=added))["application_headers"]
    )


def test_standard_properties_are_not_looked_at_twice() -> None:
    def explode() -> dict[str, Any]:
        raise AssertionError

    good = Delivery(event_body(), properties=explode, standard=True)
    SCREEN.check(good)
    assert STANDARD["content_encoding"] == "utf-8"
