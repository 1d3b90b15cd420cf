"""What brokers and networks do to a consumer: it consumes again within seconds, or ends and says why."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import kombu
import pytest

from consumers.base import DONE, ConsumerSettings, Delivery, Outcome, Retry, run
from consumers.base.broker import amqp_inbox
from consumers.base.broker.amqp_inbox import AmqpInbox
from consumers.base.broker.line import Line
from consumers.base.errors import Lost
from eventbus.errors import ConfigurationError
from tests.conftest import StartRabbitNode
from tests.support.consuming import Collector, Running, event_body, fresh, publish, ready, remove, wait_for
from tests.support.discovery import Unavailable
from tests.support.nodes.rabbitmq import RabbitNode
from tests.support.tcp_proxy import Mode, TcpProxy

pytestmark = pytest.mark.rabbitmq


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask an idle broker every half second instead of every five, so that the tests take seconds."""
    monkeypatch.setattr(amqp_inbox, "PROBE_EVERY", 0.5)


@pytest.fixture
def settings(rabbitmq_url: str, unique: str) -> Iterator[ConsumerSettings]:
    with fresh(rabbitmq_url, unique, patience=2.0) as made:
        yield made


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitNode]:
    """A broker of this module's own: a start takes long. Each test leaves it running as it was."""
    try:
        with RabbitNode() as started:
            yield started
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


def consumes(settings: ConsumerSettings, collector: Collector, version: int) -> None:
    """A message that is published now arrives within seconds; the queue may just be about to be made."""

    def send() -> bool:
        with suppress(Lost):
            publish(settings, [event_body(version=version)])
            return True
        return False

    wait_for(send)
    wait_for(lambda: version in collector.versions)


def test_a_queue_that_was_deleted_is_made_anew(settings: ConsumerSettings) -> None:
    collector = Collector()
    with Running(settings, collector) as consumer:
        consumes(settings, collector, 1)
        with kombu.Connection(settings.url) as connection:
            connection.channel().queue_delete(settings.queue)
        wait_for(lambda: consumer.moments.connections == 2)
        consumes(settings, collector, 2)
    assert "queue was deleted" in consumer.moments.losses[0]


def test_the_embedded_brokers_queue_is_made_anew_too(tmp_path: Path, unique: str) -> None:
    settings = ConsumerSettings(url=f"sqlite:///{tmp_path}/broker.sqlite3", queue=unique)
    collector = Collector()
    with Running(settings, collector) as consumer:
        consumes(settings, collector, 1)
        line = Line(settings)
        line.channel().queue_delete(settings.queue)
        line.close()
        wait_for(lambda: consumer.moments.connections == 2)
        consumes(settings, collector, 2)


def test_an_embedded_broker_whose_file_was_removed_is_made_anew(tmp_path: Path, unique: str) -> None:
    settings = ConsumerSettings(url=f"sqlite:///{tmp_path}/broker.sqlite3", queue=unique)
    collector = Collector()
    with Running(settings, collector) as consumer:
        consumes(settings, collector, 1)
        for path in tmp_path.glob("broker.sqlite3*"):
            if path.is_file():
                path.unlink()
        wait_for(lambda: consumer.moments.connections == 2)
        consumes(settings, collector, 2)


def test_a_queue_that_was_made_anew_by_others_otherwise_ends_it(settings: ConsumerSettings) -> None:
    collector = Collector()
    with Running(settings, collector) as consumer:
        consumes(settings, collector, 1)
        with kombu.Connection(settings.url) as connection:
            channel = connection.channel()
            channel.queue_delete(settings.queue)
            channel.queue_declare(settings.queue, durable=True, auto_delete=False)
        wait_for(lambda: consumer.exit_code == 2)


def test_a_channel_error_is_not_taken_for_idleness(settings: ConsumerSettings) -> None:
    """py-amqp opens the channel again, but not the consumer: `drain_events` would time out for ever."""
    inbox = AmqpInbox(settings)
    try:
        inbox._channel.basic_ack(4711)
        with pytest.raises(Lost, match="unknown delivery tag"):
            inbox.fetch(5.0, 10)
        with pytest.raises(Lost):
            inbox.fetch(0.1, 10)
    finally:
        inbox.drop()


def test_a_consumer_that_the_broker_forgot_is_found_out(settings: ConsumerSettings) -> None:
    """Whatever the driver believes: the broker knows of no consumer, so there is none."""
    inbox = AmqpInbox(settings)
    try:
        known = dict(inbox._channel.callbacks)
        inbox._channel.basic_cancel(inbox._tag)
        inbox._channel.callbacks.update(known)
        time.sleep(amqp_inbox.PROBE_EVERY * 1.1)
        with pytest.raises(Lost, match="no consumer"):
            inbox.tick()
    finally:
        inbox.drop()


@pytest.mark.parametrize("mode", [Mode.BLACK_HOLE, Mode.RESET, Mode.SILENT, Mode.REPLIES_LOST])
def test_a_broken_network_is_noticed_while_idle_and_mended(
    settings: ConsumerSettings, tcp_proxy: Callable[[str], TcpProxy], mode: Mode
) -> None:
    proxy = tcp_proxy(settings.url)
    through = ConsumerSettings(url=proxy.url, exchange=settings.exchange, queue=settings.queue, patience=1.0)
    collector = Collector()
    with Running(through, collector) as consumer:
        consumes(settings, collector, 1)
        proxy.mode = mode
        wait_for(lambda: len(consumer.moments.losses) > 0)
        proxy.mode = Mode.PASS
        consumes(settings, collector, 2)


def test_nothing_is_lost_when_the_connection_breaks_under_load(
    settings: ConsumerSettings, tcp_proxy: Callable[[str], TcpProxy]
) -> None:
    proxy = tcp_proxy(settings.url)
    through = ConsumerSettings(
        url=proxy.url, exchange=settings.exchange, queue=settings.queue, patience=1.0, prefetch=100
    )
    collector = Collector()
    with Running(through, collector) as consumer:
        publish(settings, [event_body(version=version) for version in range(1, 20_001)])
        for connections in range(1, 4):
            wait_for(lambda wanted=connections: consumer.moments.connections >= wanted)  # type: ignore[misc]
            proxy.mode = Mode.RESET
            proxy.mode = Mode.PASS
        wait_for(lambda: len(set(collector.versions)) == 20_000, timeout=60)
    assert ready(settings, f"{settings.queue}.dlq") == 0


def test_connections_closed_by_the_broker_and_its_restart_are_survived(node: RabbitNode, unique: str) -> None:
    settings = ConsumerSettings(url=node.url, queue=unique, patience=2.0)
    collector = Collector()
    with Running(settings, collector) as consumer:
        consumes(settings, collector, 1)
        node.rabbitmqctl("close_all_connections", "test")
        wait_for(lambda: consumer.moments.connections == 2)
        consumes(settings, collector, 2)
        # In order: RabbitMQ 3.10 that is killed soon after a quorum queue was declared may never find its leader again.
        node.restart()
        wait_for(lambda: consumer.moments.connections == 3, timeout=60)
        consumes(settings, collector, 3)


def test_deliveries_held_longer_than_the_broker_allows_come_again_once_they_can_be_taken(
    private_rabbitmq: StartRabbitNode, unique: str
) -> None:
    """RabbitMQ closes the channel (4.3: cancels the consumer) of who holds deliveries for too long, and counts."""
    node = private_rabbitmq(config=["consumer_timeout = 3000"])
    node.rabbitmqctl("eval", "application:set_env(rabbit, channel_tick_interval, 1000).")
    settings = ConsumerSettings(url=node.url, queue=unique, delivery_limit=1)
    collector = Collector()
    refusals_after_the_loss = iter(range(8))  # 0.1 s, 0.2 s, … some 10 s: several times what the broker allows

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        if not consumer.moments.losses or next(refusals_after_the_loss, None) is not None:
            return [Retry("disk full")] * len(batch)
        return collector(batch)

    with Running(settings, handler) as consumer:
        publish(settings, [event_body(version=version) for version in (1, 2)])
        wait_for(lambda: 2 in collector.versions and ready(settings, unique) == 0, timeout=90)
    assert "consumer" in consumer.moments.losses[0].lower()
    assert consumer.moments.connections == 2
    assert ready(settings, f"{unique}.dlq") == 0


def test_a_broker_short_of_memory_takes_no_letters_but_good_messages_go_on(
    node: RabbitNode, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ConsumerSettings(url=node.url, queue=unique, patience=1.0)
    collector = Collector()
    assert run(settings, collector, drain=True) == 0
    for version in range(1, 11):
        publish(settings, [b"bad", event_body(version=version)])
    node.rabbitmqctl("set_vm_memory_high_watermark", "0")
    with Running(settings, collector) as consumer:
        wait_for(lambda: len(collector.versions) == 10)
        assert consumer.moments.dead == []
        wait_for(lambda: caplog.text.count("not sent") >= 3)
        node.rabbitmqctl("set_vm_memory_high_watermark", "0.8")
        wait_for(lambda: len(consumer.moments.dead) == 10, timeout=30)
    wait_for(lambda: ready(settings, f"{unique}.dlq") == 10)  # no try has left a copy


def test_a_user_without_permission_is_told_so(node: RabbitNode, unique: str) -> None:
    node.rabbitmqctl("add_user", unique, "secret")
    node.rabbitmqctl("set_permissions", unique, "", "", "")
    url = node.url.replace("guest:guest", f"{unique}:secret")
    with pytest.raises(ConfigurationError, match="administrator"):
        AmqpInbox(ConsumerSettings(url=url, queue=unique))


def test_a_user_who_may_only_read_finds_what_was_prepared(node: RabbitNode, unique: str) -> None:
    prepared = ConsumerSettings(url=node.url, queue=unique)
    assert run(prepared, Collector(), drain=True) == 0
    node.rabbitmqctl("add_user", unique, "secret")
    node.rabbitmqctl("set_permissions", unique, "", "eventbus.dlx", f"{unique}")
    url = node.url.replace("guest:guest", f"{unique}:secret")
    collector = Collector()
    publish(prepared, [event_body(version=1), b"bad"])
    assert run(ConsumerSettings(url=url, queue=unique), collector, drain=True) == 0
    assert collector.versions == [1]
    assert ready(prepared, f"{unique}.dlq") == 1


@pytest.mark.slow
def test_a_handler_slower_than_the_heartbeats_keeps_its_connection(settings: ConsumerSettings) -> None:
    busy = threading.Event()

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        busy.set()
        time.sleep(18)
        return [DONE] * len(batch)

    slow = ConsumerSettings(url=settings.url, exchange=settings.exchange, queue=settings.queue, heartbeat=5)
    with Running(slow, handler) as consumer:
        publish(settings, [event_body()])
        wait_for(lambda: consumer.moments.settled == 1, timeout=40)
        assert consumer.moments.losses == []
    assert ready(settings, settings.queue) == 0


@pytest.mark.parametrize("browse", [None, "dead letters"])
def test_a_network_that_falls_silent_while_a_connection_is_opened_is_noticed(
    settings: ConsumerSettings,
    tcp_proxy: Callable[[str], TcpProxy],
    monkeypatch: pytest.MonkeyPatch,
    browse: str | None,
) -> None:
    """At each question in turn. py-amqp has no limit of its own there: a hang ends this test by its time."""
    proxy = tcp_proxy(settings.url)
    through = replace(settings, url=proxy.url, patience=0.3)
    assert run(settings, Collector(), drain=True) == 0
    real, silent_at = Line.channel, iter(range(1, 100))
    asked = 0

    def channel(line: Line) -> Any:
        nonlocal asked
        asked += 1
        if asked == turn:
            proxy.mode = Mode.SILENT
        return real(line)

    monkeypatch.setattr(Line, "channel", channel)
    for turn in silent_at:
        asked, proxy.mode = 0, Mode.PASS
        try:
            AmqpInbox(through, browse=settings.queue if browse else None).drop()
        except Lost:
            assert asked >= turn
            continue
        assert asked < turn
        break
    monkeypatch.undo()
    assert turn > 2


@pytest.mark.parametrize("broker", ["rabbitmq", "sqlite"])
@pytest.mark.parametrize("gone", ["exchange", "binding"])
def test_an_exchange_or_binding_that_somebody_deleted_is_made_again(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
    broker: str,
    gone: str,
) -> None:
    monkeypatch.setattr("consumers.base.broker.amqp_inbox.LOOK_EVERY", 0.5)
    monkeypatch.setattr("consumers.base.broker.virtual_inbox._LOOK_EVERY", 0.5)
    url = request.getfixturevalue("rabbitmq_url") if broker == "rabbitmq" else f"sqlite:///{tmp_path / 'b.sqlite3'}"
    made = ConsumerSettings(url=url, exchange=f"{unique}-events", queue=unique)
    collector = Collector()
    with Running(made, collector):
        publish(made, [event_body(version=1)])
        line = Line(made)
        if gone == "exchange":
            line.channel().exchange_delete(made.exchange)
        else:
            line.channel().queue_unbind(unique, made.exchange, "#")
        line.drop()
        wait_for(lambda: routed(made))
        wait_for(lambda: collector.versions == [1, 2])
    remove(made)


def routed(settings: ConsumerSettings) -> bool:
    """Whether an event finds a queue by now."""
    try:
        publish(settings, [event_body(version=2)])
    except Lost:
        return False
    return True
