"""Batches in a consumer: each event is judged, handled and settled alone; the message goes with the last of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from consumers.base import DONE, ConsumerSettings, DeadLetter, Delivery, Outcome, Retry
from consumers.base.broker.sender import Sender
from consumers.base.errors import Lost
from consumers.base.reading.letter import Letter, again, dead_letter
from consumers.base.reading.screen import Screen
from consumers.base.settings import Shard
from consumers.base.working.runner import Runner
from consumers.trust import Trust, parse_users
from eventbus.errors import BadEvent, BrokerUnavailable
from eventbus.events import batch
from eventbus.events.envelope import CONTENT_TYPE
from eventbus.events.reading import Limits
from eventbus.events.signing import Key, parse_keys, sign
from tests.support.consuming import STANDARD, Collector, ListInbox, Moments, delivery, event_body

SETTINGS = ConsumerSettings(url="memory://", exchange="e", queue="q", prefetch=20)
SCREEN = Screen(Limits(), Trust())
KEYS = parse_keys(f"new:{'n' * 32} old@crm:{'o' * 32}")


def batch_of(*bodies: bytes, tag: int = 1, key: Key | None = None, **more: Any) -> Delivery:
    """A message of these bodies, as a broker hands it over; signed with the key, if there is one."""
    body = batch.joined(bodies)
    headers = {**more.pop("headers", {}), **(sign(body, key) if key else {})}
    properties = {**STANDARD, "content_type": batch.CONTENT_TYPE, "application_headers": headers, **more}
    return Delivery(body, "crm.contact.updated", tag, exchange="eventbus", properties=properties)


def events(count: int, first: int = 1) -> list[bytes]:
    return [event_body(f"r{number}", number) for number in range(first, first + count)]


def good(delivery: Delivery, screen: Screen = SCREEN) -> list[Any]:
    sifted = screen.sift(delivery)
    assert sifted.bad == []
    return [part.event.pk for part in sifted.good]


def bad(delivery: Delivery, screen: Screen = SCREEN) -> list[tuple[bytes, str]]:
    return [(part.body, fault.reason) for part, fault in screen.sift(delivery).bad]


# -- what is read -----------------------------------------------


def test_each_event_is_a_delivery_with_the_bytes_it_would_have_alone() -> None:
    bodies = events(3)
    parts = SCREEN.sift(batch_of(*bodies, user_id="crm", message_id="t-1", headers={"mine": 1})).good
    assert [part.body for part in parts] == bodies
    assert [part.event.pk for part in parts] == ["r1", "r2", "r3"]
    assert len({part.tag for part in parts}) == 3
    for part in parts:
        assert (part.routing_key, part.exchange, part.size) == ("crm.contact.updated", "eventbus", len(part.body))
        assert part.properties == {
            **STANDARD,
            "content_type": CONTENT_TYPE,
            "user_id": "crm",
            "application_headers": {"mine": 1},
        }


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{no JSON}", "not JSON"),
        (b"{}", "not a CloudEvents 1.0 event"),
        (b"[]", "not an object"),
        (b"7", "not an object"),
        (batch.joined(events(2)), "not an object"),
        (event_body("x", 1, entity="order"), "what it says of itself disagrees"),
        (event_body("x", 1, service="billing"), "what it says of itself disagrees"),
        (event_body("x", 1, op="c"), "what it says of itself disagrees"),
        (event_body("x", 0), "version is zero"),
    ],
)
def test_a_bad_event_does_not_spoil_its_neighbours(body: bytes, reason: str) -> None:
    first, last = events(2)
    sifted = SCREEN.sift(batch_of(first, body, last))
    assert [part.event.pk for part in sifted.good] == ["r1", "r2"]
    assert [fault.reason for _, fault in sifted.bad] == [reason]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[]", "batch without an event"),
        (event_body(), "batch is not a list"),
        (b"[" + (b'{"x":"%b"},\n' % (b"x" * 90)) * 900 + b"{}]", "not a CloudEvents 1.0 event"),
        (b"[" + (b'{"x":"%b"},\n' % (b"x" * 90)) * 2000 + b"{}]", "too many events in a batch"),
        (b"[" + b"{},\n" * 900 + b"{}]", "too many events in a batch"),
        (b"[" + b"{},\n" * 200_000 + b"{}]", "too many events in a batch"),
        (b"[" + b"{}," * 60_000 + b"{}]", "too many objects and lists"),
        (b"[" + b"1," * 60_000 + b"1]", "too many events in a batch"),
        (b"[" + b"[],\n" * 200_000 + b"[]]", "batch is not an event a line, and too large"),
        (b"[" * 900_000, "batch is not an event a line, and too large"),
        (b"[" + b" " * (1 << 20) + b"]", "body too large"),
    ],
)
def test_a_batch_without_a_good_event_is_one_bad_message(body: bytes, reason: str) -> None:
    whole = batch_of()
    whole.body, whole.size = body, len(body)
    assert bad(whole) == [(body, reason)]


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"content_encoding": "gzip"}, "content encoding is not UTF-8"),
        ({"headers": {"compression": "application/x-gzip"}}, "compressed"),
        ({"unreadable": "OverflowError"}, "properties unreadable"),
    ],
)
def test_properties_alone_can_disqualify(properties: dict[str, Any], reason: str) -> None:
    whole = batch_of(*events(2), **properties)
    assert bad(whole) == [(whole.body, reason)]


def test_a_batch_that_is_said_to_be_an_event_is_none() -> None:
    whole = batch_of(*events(2), content_type=CONTENT_TYPE)
    assert bad(whole) == [(whole.body, "not an object")]


def test_the_limit_of_a_body_is_that_of_the_whole() -> None:
    whole = batch_of(*events(4))
    assert len(good(whole, Screen(Limits(body=len(whole.body)), Trust()))) == 4
    assert bad(whole, Screen(Limits(body=len(whole.body) - 1), Trust())) == [(whole.body, "body too large")]


def test_a_shard_takes_no_batches() -> None:
    """Its records are not all of one shard, and the broker could not tell."""
    screen = Screen.of(replace(SETTINGS, shard=Shard(0, 2)))
    whole = batch_of(*events(2))
    assert bad(whole, screen) == [(whole.body, "batch at a shard")]


# -- who may say it ---------------------------------------------


def test_the_senders_login_is_checked_for_each_event() -> None:
    screen = Screen(Limits(), Trust(parse_users("crm_writer=crm")))
    assert good(batch_of(*events(2), user_id="crm_writer"), screen) == ["r1", "r2"]
    whole = batch_of(*events(2), user_id="somebody")
    assert bad(whole, screen) == [(whole.body, "sender may not speak for the source")]


@pytest.mark.parametrize("key", KEYS)
def test_a_signature_proves_the_whole_batch(key: Key) -> None:
    screen = Screen(Limits(), Trust(keys=KEYS))
    assert good(batch_of(*events(3), key=key), screen) == ["r1", "r2", "r3"]
    for changed in (events(4), events(3)[:2], list(reversed(events(3)))):
        whole = batch_of(*events(3), key=key)
        whole.body = batch.joined(changed)
        assert bad(whole, screen) == [(whole.body, "signature wrong")]
    whole = batch_of(*events(2))
    assert bad(whole, screen) == [(whole.body, "signature missing")]


def test_the_batches_signature_goes_with_no_single_event() -> None:
    """It would be wrong there: whoever checks it later must find none."""
    for part in SCREEN.sift(batch_of(*events(2), key=KEYS[0], headers={"mine": 1})).good:
        assert part.headers == {"mine": 1}


def test_a_key_of_one_service_vouches_for_no_other() -> None:
    body = batch.joined([event_body("a", 1, service="billing"), event_body("b", 2, service="billing")])
    foreign = Delivery(
        body,
        "billing.contact.updated",
        1,
        exchange="eventbus",
        properties={**STANDARD, "content_type": batch.CONTENT_TYPE, "application_headers": sign(body, KEYS[1])},
    )
    assert bad(foreign, Screen(Limits(), Trust(keys=KEYS))) == [(body, "signature by the key of another service")]


def test_a_letter_of_one_event_can_be_checked_when_it_comes_back() -> None:
    """The batch's own signature would prove nothing of it."""
    screen = Screen(Limits(), Trust(keys=KEYS), queue="q")
    part = screen.sift(batch_of(*events(2), key=KEYS[0])).good[1]
    returned = _returned(dead_letter(part, BadEvent("no such parent"), queue="q", key="q", own_user=None))
    back = _returned(again(returned, attempts=1, queue="q", written=True, own_user=None))
    assert good(back, screen) == ["r2"]
    assert back.body == events(2)[1]


def _returned(letter: Letter) -> Delivery:
    return Delivery(letter.body, letter.routing_key, 1, exchange=letter.exchange, properties=letter.properties)


# -- what is acknowledged, and when -----------------------------


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> list[Letter]:
    sent: list[Letter] = []
    monkeypatch.setattr(Sender, "send", lambda _self, some: sent.extend(some))
    return sent


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def consume(queue: list[Delivery], handler: Any) -> ListInbox:
    inbox = ListInbox(queue)
    Runner(SETTINGS, handler, threading.Event(), drain=True, observer=Moments(), open_inbox=lambda _: inbox).run()
    return inbox


def test_handlers_get_events_in_order_and_no_more_than_ever() -> None:
    collector = Collector()
    queue = [batch_of(*events(15)), delivery("x", 16, tag=2), batch_of(*events(4, 17), tag=3)]
    assert consume(queue, collector).acknowledged == [1, 2, 3]
    assert collector.versions == list(range(1, 21))
    assert collector.batches == [10, 10]


def test_a_batch_is_acknowledged_with_its_last_event_and_not_before() -> None:
    inbox = ListInbox([batch_of(*events(15)), delivery("x", 16, tag=2)])
    seen: list[list[int]] = []

    def handler(some: Sequence[Delivery]) -> Sequence[Outcome]:
        seen.append(list(inbox.acknowledged))
        first = len(seen) == 2
        return [Retry("disk full") if first and each.event.version == 15 else DONE for each in some]

    Runner(SETTINGS, handler, threading.Event(), drain=True, open_inbox=lambda _: inbox).run()
    assert seen == [[], [], [2]]
    assert inbox.acknowledged == [2, 1]


def test_one_bad_event_among_many_is_a_letter_of_its_own(letters: list[Letter]) -> None:
    first, last = events(2)
    collector = Collector()
    inbox = consume([batch_of(first, b'{"no":"event"}', last, user_id="crm")], collector)
    assert collector.versions == [1, 2]
    (letter,) = letters
    assert letter.body == b'{"no":"event"}'
    assert letter.properties["content_type"] == CONTENT_TYPE
    assert letter.properties["application_headers"]["x-eventbus-routing-key"] == "crm.contact.updated"
    assert letter.properties["application_headers"]["x-eventbus-user"] == "crm"
    assert inbox.acknowledged == [1]


def test_what_the_handler_gives_up_is_a_letter_of_its_own(letters: list[Letter]) -> None:
    def handler(some: Sequence[Delivery]) -> Sequence[Outcome]:
        return [DeadLetter("no such parent") if each.event.version == 2 else DONE for each in some]

    bodies = events(3)
    assert consume([batch_of(*bodies)], handler).acknowledged == [1]
    assert [letter.body for letter in letters] == [bodies[1]]


def test_an_event_that_breaks_the_handler_is_found_among_its_neighbours(
    letters: list[Letter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.base.working.session.FIRST_RETRY", 0.001)
    monkeypatch.setattr("consumers.base.working.session._LONGEST_TRIAL", 0.001)
    done: set[int] = set()

    def handler(some: Sequence[Delivery]) -> Sequence[Outcome]:
        if any(each.event.version == 3 for each in some):
            raise KeyError("phone")
        done.update(each.event.version for each in some)
        return [DONE] * len(some)

    assert consume([batch_of(*events(8))], handler).acknowledged == [1]
    assert done == {1, 2, 4, 5, 6, 7, 8}
    assert [letter.body for letter in letters] == [events(3)[2]]


def test_a_batch_whose_letter_is_not_sent_stays_with_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Sender, _letters: object) -> None:
        raise Lost("no room")

    monkeypatch.setattr(Sender, "send", refuse)
    collector, stop = Collector(), threading.Event()
    inbox = ListInbox([batch_of(b'{"no":"event"}', *events(3)), delivery("x", 4, tag=2)])
    inbox.on_fetch = lambda: stop.set() if 4 in collector.versions else None
    Runner(SETTINGS, collector, stop, observer=Moments(), open_inbox=lambda _: inbox).run()
    assert collector.versions == [1, 2, 3, 4]
    assert inbox.acknowledged == [2]


def test_a_batch_without_a_good_event_is_one_letter_as_it_came(letters: list[Letter]) -> None:
    whole = batch_of(*[b"{}"] * 500)
    assert consume([whole], Collector()).acknowledged == [1]
    assert [letter.body for letter in letters] == [whole.body]
    assert letters[0].properties["content_type"] == batch.CONTENT_TYPE


def test_no_more_letters_are_made_than_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message may leave a thousand; those behind it wait until its letters are safe."""
    collector, handled, sizes = Collector(), list[int](), list[int]()

    def send(_self: Sender, some: Sequence[Letter]) -> None:
        handled.append(len(collector.versions))
        sizes.append(len(some))
        if len(handled) == 1:
            raise Lost("no room")

    monkeypatch.setattr(Sender, "send", send)
    bad = [b'{"x":"%b"}' % (b"x" * 50_000)] * 12
    queue = [batch_of(*events(1, version), *bad, tag=version) for version in (1, 2)]
    assert sum(len(each.body) for each in queue) > 1 << 20
    assert consume(queue, collector).acknowledged == [1, 2]
    assert handled == [1, 1, 2]
    assert sizes == [12, 12, 12]


def test_a_drain_whose_letters_nobody_takes_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Sender, _letters: object) -> None:
        raise Lost("no room")

    monkeypatch.setattr(Sender, "send", refuse)
    bad = [b'{"x":"%b"}' % (b"x" * 50_000)] * 12
    inbox = ListInbox([batch_of(*events(1, version), *bad, tag=version) for version in (1, 2)])
    hasty = replace(SETTINGS, drain_patience=0.1)
    with pytest.raises(BrokerUnavailable, match="no dead letter was taken"):
        Runner(hasty, Collector(), threading.Event(), drain=True, open_inbox=lambda _: inbox).run()
    assert inbox.acknowledged == []
