"""What is acknowledged, when, and what happens to the rest; on a queue made of a list."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumers.base import DONE, ConsumerSettings, DeadLetter, Delivery, Outcome, Retry, run
from consumers.base.broker.sender import Sender
from consumers.base.errors import Lost
from consumers.base.settings import Shard
from consumers.base.working.runner import Runner
from consumers.base.working.worklist import GUILTY_AFTER
from eventbus.backoff import Backoff
from eventbus.errors import BrokerUnavailable, ConfigurationError
from tests.support.consuming import STANDARD, Collector, ListInbox, Moments, delivery, event_body

SETTINGS = ConsumerSettings(url="memory://", exchange="e", queue="q", prefetch=20)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Reasons of the letters sent, instead of a broker to send them to."""
    sent: list[str] = []

    def send(_self: Sender, some: Sequence[Any]) -> None:
        sent.extend(each.properties["application_headers"]["x-eventbus-reason"] for each in some)

    monkeypatch.setattr(Sender, "send", send)
    return sent


def consume(
    queue: list[Delivery],
    handler: Callable[[Sequence[Delivery]], Sequence[Outcome]],
    *,
    settings: ConsumerSettings = SETTINGS,
    stop: threading.Event | None = None,
) -> tuple[ListInbox, Moments]:
    """Drain the list with this handler."""
    inbox, moments = ListInbox(queue), Moments()
    Runner(settings, handler, stop or threading.Event(), drain=True, observer=moments, open_inbox=lambda _: inbox).run()
    return inbox, moments


def numbered(count: int) -> list[Delivery]:
    return [delivery(f"r{tag}", tag, tag=tag) for tag in range(1, count + 1)]


def test_nothing_is_acknowledged_before_the_handler_has_returned() -> None:
    seen: list[list[Any]] = []
    inbox = ListInbox(numbered(3))

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        seen.append(list(inbox.acknowledged))
        return [DONE] * len(batch)

    Runner(SETTINGS, handler, threading.Event(), drain=True, open_inbox=lambda _: inbox).run()
    assert seen == [[]]
    assert inbox.acknowledged == [1, 2, 3]
    assert inbox.closed


def test_large_bodies_are_read_and_handled_a_mebibyte_at_a_time() -> None:
    """What a body takes once it is read may be twenty times its size: what was handled is let go of first."""
    seen: list[weakref.ref[Any]] = []

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        assert not any(earlier() for earlier in seen)
        seen.extend(weakref.ref(each) for each in batch)
        sizes.append(sum(len(each.body) for each in batch))
        return [DONE] * len(batch)

    class Tracked(Delivery):
        __slots__ = ("__weakref__",)

    sizes: list[int] = []
    padding = b" " * 300_000
    queue = [Tracked(event_body(f"r{tag}", tag) + padding, "", tag, properties=STANDARD) for tag in range(1, 9)]
    inbox = ListInbox(queue)
    inbox.held = _Forgetful()
    Runner(SETTINGS, handler, threading.Event(), drain=True, open_inbox=lambda _: inbox).run()
    assert inbox.acknowledged == list(range(1, 9))
    assert len(sizes) == 3
    assert max(sizes) <= 1 << 20


class _Forgetful(dict[Any, Any]):
    """Knows the tags alone, as a broker's client does."""

    def update(self, pairs: Any) -> None:  # type: ignore[override]
        super().update((tag, None) for tag, _ in pairs)


def test_a_batch_is_what_is_there_up_to_half_of_the_prefetch() -> None:
    collector = Collector()
    consume(numbered(25), collector)
    assert collector.batches == [10, 10, 5]
    assert collector.versions == list(range(1, 26))


def test_a_retry_holds_up_the_queue_until_it_succeeds() -> None:
    handled: list[int] = []
    refusals = [Retry("disk full")] * 2

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        if refusals and batch[0].tag == 1:
            return [refusals.pop(), *[DONE] * (len(batch) - 1)]
        handled.extend(each.tag for each in batch)
        return [DONE] * len(batch)

    inbox, moments = consume(numbered(12), handler)
    assert handled == [1, 11, 12]
    assert sorted(inbox.acknowledged) == list(range(1, 13))
    assert moments.waits == ["disk full", "disk full"]


def test_bad_messages_are_acknowledged_only_once_their_letters_are_confirmed(
    letters: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [delivery(tag=2, body=b"no JSON"), delivery(tag=3, content_type="application/x-python-serialize")]
    inbox, moments = consume([*numbered(1), *bad, delivery(version=4, tag=4)], Collector())
    assert letters == moments.dead == ["not JSON", "content type is not an event's"]
    assert inbox.acknowledged == [1, 4, 2, 3]


def test_good_messages_go_on_while_letters_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Sender, _letters: object) -> None:
        raise Lost("no room")

    monkeypatch.setattr(Sender, "send", refuse)
    collector, stop = Collector(), threading.Event()
    inbox = ListInbox([delivery(tag=1, body=b"bad"), *[delivery(version=tag, tag=tag) for tag in range(2, 30)]])

    def stop_when_done() -> None:
        if len(collector.versions) == 28:
            stop.set()

    inbox.on_fetch = stop_when_done
    moments = Moments()
    Runner(SETTINGS, collector, stop, observer=moments, open_inbox=lambda _: inbox).run()
    assert collector.versions == list(range(2, 30))
    assert moments.connections == 1
    assert 1 not in inbox.acknowledged
    assert [each.tag for each in inbox.queue] == [1]


def test_what_the_handler_gives_up_becomes_a_letter(letters: list[str]) -> None:
    inbox, _ = consume(numbered(2), lambda _: [DeadLetter("no such record"), DONE])
    assert letters == ["no such record"]
    assert sorted(inbox.acknowledged) == [1, 2]


def test_a_body_that_was_not_kept_is_left_to_the_broker() -> None:
    huge = Delivery(b"", tag=1, size=64 << 20, standard=True)
    inbox, moments = consume([huge, delivery(version=2, tag=2)], Collector())
    assert inbox.discarded == [1]
    assert moments.dead == ["body too large"]
    assert inbox.acknowledged == [2]


def test_a_poisonous_delivery_ends_as_a_letter_and_its_neighbours_are_done(
    letters: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.base.working.session.FIRST_RETRY", 0.001)
    monkeypatch.setattr("consumers.base.working.session._LONGEST_TRIAL", 0.001)
    done: list[int] = []

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        if any(each.tag == 5 for each in batch):
            raise KeyError("phone")
        done.extend(each.tag for each in batch)
        return [DONE] * len(batch)

    inbox, _ = consume(numbered(15), handler)
    assert letters == ["handler failed: KeyError"]
    assert sorted(done) == [tag for tag in range(1, 16) if tag != 5]
    assert sorted(inbox.acknowledged) == list(range(1, 16))


def test_a_lone_poisonous_delivery_is_convicted_by_those_that_come_after_it(
    letters: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.base.working.session.FIRST_RETRY", 0.001)
    monkeypatch.setattr("consumers.base.working.session._LONGEST_TRIAL", 0.001)
    tries: list[int] = []
    inbox = ListInbox(numbered(1))

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        if any(each.tag == 1 for each in batch):
            tries.append(1)
            if len(tries) == 4:
                inbox.queue.append(delivery("r2", 2, tag=2))
            raise KeyError("phone")
        return [DONE] * len(batch)

    Runner(SETTINGS, handler, threading.Event(), drain=True, open_inbox=lambda _: inbox).run()
    assert letters == ["handler failed: KeyError"]
    assert len(tries) == GUILTY_AFTER
    assert sorted(inbox.acknowledged) == [1, 2]


def test_a_drain_looks_twice_before_it_believes_that_the_queue_is_empty() -> None:
    """What a consumer before us held may be on its way back into the queue."""
    inbox, collector, fetches = ListInbox(numbered(1)), Collector(), iter(range(100))

    def return_late() -> None:
        if next(fetches) == 2:
            inbox.queue.append(delivery(version=2, tag=2))

    inbox.on_fetch = return_late
    Runner(SETTINGS, collector, threading.Event(), drain=True, open_inbox=lambda _: inbox).run()
    assert collector.versions == [1, 2]


def test_told_to_stop_it_settles_the_batch_at_hand_and_takes_no_other() -> None:
    stop, collector = threading.Event(), Collector()

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        stop.set()
        return collector(batch)

    inbox, _ = consume(numbered(30), handler, stop=stop)
    assert inbox.acknowledged == list(range(1, 11))
    assert inbox.closed


def test_told_to_stop_while_it_waits_it_leaves_the_rest_to_the_next() -> None:
    stop = threading.Event()

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        stop.set()
        return [Retry("disk full")] * len(batch)

    inbox, _ = consume(numbered(3), handler, stop=stop)
    assert inbox.acknowledged == []
    assert [each.tag for each in inbox.queue] == [1, 2, 3]


def test_a_lost_connection_is_made_anew_and_everything_unacknowledged_comes_again() -> None:
    first, second = ListInbox(numbered(3)), ListInbox(numbered(3))
    inboxes, collector, moments = [first, second], Collector(), Moments()

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        first.lost = True
        return collector(batch)

    Runner(
        SETTINGS, handler, threading.Event(), drain=True, observer=moments, open_inbox=lambda _: inboxes.pop(0)
    ).run()
    assert collector.versions == [1, 2, 3, 1, 2, 3]
    assert first.acknowledged == []
    assert second.acknowledged == [1, 2, 3]
    assert (moments.connections, moments.losses) == (2, ["broker lost: the test says so"])


def test_a_handler_that_waits_is_waited_for_before_the_broker_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda _self: 0.001)
    monkeypatch.setattr("consumers.base.working.session._TICK", 0.0)  # so that the first wait notices the loss
    inboxes, opened, handled = [ListInbox(numbered(3)), ListInbox(numbered(3))], [], []
    moments = Moments()

    def open_inbox(_settings: ConsumerSettings) -> ListInbox:
        opened.append(len(handled))
        return inboxes[len(opened) - 1]

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        handled.append(len(batch))
        inboxes[0].lost = True
        return [Retry("disk full") if len(handled) < 50 else DONE] * len(batch)

    Runner(SETTINGS, handler, threading.Event(), drain=True, observer=moments, open_inbox=open_inbox).run()
    assert opened[0] == 0
    assert opened[1] == 50
    assert moments.waits == ["disk full"] * 49
    assert inboxes[1].acknowledged == [1, 2, 3]


def test_told_to_stop_it_does_not_wait_for_the_handler_without_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.base.working.session._TICK", 0.0)
    stop, inbox = threading.Event(), ListInbox(numbered(3))
    inboxes, calls = [inbox], []

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        calls.append(len(batch))
        inbox.lost = True
        if len(calls) == 3:
            stop.set()
        return [Retry("disk full")] * len(batch)

    Runner(SETTINGS, handler, stop, open_inbox=lambda _: inboxes.pop()).run()
    assert calls == [3, 3, 3]


def test_who_stands_by_says_so_and_consumes_once_deliveries_come(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "consumers.base")
    inbox, stop, fetches = ListInbox([]), threading.Event(), iter(range(100))
    inbox.standing_by = True
    said: list[list[str]] = []

    def on_fetch() -> None:
        said.append([getattr(record, "event", "") for record in caplog.records])
        match next(fetches):
            case 1:
                inbox.queue.extend(numbered(1))
            case 3:
                stop.set()

    inbox.on_fetch = on_fetch
    Runner(SETTINGS, Collector(), stop, open_inbox=lambda _: inbox).run()
    waiting = "standing by: another consumer has this queue"
    assert said == [[waiting], [waiting], [waiting, "consuming"], [waiting, "consuming"]]


def test_a_drain_waits_for_another_consumer_to_end_and_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue would look empty to it, and nothing of what was in it would be here."""
    monkeypatch.setattr(Backoff, "next", lambda _self: 0.001)
    taken, free, collector, opened = ListInbox(numbered(1)), ListInbox(numbered(1)), Collector(), []
    taken.standing_by = True

    def open_inbox(_settings: ConsumerSettings) -> ListInbox:
        opened.append(1)
        return taken if len(opened) < 3 else free

    Runner(SETTINGS, collector, threading.Event(), drain=True, open_inbox=open_inbox).run()
    assert (len(opened), collector.versions, taken.acknowledged) == (3, [1], [])

    settings = replace(SETTINGS, drain_patience=0.0)
    with pytest.raises(BrokerUnavailable, match=r"^another consumer has the queue q: "):
        Runner(settings, collector, threading.Event(), drain=True, open_inbox=lambda _: taken).run()


def test_reconnecting_pauses_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    stop = threading.Event()

    def refuse(_settings: ConsumerSettings) -> ListInbox:
        raise Lost("connection refused")

    runner = Runner(SETTINGS, Collector(), stop, open_inbox=refuse)
    ask = runner._backoff.next

    def next_pause() -> float:
        pauses.append(ask())
        if len(pauses) == 12:
            stop.set()
        return 0.0

    monkeypatch.setattr(type(runner._backoff), "next", lambda _self: next_pause())
    runner.run()
    assert pauses[0] <= 0.2
    assert pauses == sorted(pauses) or max(pauses) >= 15
    assert max(pauses) <= 30


def test_a_drain_gives_up_on_a_broker_that_stays_away() -> None:
    def refuse(_settings: ConsumerSettings) -> ListInbox:
        raise Lost("connection refused")

    settings = replace(SETTINGS, drain_patience=0.0)
    with pytest.raises(BrokerUnavailable, match="connection refused"):
        Runner(settings, Collector(), threading.Event(), drain=True, open_inbox=refuse).run()


def test_what_can_never_work_ends_it_at_once() -> None:
    def refuse(_settings: ConsumerSettings) -> ListInbox:
        raise ConfigurationError("delete the queue")

    with pytest.raises(ConfigurationError):
        Runner(SETTINGS, Collector(), threading.Event(), open_inbox=refuse).run()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefetch": 0},
        {"prefetch": 70_000},
        {"queue": ""},
        {"bindings": ()},
        {"heartbeat": 1},
        {"kind": ""},
        {"kind": "a@b"},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        replace(SETTINGS, **wrong)


@pytest.mark.parametrize("text", ["2/2", "-1/2", "1", "a/b", "0/0", "1/2000"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="EVENTBUS_SHARD"):
        Shard.parse(text)


def test_all_that_is_wrong_in_the_environment_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that cannot be read, values out of range and values with a form of their own; each of them once."""
    wrong = {"PREFETCH": "0", "HEARTBEAT": "x", "MAX_BODY_BYTES": "1k", "SHARD": "a", "HMAC_KEYS": "k", "BINDINGS": ""}
    for name, value in {**wrong, "TRUSTED_USERS": "crm_writer"}.items():
        monkeypatch.setenv(f"EVENTBUS_{name}", value)
    with pytest.raises(ConfigurationError) as error:
        ConsumerSettings.from_env()
    told = [str(error.value).count(f"EVENTBUS_{name}") for name in (*wrong, "TRUSTED_USERS")]
    assert told == [1] * 7, error.value


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("amqp://guest:s3cret@host//", "amqp://guest:***@host//"),
        ("sqlite:///broker%20of%20crm.sqlite3", "sqlite:///{here}/broker%20of%20crm.sqlite3"),
        ("SQLite:////srv/b.sqlite3", "sqlite:////srv/b.sqlite3"),
        ("memory://", "memory://"),
        ("sqlite:///", "sqlite:///"),
    ],
)
def test_the_broker_is_named_without_password_and_a_file_with_its_directory(
    url: str, broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ConsumerSettings(url=url).broker == broker.format(here=tmp_path)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "URL": "amqp://mirror:s%40cret@broker/crm",
        "BINDINGS": "crm.#, billing.invoice.*",
        "SHARD": "1/3",
        "HMAC_KEYS": "k:" + "s" * 32,
        "TRUSTED_USERS": "crm_writer=crm",
        "MAX_BODY_BYTES": "2048",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"EVENTBUS_{name}", value)
    settings = ConsumerSettings.from_env()
    assert settings.bindings == ("crm.#", "billing.invoice.*")
    assert settings.queue_name == "json-mirror.1"
    assert settings.own_user == "mirror"
    assert settings.limits.body == 2048 + len('"sequence":"00000000000000000001",')
    assert settings.hmac_keys[0].id == "k"
    assert settings.trusted_users == {"crm_writer": frozenset({"crm"})}
    assert "s%40cret" not in repr(settings)


@pytest.mark.parametrize("queue", [None, "json-mirror"])
def test_a_consumer_without_a_queue_of_its_own_ends_with_2(
    queue: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would take what the mirror should have, and nobody would see."""
    monkeypatch.setenv("EVENTBUS_URL", f"sqlite:///{tmp_path / 'broker.sqlite3'}")
    if queue:
        monkeypatch.setenv("EVENTBUS_QUEUE", queue)
    caplog.set_level(logging.ERROR, "consumers.base")
    collector = Collector()
    assert run(ConsumerSettings.from_env, collector, drain=True) == 2
    assert "give your consumer a queue of its own name" in caplog.text
    assert not (tmp_path / "broker.sqlite3").exists()
    monkeypatch.setenv("EVENTBUS_QUEUE", "printer")
    assert run(ConsumerSettings.from_env, collector, drain=True) == 0
