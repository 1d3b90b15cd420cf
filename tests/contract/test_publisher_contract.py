"""What every publisher promises, over memory, the embedded broker, kombu's memory transport and RabbitMQ."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kombu
import pytest

from eventbus import transports
from eventbus.events.envelope import CONTENT_TYPE, Message
from eventbus.publishers import MemoryPublisher, Outcome, Publisher, publisher_for
from eventbus.settings import Settings
from tests.support.messages import messages

CONFIRMED, UNROUTABLE = Outcome.CONFIRMED, Outcome.UNROUTABLE


class Received(NamedTuple):
    """A message as a consumer finds it in the queue."""

    routing_key: str
    body: bytes
    properties: dict[str, Any]


class Setup(ABC):
    """A publisher, and a queue that takes `crm.#` and nothing else."""

    publisher: Publisher

    @abstractmethod
    def received(self) -> list[Received]:
        """Take all messages out of the queue, in its order."""


class Memory(Setup):
    def __init__(self) -> None:
        self.publisher = self._publisher = MemoryPublisher()
        self._publisher.answer = lambda message: CONFIRMED if message.routing_key.startswith("crm.") else UNROUTABLE

    def received(self) -> list[Received]:
        taken = [Received(message.routing_key, message.body, {}) for message in self._publisher.messages]
        self._publisher.clear()
        return taken


class OverKombu(Setup):
    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._connection: kombu.Connection = transports.connection(url)
        self._channel = self._connection.channel()
        self._channel.auto_decode = False  # py-amqp would turn UTF-8 into text
        self._channel.exchange_declare(exchange=name, type="topic", durable=True, auto_delete=False)
        self._channel.queue_declare(queue=name, durable=True, auto_delete=False)
        self._channel.queue_bind(queue=name, exchange=name, routing_key="crm.#")
        self.publisher = publisher_for(Settings(url=url, service="crm", exchange=name, queue=name))

    def received(self) -> list[Received]:
        taken = []
        while (got := self._channel.basic_get(self._name, no_ack=True)) is not None:
            message = self._channel.message_to_python(got)
            properties = {
                **message.properties,
                "content_type": message.content_type,
                "content_encoding": message.content_encoding,
            }
            taken.append(Received(message.delivery_info["routing_key"], bytes(message.body), properties))
        return taken

    def close(self) -> None:
        self.publisher.close()
        self._channel.queue_delete(self._name)
        self._channel.exchange_delete(self._name)
        self._connection.release()


@pytest.fixture(params=["memory", "sqlite", "kombu-memory", "rabbitmq"])
def setup(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Iterator[Setup]:
    if request.param == "memory":
        yield Memory()
        return
    urls = {
        "sqlite": lambda: f"sqlite:///{tmp_path}/broker.sqlite3",
        "kombu-memory": lambda: "memory://",
        "rabbitmq": lambda: request.getfixturevalue("rabbitmq_url"),
    }
    over = OverKombu(urls[request.param](), unique)
    yield over
    over.close()


def test_what_a_queue_takes_is_confirmed_and_arrives_in_order(setup: Setup) -> None:
    sent = messages(50)
    assert setup.publisher.publish(sent) == [CONFIRMED] * 50
    assert [(one.routing_key, one.body) for one in setup.received()] == [(one.routing_key, one.body) for one in sent]


def test_calls_follow_one_another_in_order(setup: Setup) -> None:
    sent = messages(30)
    for start in range(0, 30, 7):
        setup.publisher.publish(sent[start : start + 7])
    assert [one.body for one in setup.received()] == [one.body for one in sent]


def test_what_no_queue_takes_is_unroutable_and_nowhere(setup: Setup) -> None:
    assert setup.publisher.publish(messages(3, key="shop.order.created")) == [UNROUTABLE] * 3
    assert setup.received() == []


def test_each_outcome_stands_at_the_place_of_its_message(setup: Setup) -> None:
    fates = [CONFIRMED if number % 3 else UNROUTABLE for number in range(40)]
    keys = {CONFIRMED: "crm.contact.updated", UNROUTABLE: "shop.order.created"}
    sent = [one._replace(routing_key=keys[fate]) for one, fate in zip(messages(40), fates, strict=True)]
    assert setup.publisher.publish(sent) == fates
    arrived = [one.body for one, fate in zip(sent, fates, strict=True) if fate is CONFIRMED]
    assert [one.body for one in setup.received()] == arrived


def test_a_message_sent_again_is_there_again_under_the_same_id(setup: Setup) -> None:
    setup.publisher.publish(messages(1))
    setup.publisher.publish(messages(1))
    assert [one.body for one in setup.received()] == [messages(1)[0].body] * 2


def test_nothing_to_send_is_no_outcome(setup: Setup) -> None:
    assert setup.publisher.publish([]) == []


@pytest.mark.parametrize("size", [0, 131_064, 300_000])
def test_bodies_of_any_size_arrive_whole(setup: Setup, size: int) -> None:
    sent = messages(2, size=size)
    assert setup.publisher.publish(sent) == [CONFIRMED] * 2
    assert [one.body for one in setup.received()] == [one.body for one in sent]


@pytest.mark.parametrize("setup", ["sqlite", "kombu-memory", "rabbitmq"], indirect=True)  # where there are properties
def test_properties_repeat_the_event(setup: Setup) -> None:
    body = b'{"partitionkey":"contact/\\u00e9"}'
    setup.publisher.publish([Message("crm.contact.updated", "tx-0", body, "tx")])
    properties = setup.received()[0].properties
    wanted = {
        "content_type": CONTENT_TYPE,
        "content_encoding": "utf-8",
        "delivery_mode": 2,
        "message_id": "tx-0",
        "correlation_id": "tx",
        "type": "crm.contact.updated",
        "app_id": "crm",
    }
    assert {name: properties.get(name) for name in wanted} == wanted
    assert properties["timestamp"] > 1_700_000_000


def test_after_close_the_next_call_connects_again(setup: Setup) -> None:
    setup.publisher.publish(messages(1))
    setup.publisher.close()
    setup.publisher.close()
    assert setup.publisher.publish(messages(1)) == [CONFIRMED]
    assert len(setup.received()) == 2


def test_a_tick_between_calls_changes_nothing(setup: Setup) -> None:
    setup.publisher.tick()
    setup.publisher.publish(messages(1))
    setup.publisher.tick()
    assert setup.publisher.publish(messages(1)) == [CONFIRMED]


@pytest.mark.parametrize("setup", ["sqlite", "rabbitmq"], indirect=True)  # memory is of one process
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_abandons_and_both_go_on(setup: Setup) -> None:
    setup.publisher.publish(messages(1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            setup.publisher.abandon()
            code = 0 if setup.publisher.publish(messages(2)) == [CONFIRMED] * 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert setup.publisher.publish(messages(3)) == [CONFIRMED] * 3
    assert len(setup.received()) == 6
