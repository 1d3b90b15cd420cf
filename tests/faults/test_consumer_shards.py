"""Two mirrors share the records of one queue's name: each record always goes to the same one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from consumers import replay
from consumers.base import ConsumerSettings, Shard, run
from consumers.base.broker.topology import PARTITION_HEADER
from consumers.json_mirror.disk import documents
from eventbus.events.envelope import Message
from eventbus.publishers import AmqpPublisher, Outcome
from tests.conftest import StartRabbitNode
from tests.support.consuming import Collector, event_body, publish, ready
from tests.support.discovery import Unavailable
from tests.support.nodes.rabbitmq import RabbitNode

pytestmark = pytest.mark.rabbitmq

RECORDS, VERSIONS = 200, 5
SHARDS = [Shard(0, 2), Shard(1, 2)]


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitNode]:
    """A broker with the plugin, of this module's own."""
    try:
        with RabbitNode(plugins=["rabbitmq_consistent_hash_exchange"]) as started:
            yield started
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


def publish_all(settings: ConsumerSettings, version: int) -> None:
    publisher = AmqpPublisher(settings.url, exchange=settings.exchange, service="crm")
    messages = [
        Message("crm.contact.updated", f"t-{record}", event_body(f"r{record}", version * 1000 + record), "t")
        for record in range(RECORDS)
    ]
    assert publisher.publish(messages) == [Outcome.CONFIRMED] * RECORDS
    publisher.close()


def test_each_record_has_its_shard_and_every_shard_has_its_share(node: RabbitNode, unique: str) -> None:
    whole = ConsumerSettings(url=node.url, queue=unique)
    first, second = (replace(whole, shard=shard) for shard in SHARDS)
    assert run(first, Collector(), drain=True) == 0  # one is enough to make the queues of both
    for version in range(1, VERSIONS + 1):
        publish_all(whole, version)
    got = [Collector(), Collector()]
    for settings, collector in zip((first, second), got, strict=True):
        assert run(settings, collector, drain=True) == 0
    records = [{version % 1000 for version in collector.versions} for collector in got]
    assert records[0] | records[1] == set(range(RECORDS))
    assert not records[0] & records[1]
    assert all(len(some) > RECORDS // 5 for some in records)
    for collector in got:
        for record in records[0]:
            mine = [version for version in collector.versions if version % 1000 == record]
            assert mine == sorted(mine)
    publish(whole, [b"bad"], application_headers={PARTITION_HEADER: "x"})
    assert run(first, Collector(), drain=True) == run(second, Collector(), drain=True) == 0
    assert ready(whole, f"{unique}.dlq") == 1


def test_another_number_of_shards_is_filled_from_the_files(node: RabbitNode, tmp_path: Path, unique: str) -> None:
    """Three where there were two, as docs/consumers.md says: every record in one of the three, with its version."""
    for number in range(RECORDS):
        path = tmp_path / str(number % 2) / "crm" / "contact" / f"r{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(documents.encode("crm.contact", f"r{number}", 1000 + number, {"id": f"r{number}"}))
    whole = ConsumerSettings(url=node.url, queue=unique)
    new = [replace(whole, shard=Shard(index, 3)) for index in range(3)]
    assert run(new[0], Collector(), drain=True) == 0
    arguments = ["--url", node.url, "--queue", unique, "--shards", "3", str(tmp_path / "0"), str(tmp_path / "1")]
    assert replay.main(arguments) == 0
    got = [Collector() for _ in new]
    for settings, collector in zip(new, got, strict=True):
        assert run(settings, collector, drain=True) == 0
        assert collector.versions
    assert sorted(version for collector in got for version in collector.versions) == list(range(1000, 1000 + RECORDS))


def test_a_broker_without_the_plugin_ends_it_and_says_which(
    private_rabbitmq: StartRabbitNode, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    node = private_rabbitmq()
    assert run(ConsumerSettings(url=node.url, queue=unique, shard=SHARDS[0]), Collector()) == 2
    assert "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange" in caplog.text


def test_the_embedded_broker_has_no_shards(tmp_path_factory: pytest.TempPathFactory, unique: str) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('broker')}/b.sqlite3"
    assert run(ConsumerSettings(url=url, queue=unique, shard=SHARDS[0]), Collector()) == 2
