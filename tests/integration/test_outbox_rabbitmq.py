"""Outbox, dispatcher and a real RabbitMQ: what no queue takes, a deleted exchange and a full queue end in delivery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest

from eventbus.delivery.dispatcher import Dispatcher
from eventbus.delivery.tempo import Tempo
from eventbus.events.envelope import decode
from eventbus.publishers import AmqpPublisher
from tests.support.committing import Committer, committing, eventually

QUICK = Tempo(delete=0.02, grace=5, parked=0.3, sweep=1)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Committer]:
    with committing(f"sqlite:///{tmp_path / 'app.sqlite3'}") as committer:
        yield committer


@pytest.fixture
def dispatcher(rabbitmq_url: str, unique: str, rabbitmq_remove: Any) -> Iterator[Dispatcher]:
    rabbitmq_remove(queues=[unique], exchanges=[unique])
    dispatcher = Dispatcher(
        lambda: AmqpPublisher(rabbitmq_url, exchange=unique, service="crm"), tempo=QUICK, tries=2, backoff_limit=0.3
    )
    yield dispatcher
    dispatcher.close(timeout=5)


def declare(url: str, name: str, **arguments: object) -> None:
    with kombu.Connection(url) as connection:
        exchange = kombu.Exchange(name, type="topic", durable=True)
        queue = kombu.Queue(name, exchange, routing_key="#", durable=True, queue_arguments=arguments)
        queue(connection.default_channel).declare()


def take(url: str, name: str) -> list[int]:
    """Versions of all that lies in the queue."""
    versions = []
    with kombu.Connection(url) as connection:
        queue = kombu.Queue(name, channel=connection.default_channel, no_declare=True)
        while (message := queue.get(accept=None)) is not None:
            body = message.body
            versions.append(decode(body if isinstance(body, bytes) else bytes(body, "utf-8")).version)
            message.ack()
    return versions


def test_what_no_queue_takes_waits_parked_until_one_does(
    app: Committer, dispatcher: Dispatcher, rabbitmq_url: str, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    versions = []
    for _ in range(5):
        entries = app.commit()
        versions.append(entries[0].batch.version)
        dispatcher.submit(entries)
    eventually(lambda: (app.rows(), app.parked()) == (0, 5), timeout=20)
    assert "events are parked in the outbox: unroutable: " in caplog.text
    declare(rabbitmq_url, unique)
    eventually(lambda: app.parked() == 0, timeout=20)
    assert sorted(take(rabbitmq_url, unique)) == versions


def test_a_deleted_exchange_ends_in_delivery(
    app: Committer, dispatcher: Dispatcher, rabbitmq_url: str, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    declare(rabbitmq_url, unique)
    dispatcher.submit(app.commit())
    dispatcher.flush(20)
    with kombu.Connection(rabbitmq_url) as connection:
        connection.default_channel.exchange_delete(unique)
    late = app.commit()
    dispatcher.submit(late)
    eventually(lambda: dispatcher.stats().last_error is not None, timeout=20)
    assert f"no exchange '{unique}'" in caplog.text
    declare(rabbitmq_url, unique)
    eventually(lambda: (app.rows(), app.parked()) == (0, 0), timeout=20)
    assert late[0].batch.version in take(rabbitmq_url, unique)


def test_a_full_queue_refuses_and_ends_in_delivery(
    app: Committer, dispatcher: Dispatcher, rabbitmq_url: str, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    declare(rabbitmq_url, unique, **{"x-max-length": 3, "x-overflow": "reject-publish"})
    versions = []
    for _ in range(8):
        entries = app.commit()
        versions.append(entries[0].batch.version)
        dispatcher.submit(entries)
    eventually(lambda: app.rows() == 0 and app.parked() > 0, timeout=20)
    assert "routing key crm.contact.updated are refused; is a queue full?" in caplog.text
    found: set[int] = set()

    def all_came() -> bool:
        found.update(take(rabbitmq_url, unique))
        return found == set(versions) and app.parked() == 0

    eventually(all_came, timeout=30)
