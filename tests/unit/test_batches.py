"""Batches on the wire: how events are joined and cut, what becomes of each, and who sends them so."""

from __future__ import annotations

import json
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import sessionmaker

import eventbus
from eventbus.errors import BadEvent, BrokerUnavailable, ConfigurationError
from eventbus.events import batch
from eventbus.events.envelope import CONTENT_TYPE, Message
from eventbus.events.reading import Limits
from eventbus.events.signing import parse_keys, verify
from eventbus.publishers import MemoryPublisher, Outcome, on_the_wire, publisher_for
from eventbus.publishers.batching import BatchingPublisher
from eventbus.publishers.headers import headers_for, partition_table
from eventbus.settings import Settings
from tests.support.consuming import event_body
from tests.support.messages import messages

LIMITS = Limits(body=100_000, events=10)
ITSELF = (
    [event_body("a", 1)],
    [event_body("a", 1), event_body("b", 2)],
    [event_body(f"r{n}", n) for n in range(1, 11)],
)


@pytest.mark.parametrize("bodies", ITSELF)
def test_events_come_out_of_a_batch_as_they_went_in(bodies: list[bytes]) -> None:
    made = batch.joined(bodies)
    assert json.loads(made) == [json.loads(body) for body in bodies]
    assert batch.cut(made, LIMITS) == bodies


_VALUES = st.recursive(
    st.none() | st.integers(-(2**31), 2**31) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.text(max_size=5), _VALUES, max_size=3), min_size=1, max_size=10))
def test_no_text_of_an_event_is_taken_for_its_end(events: list[dict[str, object]]) -> None:
    bodies = [orjson.dumps({**each, "x": 20 * '},\n{"'}) for each in events]
    assert batch.cut(batch.joined(bodies), LIMITS) == bodies


@pytest.mark.parametrize("indent", [None, 2])
def test_a_batch_that_somebody_else_wrote_is_read_too(indent: int | None) -> None:
    events = [json.loads(event_body(name, 1)) for name in ("a", "b", "c")]
    found = batch.cut(json.dumps(events, indent=indent).encode(), LIMITS)
    assert [json.loads(body) for body in found] == events


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"[", "not JSON"),
        (b"[]", "batch without an event"),
        (b"{}", "batch is not a list"),
        (event_body(), "batch is not a list"),
        (b"[" * 1000, "not JSON"),
        (b"[" * 1000 + b"]" * 1000, "nested too deep"),
        (b"[" + b"{},\n" * 10 + b"{}]", "too many events in a batch"),
        (b"[" + b"{}," * 10 + b"{}]", "too many events in a batch"),
        (b"[" + b"{},\n" * 25_000 + b"{}]", "body too large"),
    ],
)
def test_what_is_no_batch_within_limits_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(BadEvent) as caught:
        batch.cut(body, LIMITS)
    assert caught.value.reason == reason


def test_too_many_events_are_told_of_before_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus.events.batch.parse", lambda *_: pytest.fail("it was read"))
    with pytest.raises(BadEvent, match="too many events"):
        batch.cut(b"[" + b"{},\n" * 10 + b"{}]", LIMITS)


# -- publishing -------------------------------------------------


def sent(*some: list[Message], most_bytes: int = 1 << 20) -> list[Message]:
    """The messages that leave, given these to publish at once."""
    memory = MemoryPublisher()
    given_ = [message for part in some for message in part]
    outcomes = BatchingPublisher(memory, most_bytes=most_bytes).publish(given_)
    assert outcomes == [Outcome.CONFIRMED] * len(given_)
    return memory.messages


def test_neighbours_of_one_transaction_and_key_share_a_message() -> None:
    some = messages(3)
    (one,) = sent(some)
    assert one == Message(some[0].routing_key, some[0].id, batch.joined([each.body for each in some]), "tx")
    assert (one.content_type, some[0].content_type) == (batch.CONTENT_TYPE, CONTENT_TYPE)


def test_what_has_no_such_neighbour_goes_as_ever() -> None:
    other_key, other_transaction = messages(1, key="crm.contact.created"), [messages(1)[0]._replace(correlation_id="u")]
    some = [messages(1), other_key, messages(1, start=1), other_transaction]
    assert sent(*some) == [message for part in some for message in part]


def test_the_order_of_events_is_that_of_the_transaction() -> None:
    found = sent(messages(2, 99), messages(2, 99, 2, "crm.order.created"), messages(2, 99, 4))
    bodies = [body for message in found for body in batch.cut(message.body, Limits())]
    assert [json.loads(body)["n"] for body in bodies] == [0, 1, 2, 3, 4, 5]
    updated = "crm.contact.updated"
    assert [message.routing_key for message in found] == [updated, "crm.order.created", updated]


def test_a_batch_is_bounded_in_events_and_bytes() -> None:
    sizes = [len(batch.cut(message.body, Limits())) for message in sent(messages(600, 99))]
    assert sizes == [256, 256, 88]
    many = sent(messages(20, 1000), most_bytes=4096)
    assert all(len(message.body) <= 4096 for message in many)
    assert len(many) == 5
    assert max(len(message.body) for message in sent(messages(1000, 3000))) <= batch.MOST_BYTES


def test_an_event_that_is_larger_than_a_batch_goes_alone() -> None:
    small, large = messages(1), messages(1, 5000, 1)
    assert sent(small, large, messages(2, 20, 2), most_bytes=4096)[:2] == [*small, *large]


def test_what_becomes_of_a_batch_becomes_of_its_events() -> None:
    memory = MemoryPublisher()
    fates = {"crm.contact.updated": Outcome.CONFIRMED, "crm.order.created": Outcome.UNROUTABLE}
    memory.answer = lambda message: fates[message.routing_key]
    some = [*messages(2), *messages(3, key="crm.order.created"), *messages(1)]
    outcomes = BatchingPublisher(memory, most_bytes=1 << 20).publish(some)
    assert outcomes == [Outcome.CONFIRMED] * 2 + [Outcome.UNROUTABLE] * 3 + [Outcome.CONFIRMED]


def test_what_is_known_of_a_lost_connection_is_known_of_each_event() -> None:
    memory = MemoryPublisher()
    memory.lose(confirmed=1)
    with pytest.raises(BrokerUnavailable) as caught:
        BatchingPublisher(memory, most_bytes=1 << 20).publish([*messages(2), *messages(3, key="crm.order.created")])
    assert caught.value.outcomes == [Outcome.CONFIRMED] * 2 + [None] * 3


def test_a_batch_names_no_record_to_divide_by_and_is_signed_as_a_whole() -> None:
    body = batch.joined([event_body("a", 1), event_body("b", 2)])
    (key,) = parse_keys("2026-11:" + "s" * 32)
    headers = headers_for(key)(body)
    assert partition_table(body) is None
    assert "partitionkey" not in headers
    assert verify(body, headers, [key]) is key


# -- who says so ------------------------------------------------


@pytest.mark.parametrize(("wire", "is_batch"), [("single", False), ("batch", True)])
def test_the_setting_says_how_publishers_send(wire: str, is_batch: bool) -> None:
    settings = Settings(url="memory://", wire=wire)  # type: ignore[arg-type]
    for publisher in (publisher_for(settings), on_the_wire(MemoryPublisher(), settings)):
        assert isinstance(publisher, BatchingPublisher) is is_batch


def test_a_batch_is_never_larger_than_an_event_may_be() -> None:
    memory = MemoryPublisher()
    on_the_wire(memory, Settings(wire="batch", max_event_bytes=2048)).publish(messages(10, 500))
    assert [len(message.body) <= 2048 for message in memory.messages] == [True] * len(memory.messages)
    assert len(memory.messages) == 4


def test_the_environment_and_the_argument_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_WIRE", "batch")
    assert Settings.from_env().wire == "batch"
    with pytest.raises(ConfigurationError, match="EVENTBUS_WIRE is 'both': use single or batch"):
        Settings(wire="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r'install\(wire=.both.\): give "single", "batch"'):
        eventbus.install(sessionmaker(), wire="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("by_relay", [{"delivery": "relay"}, {"ordering": "strict"}])
def test_where_the_relay_publishes_it_is_the_one_to_be_told(by_relay: dict[str, str]) -> None:
    settings = replace(Settings(url="amqp://nowhere.invalid//"), **by_relay)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="EVENTBUS_WIRE=batch"):
        eventbus.install(sessionmaker(), settings=settings, wire="batch")
    eventbus.install(sessionmaker(), settings=replace(settings, wire="batch")).close()
