"""What comes near a handler, and what becomes a letter instead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Any

import amqp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.base.reading.delivery import Delivery
from consumers.base.reading.letter import OURS, Letter, again, dead_letter
from consumers.base.reading.screen import Screen
from consumers.trust import Trust, parse_users
from eventbus.errors import BadEvent
from eventbus.events import batch, naming
from eventbus.events.reading import Limits
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


@pytest.mark.parametrize("content_type", [STANDARD["content_type"], batch.CONTENT_TYPE])
@pytest.mark.parametrize("body", [b"{", b"[{]", b"[{},\n{}]", b"x" * 3_000])
def test_a_fault_does_not_hold_the_frames_that_found_it(content_type: str, body: bytes) -> None:
    ((_, fault),) = SCREEN.sift(delivery(body=body, content_type=content_type)).bad
    assert (fault.__traceback__, fault.__cause__, fault.__context__) == (None, None, None)


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
    return dict(written(bad, "x" * 500).properties)


def written(bad: Delivery, detail: str = "") -> Letter:
    return dead_letter(bad, BadEvent("not JSON", detail), queue="q.0", key="q", own_user="mirror")


def resent(body: bytes = b"{", user: str = "mirror", **headers: Any) -> Delivery:
    """What comes back after `eventbus-dead-letters retry`."""
    properties = {**STANDARD, "user_id": user, "application_headers": headers}
    return Delivery(body, "q.0.retry", exchange="eventbus.dlx", properties=properties)


def test_a_letter_tells_everything_and_keeps_the_message() -> None:
    bad = delivery(body=b"{", message_id="t-1", user_id="crm_writer", application_headers={"a": 1})
    letter = written(bad)
    headers = letter.properties["application_headers"]
    assert (letter.exchange, letter.routing_key, letter.body) == ("eventbus.dlx", "q", b"{")
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
    assert properties["user_id"] == "mirror"
    assert properties["delivery_mode"] == 2


def test_attempts_are_counted_and_the_first_routing_key_is_kept() -> None:
    headers = letter_of(resent(**{"x-eventbus-attempts": 2, "x-eventbus-routing-key": "crm.contact.created"}))
    assert headers["application_headers"]["x-eventbus-attempts"] == 3
    assert headers["application_headers"]["x-eventbus-routing-key"] == "crm.contact.created"


@pytest.mark.parametrize("count", ["2", True, -1, 10**9, None])
def test_a_made_up_count_of_attempts_is_not_believed(count: object) -> None:
    for made_up in (delivery(application_headers={"x-eventbus-attempts": count}), resent(user="mirror")):
        assert letter_of(made_up)["application_headers"]["x-eventbus-attempts"] == 1


@pytest.mark.parametrize("name", sorted(OURS))
@pytest.mark.parametrize("value", ["forged", 7, None, b"x", ["y"]])
def test_what_a_sender_writes_under_our_names_is_believed_nowhere(name: str, value: object) -> None:
    forged = delivery(body=b"{", user_id="billing", application_headers={name: value})
    honest = delivery(body=b"{", user_id="billing")
    assert without_time(written(forged)) == without_time(written(honest))
    assert sent_again(forged, written=False) == sent_again(honest, written=False)
    # By another login through the way of our commands: the broker vouches for that login, not for the header.
    assert without_time(written(resent(user="billing", **{name: value}))) == without_time(
        written(resent(user="billing"))
    )


def without_time(letter: Letter) -> tuple[str, str, dict[str, Any]]:
    headers = {**letter.properties["application_headers"], "x-eventbus-time": None}
    return letter.exchange, letter.routing_key, {**letter.properties, "application_headers": headers}


def sent_again(bad: Delivery, *, written: bool) -> Letter:
    return again(bad, attempts=1, queue="q.0", written=written, own_user="mirror")


def test_who_spoke_first_survives_every_round() -> None:
    first = written(delivery(user_id="billing"))
    in_dead_letters = Delivery(first.body, "q", exchange="eventbus.dlx", properties=first.properties)
    back = sent_again(in_dead_letters, written=True)
    assert (back.exchange, back.routing_key, back.properties["user_id"]) == ("eventbus.dlx", "q.0.retry", "mirror")
    second = written(Delivery(back.body, back.routing_key, exchange=back.exchange, properties=back.properties))
    for letter in (first, back, second):
        assert letter.properties["application_headers"]["x-eventbus-user"] == "billing"
        assert letter.properties["application_headers"]["x-eventbus-routing-key"] == "crm.contact.updated"


def test_a_letter_of_an_unknown_sender_does_not_become_the_commands_own_word() -> None:
    back = sent_again(Delivery(event_body(), properties=STANDARD), written=False)
    screen = Screen(Limits(), Trust(parse_users("mirror=*")), queue="q.0", own_user="mirror")
    with pytest.raises(BadEvent, match="sender unknown"):
        screen.check(Delivery(back.body, back.routing_key, exchange=back.exchange, properties=back.properties))


def lies() -> Iterator[tuple[str, bytes, str]]:
    """Each place in which an event names its record or its kind, with something else than the others say."""
    good = orjson.loads(event_body())
    key = "crm.contact.updated"
    for name, value in {
        "type": ["crm.contact.created", "billing.contact.updated", "crm.invoice.updated", "crm.contact", "x"],
        "source": ["/billing", "crm", "//crm", "/crm/", "http://crm", "/CRM"],
        "subject": ["contact/other", "invoice/ab12", "contact", "contact/ab12/", "ab12", "contact/AB12"],
    }.items():
        for lie in value:
            yield name, orjson.dumps({**good, name: lie}), key
    for name, value in {
        "model": ["billing.contact", "crm.invoice", "crm.Contact"],
        "op": ["c", "d", "r"],
        "pk": ["other", 7, ["ab12"], "AB12", "ab12 "],
    }.items():
        for lie in value:
            after = {"after": None} if (name, lie) == ("op", "d") else {}
            yield name, orjson.dumps({**good, "data": {**good["data"], name: lie, **after}}), key
    for lie in ("crm.contact.created", "billing.contact.updated", "crm.x.updated", "", "crm.contact.updated.x", "#"):
        yield "routing key", event_body(), lie


@pytest.mark.parametrize(("place", "body", "key"), list(lies()))
def test_an_event_that_disagrees_with_itself_is_refused_and_named(place: str, body: bytes, key: str) -> None:
    lie = Delivery(body, key, exchange="eventbus", properties=STANDARD, standard=True)
    with pytest.raises(BadEvent) as caught:
        SCREEN.check(lie)
    assert caught.value.reason == "what it says of itself disagrees"
    assert place in caught.value.detail or place in ("model", "op", "pk")


@pytest.mark.parametrize(
    "pk", ["ab12", "a/b.c", "", "é\u0000", 0, -5, 2**63, 1.5, True, [1, "a"], [None, "x"], ["a/b"]]
)
@pytest.mark.parametrize("op", ["c", "u", "d", "r"])
def test_every_event_of_ours_agrees(pk: Any, op: str) -> None:
    service, entity = naming.quote("Crm.eu"), naming.quote("Order Line")
    key = naming.routing_key(service, entity, op)
    good = event_body(pk, service=service, entity=entity, op=op)
    SCREEN.check(Delivery(good, key, exchange="eventbus", standard=True))


def screen_at(ahead: float) -> Screen:
    return Screen(Limits(), Trust(), version_ahead=ahead)


def test_a_version_far_ahead_of_the_clock_is_refused() -> None:
    now = time.time_ns() // 1000
    for version, ahead in [(now, 60), (now + 50_000_000, 60), (10**19, 0), (1, 60)]:
        screen_at(ahead).check(Delivery(event_body(version=version), standard=True))
    for version in (now + 200_000_000, 10**18, 10**20 - 1, 2**63):
        with pytest.raises(BadEvent, match="too far ahead of the clock"):
            screen_at(60).check(Delivery(event_body(version=version), standard=True))


def test_versions_written_as_escapes_are_no_way_round() -> None:
    def escaped(version: int) -> bytes:
        digits = b"%020d" % version
        return event_body(version=version).replace(digits, b"".join(b"\\u00%02x" % digit for digit in digits))

    screen_at(60).check(Delivery(escaped(5), standard=True))
    for version, reason in [(0, "version is zero"), (10**20 - 1, "too far ahead")]:
        with pytest.raises(BadEvent, match=reason):
            screen_at(60).check(Delivery(escaped(version), standard=True))
    large = escaped(5).replace(b'"+32"', b"123456789012345678901234567890")
    with pytest.raises(BadEvent, match="integer too large"):
        screen_at(60).check(Delivery(large, standard=True))


@pytest.mark.parametrize("pk", ["ab12", 5])
def test_a_version_of_zero_is_refused(pk: Any) -> None:
    with pytest.raises(BadEvent, match="version is zero"):
        SCREEN.check(Delivery(event_body(pk, 0), standard=True))


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
