"""A consumer on real brokers: order, batches, back-pressure, ends, and what it refuses to start with."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import kombu
import pytest

from consumers.base import DONE, ConsumerSettings, Delivery, Outcome, Retry, run
from consumers.base.broker.amqp_inbox import AmqpInbox
from consumers.base.broker.dead_letter_queue import DeadLetterQueue, Entry
from consumers.base.broker.line import is_amqp
from consumers.base.broker.virtual_inbox import VirtualInbox
from eventbus import transports
from eventbus.events import signing
from eventbus.events.envelope import Message
from eventbus.publishers import AmqpPublisher
from eventbus.transports.mirror_queue import queue_arguments
from tests.support.consuming import Collector, Running, event_body, fresh, publish, ready, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["rabbitmq", "sqlite", "memory"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL of each kind."""
    if request.param == "rabbitmq":
        return str(request.getfixturevalue("rabbitmq_url"))
    return f"sqlite:///{tmp_path}/broker.sqlite3" if request.param == "sqlite" else "memory://"


def test_messages_are_handled_in_order_and_acknowledged(broker: str, unique: str) -> None:
    with fresh(broker, unique) as settings:
        collector = Collector()
        with Running(settings, collector):
            publish(settings, [event_body(version=version) for version in range(1, 3001)])
            wait_for(lambda: len(collector.versions) == 3000)
        assert collector.versions == list(range(1, 3001))
        assert ready(settings, settings.queue) == 0


def test_a_drain_ends_once_everything_is_settled(broker: str, unique: str) -> None:
    with fresh(broker, unique) as settings:
        assert run(settings, Collector(), drain=True) == 0
        publish(settings, [event_body(version=version) for version in range(1, 1501)])
        publish(settings, [b"bad"])
        collector = Collector()
        assert run(settings, collector, drain=True) == 0
        assert len(collector.versions) == 1500
        assert ready(settings, settings.queue) == 0
        assert ready(settings, f"{settings.queue}.dlq") == 1


def test_while_the_handler_wants_to_wait_nothing_is_acknowledged_nor_lost(broker: str, unique: str) -> None:
    refusals = [Retry("disk full")] * 3
    collector = Collector()

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        return [refusals.pop()] * len(batch) if refusals else collector(batch)

    with fresh(broker, unique) as settings, Running(settings, handler) as consumer:
        publish(settings, [event_body(version=version) for version in range(1, 101)])
        wait_for(lambda: len(collector.versions) == 100)
        assert collector.versions == list(range(1, 101))
        assert consumer.moments.waits[0] == "disk full"


def test_what_a_stopped_consumer_held_comes_to_the_next(broker: str, unique: str) -> None:
    """In the order of the queue or not (a quorum queue changes it): all of it, and nothing as a dead letter."""
    stop = threading.Event()

    def hold(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        stop.set()
        return [Retry("not now")] * len(batch)

    with fresh(broker, unique, prefetch=50) as settings:
        assert run(settings, Collector(), drain=True) == 0
        publish(settings, [event_body(version=version) for version in range(1, 201)])
        assert run(settings, hold, stop=stop) == 0
        collector = Collector()
        assert run(settings, collector, drain=True) == 0
        assert sorted(collector.versions) == list(range(1, 201))
        assert ready(settings, f"{settings.queue}.dlq") == 0


def test_a_single_message_is_handled_at_once(rabbitmq_url: str, unique: str) -> None:
    """No waiting for a batch to fill: most of 20 messages are there within 20 ms each, confirm included."""
    arrived = threading.Semaphore(0)

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        for _ in batch:
            arrived.release()
        return [DONE] * len(batch)

    with fresh(rabbitmq_url, unique) as settings, Running(settings, handler):
        quick = 0
        publish(settings, [event_body()])
        assert arrived.acquire(timeout=10)
        for version in range(20):
            publish(settings, [event_body(version=version)])
            quick += arrived.acquire(timeout=0.02)
        assert quick >= 15


@pytest.mark.parametrize("broker", ["rabbitmq", "sqlite"], indirect=True)
def test_sigterm_ends_it_with_everything_settled(broker: str, unique: str) -> None:
    with fresh(broker, unique) as settings:
        assert run(settings, Collector(), drain=True) == 0
        publish(settings, [event_body(version=version) for version in range(1, 501)])
        with _example(settings) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
            assert process.wait(timeout=20) == 0
        collector = Collector()
        run(settings, collector, drain=True)
        assert rest.count("\n") + 1 + len(collector.versions) == 500


def _example(settings: ConsumerSettings, **more: str) -> subprocess.Popen[str]:
    """examples/consumer_print.py, with a prefetch that lets it be ended half-way."""
    environment = {
        **os.environ,
        "EVENTBUS_URL": settings.url,
        "EVENTBUS_QUEUE": settings.queue,
        "EVENTBUS_EXCHANGE": settings.exchange,
        "EVENTBUS_PREFETCH": "20",
        "PYTHONPATH": str(ROOT),
        **more,
    }
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "consumer_print.py")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_wrong_setting_ends_it_with_one_line_that_names_it() -> None:
    with _example(ConsumerSettings(), EVENTBUS_PREFETCH="0") as process:
        assert process.stderr is not None
        assert process.stderr.read().splitlines() == [
            "ERROR:consumers.base.working.runner:cannot consume: EVENTBUS_PREFETCH is 0: use 1 to 65535"
        ]
        assert process.wait(timeout=20) == 2


def test_a_queue_with_other_arguments_ends_it_and_says_what_to_do(
    rabbitmq_url: str, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    with fresh(rabbitmq_url, unique) as settings:
        with kombu.Connection(rabbitmq_url) as connection:
            connection.channel().queue_declare(queue=unique, durable=True, auto_delete=False)
        assert run(settings, Collector()) == 2
        assert "delete_queue" in caplog.text


def test_the_embedded_broker_compares_arguments_too(tmp_path: Path, unique: str) -> None:
    settings = ConsumerSettings(url=f"sqlite:///{tmp_path}/b.sqlite3", queue=unique)
    assert run(settings, Collector(), drain=True) == 0
    assert run(replace(settings, delivery_limit=7), Collector(), drain=True) == 2


@pytest.mark.parametrize("broker", ["rabbitmq", "sqlite"], indirect=True)
@pytest.mark.parametrize(("first", "second"), [("json-mirror", "consumer"), ("consumer", "json-mirror"), ("a", "b")])
def test_a_queue_of_another_kind_of_consumer_is_refused(
    broker: str, unique: str, first: str, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One would eat what the other should have, whatever the queue is called."""
    with fresh(broker, unique, kind=first) as settings:
        assert run(settings, Collector(), drain=True) == 0
        publish(settings, [event_body()])
        collector = Collector()
        assert run(replace(settings, kind=second), collector, drain=True) == 2
        assert f"queue {unique} is of a consumer of kind {first}, and this one is of kind {second}" in caplog.text
        assert "EVENTBUS_QUEUE" in caplog.text
        assert run(settings, collector, drain=True) == 0
        assert collector.versions == [1]


@pytest.mark.parametrize("broker", ["rabbitmq", "sqlite"], indirect=True)
@pytest.mark.parametrize("kind", ["json-mirror", "consumer"])
def test_a_queue_that_tells_no_kind_is_taken(broker: str, unique: str, kind: str) -> None:
    """An older version made it, or somebody by hand."""
    with fresh(broker, unique, kind=kind) as settings:
        with transports.connection(broker) as connection:
            connection.channel().queue_declare(
                queue=unique, durable=True, auto_delete=False, exclusive=False, arguments=queue_arguments(unique)
            )
        assert run(settings, Collector(), drain=True) == 0
        assert run(replace(settings, delivery_limit=7), Collector(), drain=True) == 2


@pytest.mark.parametrize("broker", ["rabbitmq", "sqlite"], indirect=True)
def test_what_the_broker_gives_up_is_kept_whatever_the_kind(broker: str, unique: str) -> None:
    with fresh(broker, unique, kind="search-index") as settings:
        assert run(settings, Collector(), drain=True) == 0
        publish(settings, [event_body()])
        inbox = (AmqpInbox if is_amqp(broker) else VirtualInbox)(settings)
        wait_for(lambda: any(map(inbox.discard, inbox.fetch(1.0, 1))) or ready(settings, f"{unique}.dlq") == 1)
        inbox.close()


def test_a_wrong_password_ends_it_and_does_not_show(
    rabbitmq_url: str, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = rabbitmq_url.rpartition("@")[2]
    settings = ConsumerSettings(url=f"amqp://guest:hunter2@{address}", queue=unique)
    assert run(settings, Collector()) == 2
    assert "EVENTBUS_URL" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_wrong_virtual_host_ends_it(rabbitmq_url: str, unique: str, caplog: pytest.LogCaptureFixture) -> None:
    address = rabbitmq_url.removesuffix("//")
    assert run(ConsumerSettings(url=f"{address}/no-such-{unique}", queue=unique), Collector()) == 2
    assert "virtual host" in caplog.text


def test_a_broker_that_was_never_there_is_not_lost_and_is_named(unique: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = ConsumerSettings(url="amqp://guest:hunter2@127.0.0.1:1//", queue=unique, drain_patience=0.0)
    assert run(settings, Collector(), drain=True) == 1
    assert "gave up: the broker cannot be reached: amqp://guest:***@127.0.0.1:1//: ConnectionRefused" in caplog.text
    assert "broker lost" not in caplog.text


def test_nobody_listening_ends_a_drain_only(unique: str) -> None:
    settings = ConsumerSettings(url="amqp://guest:guest@127.0.0.1:1//", queue=unique, drain_patience=0.5)
    assert run(settings, Collector(), drain=True) == 1


def test_what_our_publisher_sends_needs_no_second_look_and_proves_its_sender(rabbitmq_url: str, unique: str) -> None:
    keys = signing.parse_keys("k:" + "s" * 32)
    trust = {"hmac_keys": keys, "trusted_users": {"guest": frozenset({"crm"})}}
    standard: list[bool] = []

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        standard.extend(each.standard for each in batch)
        return [DONE] * len(batch)

    with fresh(rabbitmq_url, unique, **trust) as settings:
        assert run(settings, handler, drain=True) == 0
        publisher = AmqpPublisher(rabbitmq_url, exchange=settings.exchange, service="crm", send_user=True, key=keys[0])
        publisher.publish([Message("crm.contact.updated", f"t-{n}", event_body(version=n), "t") for n in range(1, 11)])
        publisher.close()
        assert run(settings, handler, drain=True) == 0
        assert standard == [True] * 10


def _events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "event", record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize("broker", ["rabbitmq", "sqlite"], indirect=True)
def test_two_consumers_of_a_queue_one_works_and_the_other_stands_by_and_takes_over(
    broker: str, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "consumers.base")
    standing_by = "standing by: another consumer has this queue"
    with fresh(broker, unique) as settings:
        first, second = Collector(), Collector()
        with Running(settings, first) as active, Running(settings, second):
            publish(settings, [event_body(version=version) for version in range(1, 101)])
            wait_for(lambda: len(first.versions) == 100 and standing_by in caplog.text)
            assert second.versions == []
            assert _events(caplog) == ["consuming", standing_by]
            active.stop()
            publish(settings, [event_body(version=version) for version in range(101, 201)])
            wait_for(lambda: len(second.versions) == 100)
            assert _events(caplog) == ["consuming", standing_by, "consuming"]


@pytest.mark.parametrize("broker", ["rabbitmq", "sqlite"], indirect=True)
def test_a_drain_beside_another_consumer_has_not_drained(
    broker: str, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    with fresh(broker, unique) as settings:
        with Running(settings, Collector()):
            assert run(replace(settings, drain_patience=0.0), Collector(), drain=True) == 1
            assert f"gave up: another consumer has the queue {unique}: " in caplog.text
        publish(settings, [event_body(version=1)])
        collector = Collector()
        assert run(settings, collector, drain=True) == 0
        assert collector.versions == [1]


def test_bindings_choose_what_arrives(rabbitmq_url: str, unique: str) -> None:
    with fresh(rabbitmq_url, unique, bindings=("crm.contact.*", "#.deleted")) as settings:
        assert run(settings, Collector(), drain=True) == 0
        publish(settings, [event_body(version=1), event_body(version=2, entity="order", op="d")])
        publish(settings, [event_body(version=3, entity="invoice", op="d")])
        collector = Collector()
        assert run(settings, collector, drain=True) == 0
        assert collector.versions == [1, 2, 3]


def test_only_the_signed_and_the_entitled_get_through(rabbitmq_url: str, unique: str) -> None:
    keys = signing.parse_keys("k:" + "s" * 32)
    trusted = {"guest": frozenset({"crm"})}
    with fresh(rabbitmq_url, unique, hmac_keys=keys, trusted_users=trusted) as settings:
        assert run(settings, Collector(), drain=True) == 0
        good, foreign, forged = event_body(version=1), event_body(version=2, service="billing"), event_body(version=3)
        publish(settings, [good], user_id="guest", application_headers=signing.sign(good, keys[0]))
        publish(settings, [foreign], user_id="guest", application_headers=signing.sign(foreign, keys[0]))
        publish(settings, [forged], user_id="guest", application_headers=signing.sign(good, keys[0]))
        publish(settings, [good], application_headers=signing.sign(good, keys[0]))
        publish(settings, [good], user_id="guest")
        collector = Collector()
        assert run(settings, collector, drain=True) == 0
        assert collector.versions == [1]
        assert sorted(entry.reason for entry in DeadLetterQueue(settings).read(lambda _: True)) == [
            "sender may not speak for the source",
            "sender unknown",
            "signature missing",
            "signature wrong",
        ]

        def is_foreign(entry: Entry) -> bool:
            return entry.reason == "sender may not speak for the source"

        assert DeadLetterQueue(settings).retry(is_foreign) == (0, 0, 1)
        assert DeadLetterQueue(settings).retry(is_foreign, distrusted=True) == (1, 0, 0)
        granted = replace(settings, trusted_users={"guest": frozenset({"crm", "billing"})})
        assert run(granted, collector, drain=True) == 0
        assert collector.versions == [1, 2]
