"""A RabbitMQ node in trouble, or set up against us: alarms, limits, restarts, logins, certificates."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest

from eventbus import transports
from eventbus.errors import BrokerUnavailable, ExchangeRefused
from eventbus.events.envelope import Message
from eventbus.publishers import AmqpPublisher, Outcome
from eventbus.publishers.link import Timeouts
from tests.support.discovery import Unavailable
from tests.support.messages import messages
from tests.support.nodes.base import free_port, wait_until
from tests.support.nodes.rabbitmq import RabbitNode

pytestmark = pytest.mark.rabbitmq

CONFIRMED, UNROUTABLE, REFUSED = Outcome.CONFIRMED, Outcome.UNROUTABLE, Outcome.REFUSED
SHORT = Timeouts(connect=2, write=2, confirm=1, close=0.5)
MAX_MESSAGE = 100_000


class TlsNode(RabbitNode):
    """A node that also listens with TLS, under a certificate of its own authority made out to `localhost`."""

    def __init__(self) -> None:
        self.tls_port = free_port()
        config: list[str] = [f"max_message_size = {MAX_MESSAGE}"]
        super().__init__(config)
        config += [
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
            f"ssl_options.cacertfile = {self.authority}",
            f"ssl_options.certfile = {self.directory}/server.pem",
            f"ssl_options.keyfile = {self.directory}/server.key",
            "ssl_options.verify = verify_none",
        ]

    @property
    def authority(self) -> Path:
        """The certificate of the authority that signed the node's."""
        return self.directory / "ca.pem"

    def tls_url(self, host: str = "localhost", **parameters: object) -> str:
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"amqps://guest:guest@{host}:{self.tls_port}//" + (f"?{query}" if query else "")

    def prepare(self) -> None:
        super().prepare()
        make_certificates(self.directory)


def make_certificates(directory: Path) -> None:
    """`ca.pem`; `server.pem` and `server.key`, made out to localhost; `other-ca.pem`, which signed nothing."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise Unavailable("openssl is not installed")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True)

    for name in ("ca", "other-ca"):
        new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}")
        run(*new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-addext", "keyUsage=keyCertSign")
    run("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    (directory / "san.txt").write_text("subjectAltName=DNS:localhost\n")
    sign = ("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    run(*sign, "-extfile", "san.txt", "-out", "server.pem")
    for path in directory.iterdir():
        if path.suffix in (".pem", ".key"):
            path.chmod(0o644)


@pytest.fixture(scope="module")
def node() -> Iterator[TlsNode]:
    try:
        with TlsNode() as started:
            yield started
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


@pytest.fixture
def channel(node: TlsNode) -> Iterator[Any]:
    """A channel for the test's own declarations and looks, with the exchange of `unique`."""
    connection: kombu.Connection = transports.connection(node.url)
    yield connection.channel()
    connection.release()


def topology(channel: Any, name: str, **arguments: object) -> None:
    channel.exchange_declare(exchange=name, type="topic", durable=True, auto_delete=False)
    channel.queue_declare(queue=name, durable=True, auto_delete=False, arguments=arguments)
    channel.queue_bind(queue=name, exchange=name, routing_key="#")


def received(channel: Any, name: str) -> list[str]:
    taken = []
    while (got := channel.basic_get(name, no_ack=True)) is not None:
        taken.append(got.properties["message_id"])
    return taken


def publisher_to(url: str, exchange: str, **options: Any) -> AmqpPublisher:
    return AmqpPublisher(url, exchange=exchange, service="crm", **{"timeouts": SHORT, **options})


def delivers(publisher: AmqpPublisher, sent: list[Message]) -> bool:
    """One try, as a dispatcher makes it."""
    try:
        return publisher.publish(sent) == [CONFIRMED] * len(sent)
    except BrokerUnavailable:
        return False


# -- queues and exchanges ---------------------------------------


def test_a_message_without_a_queue_is_told_once_and_delivered_after_repair(
    node: TlsNode, channel: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = publisher_to(node.url, unique)
    assert publisher.publish(messages(2)) == [UNROUTABLE] * 2
    assert publisher.publish(messages(2)) == [UNROUTABLE] * 2
    told = [each for each in caplog.records if each.levelno >= logging.WARNING]
    told_once = ["no queue takes messages of routing key crm.contact.updated"]
    assert [each.getMessage() for each in told] == told_once, "not with every try"
    record = vars(told[0])
    assert (record["exchange"], record["count"]) == (unique, 2)
    topology(channel, unique)
    assert publisher.publish(messages(2)) == [CONFIRMED] * 2
    publisher.close()


def test_a_deleted_exchange_is_declared_again_and_nothing_is_lost(node: TlsNode, channel: Any, unique: str) -> None:
    topology(channel, unique)
    publisher = publisher_to(node.url, unique)
    publisher.publish(messages(1))
    channel.exchange_delete(unique)
    with pytest.raises(BrokerUnavailable, match="no exchange") as caught:
        publisher.publish(messages(3, start=1))
    assert caught.value.outcomes == [None] * 3
    assert publisher.publish(messages(3, start=1)) == [UNROUTABLE] * 3
    channel.queue_bind(queue=unique, exchange=unique, routing_key="#")
    assert publisher.publish(messages(3, start=1)) == [CONFIRMED] * 3
    assert received(channel, unique) == ["tx-0", "tx-1", "tx-2", "tx-3"]
    publisher.close()


def test_what_a_full_queue_does_not_take_is_refused_and_delivered_once_there_is_room(
    node: TlsNode, channel: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    topology(channel, unique, **{"x-max-length": 3, "x-overflow": "reject-publish"})
    publisher = publisher_to(node.url, unique)
    publisher.publish(messages(1))
    sent = messages(30, start=1)
    outcomes = publisher.publish(sent)
    assert set(outcomes) == {CONFIRMED, REFUSED}
    assert "are refused; is a queue full?" in caplog.text
    confirmed = [one.id for one, outcome in zip(sent, outcomes, strict=True) if outcome is CONFIRMED]
    assert received(channel, unique) == ["tx-0", *confirmed]
    refused = [one for one, outcome in zip(sent, outcomes, strict=True) if outcome is REFUSED]
    assert publisher.publish(refused[:1]) == [CONFIRMED]
    publisher.close()


def test_an_exchange_of_another_type_is_an_error_that_says_so_and_no_message_is_to_blame(
    node: TlsNode, channel: Any, unique: str
) -> None:
    channel.exchange_declare(exchange=unique, type="fanout", durable=True, auto_delete=False)
    publisher = publisher_to(node.url, unique)
    for _ in range(2):
        with pytest.raises(
            ExchangeRefused, match=r"PRECONDITION_FAILED.*inequivalent arg 'type'.*EVENTBUS_EXCHANGE"
        ) as it:
            publisher.publish(messages(1))
        assert it.value.outcomes == [None]
    channel.exchange_delete(unique)
    topology(channel, unique)
    assert publisher.publish(messages(1)) == [CONFIRMED]
    publisher.close()


def test_a_message_that_the_broker_closes_the_channel_for_is_found_and_refused_and_the_others_arrive(
    node: TlsNode, channel: Any, unique: str
) -> None:
    """Too large for `max_message_size`: RabbitMQ answers 406 and forgets the confirms of those around it."""
    topology(channel, unique)
    publisher = publisher_to(node.url, unique)
    publisher.publish(messages(1))
    left = [*messages(3, start=1), *messages(1, size=MAX_MESSAGE, start=4), *messages(3, start=5)]
    fates: dict[str, Outcome] = {}
    for _ in range(3):
        try:
            outcomes: list[Outcome | None] = list(publisher.publish(left))
        except BrokerUnavailable as error:
            outcomes = error.outcomes
        fates |= {one.id: outcome for one, outcome in zip(left, outcomes, strict=True) if outcome is not None}
        left = [one for one in left if one.id not in fates]
    assert fates == {f"tx-{number}": REFUSED if number == 4 else CONFIRMED for number in range(1, 8)}
    assert set(received(channel, unique)) == {f"tx-{number}" for number in range(8)} - {"tx-4"}
    publisher.close()


# -- alarms and restarts ----------------------------------------


@pytest.fixture
def alarm(node: TlsNode) -> Iterator[Any]:
    """`alarm(True)` makes the broker block publishers, as it does when it runs out of memory."""

    def switch(on: bool) -> None:
        node.rabbitmqctl("set_vm_memory_high_watermark", "0" if on else "0.6")
        alarms = ("eval", "rabbit_alarm:get_alarms().")
        wait_until(lambda: ("memory" in node.rabbitmqctl(*alarms)) is on, 20, "the alarm did not follow")

    yield switch
    switch(False)


def test_a_broker_that_blocks_publishers_is_noticed_borne_for_a_bounded_time_and_used_again(
    node: TlsNode, channel: Any, unique: str, alarm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topology(channel, unique)
    publisher = publisher_to(node.url, unique)
    publisher.publish(messages(1))
    alarm(True)
    with pytest.raises(BrokerUnavailable, match="blocks publishers") as caught:
        publisher.publish(messages(2_500, start=1))
    assert caught.value.outcomes.count(CONFIRMED) < 2_500
    assert "the broker blocks publishers: " in caplog.text
    left = [
        message
        for message, outcome in zip(messages(2_500, start=1), caught.value.outcomes, strict=True)
        if outcome is not CONFIRMED
    ]
    alarm(False)
    assert publisher.publish(left) == [CONFIRMED] * len(left)
    assert set(received(channel, unique)) == {f"tx-{number}" for number in range(2_501)}
    publisher.close()


def test_a_new_connection_to_a_blocking_broker_risks_one_message_only(
    node: TlsNode, channel: Any, unique: str, alarm: Any
) -> None:
    topology(channel, unique)
    alarm(True)
    publisher = publisher_to(node.url, unique)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match=r"blocks publishers .* 1 unconfirmed"):
            publisher.publish(messages(500))
    alarm(False)
    assert publisher.publish(messages(500)) == [CONFIRMED] * 500
    duplicates = len(received(channel, unique)) - 500
    assert duplicates <= 2
    publisher.close()


def test_a_call_that_waits_for_the_alarm_to_end_goes_on_by_itself(
    node: TlsNode, channel: Any, unique: str, alarm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    topology(channel, unique)
    publisher = publisher_to(node.url, unique, timeouts=Timeouts(confirm=60))
    publisher.publish(messages(1))
    alarm(True)
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.extend(publisher.publish(messages(5_000))))
    thread.start()
    wait_until(lambda: publisher.blocked, 20, "the block was not noticed")
    alarm(False)
    thread.join(timeout=60)
    assert outcomes == [CONFIRMED] * 5_000
    assert "the broker takes messages again" in caplog.messages
    publisher.close()


def test_a_frozen_node_is_an_error_in_bounded_time_and_used_again_after(
    node: TlsNode, channel: Any, unique: str
) -> None:
    topology(channel, unique)
    publisher = publisher_to(node.url, unique)
    publisher.publish(messages(1))
    node.pause()
    try:
        with pytest.raises(BrokerUnavailable):
            publisher.publish(messages(2, start=1))
        with pytest.raises(BrokerUnavailable):
            publisher.publish(messages(2, start=1))
    finally:
        node.resume()
    assert publisher.publish(messages(2, start=1)) == [CONFIRMED] * 2
    assert set(received(channel, unique)) == {"tx-0", "tx-1", "tx-2"}
    publisher.close()


@pytest.mark.parametrize("abrupt", [False, True], ids=["stopped", "killed"])
def test_a_broker_that_restarts_keeps_what_it_confirmed_and_takes_the_rest_after(
    node: TlsNode, unique: str, abrupt: bool
) -> None:
    with transports.connection(node.url) as connection:
        # A classic queue: in RabbitMQ 3.10 a quorum queue whose node is killed soon after it was made finds no leader.
        topology(connection.channel(), unique)
    publisher = publisher_to(node.url, unique)
    assert publisher.publish(messages(20)) == [CONFIRMED] * 20
    if abrupt:
        node.kill()
    else:
        node.stop()
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            publisher.publish(messages(20, start=20))
    node.start()
    # After a crash the node answers before all its queues do.
    wait_until(lambda: delivers(publisher, messages(20, start=20)), 90, "the queue did not come back")
    publisher.close()
    with transports.connection(node.url) as connection:
        assert set(received(connection.channel(), unique)) == {f"tx-{number}" for number in range(40)}


# -- logins -----------------------------------------------------


def test_a_login_that_may_only_write_uses_the_exchange_that_is_there(node: TlsNode, channel: Any, unique: str) -> None:
    topology(channel, unique)
    node.rabbitmqctl("add_user", unique, "sesame")
    node.rabbitmqctl("set_permissions", unique, "^$", f"^{unique}$", "^$")
    url = node.url.replace("guest:guest", f"{unique}:sesame")
    publisher = publisher_to(url, unique)
    assert publisher.publish(messages(2)) == [CONFIRMED] * 2
    publisher.close()


def test_a_login_that_may_not_write_is_an_error_and_no_message_is_blamed(
    node: TlsNode, channel: Any, unique: str
) -> None:
    topology(channel, unique)
    node.rabbitmqctl("add_user", unique, "sesame")
    node.rabbitmqctl("set_permissions", unique, "^$", "^$", "^$")
    publisher = publisher_to(node.url.replace("guest:guest", f"{unique}:sesame"), unique)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED") as caught:
            publisher.publish(messages(2))
        assert caught.value.outcomes == [None, None]


def test_a_routing_key_that_a_login_may_not_use_is_refused_alone(node: TlsNode, channel: Any, unique: str) -> None:
    topology(channel, unique)
    node.rabbitmqctl("add_user", unique, "sesame")
    node.rabbitmqctl("set_permissions", unique, ".*", ".*", ".*")
    node.rabbitmqctl("set_topic_permissions", unique, unique, "^crm\\.", ".*")
    publisher = publisher_to(node.url.replace("guest:guest", f"{unique}:sesame"), unique)
    assert publisher.publish(messages(1)) == [CONFIRMED]
    foreign = messages(1, start=1)[0]._replace(routing_key="shop.order.created")
    with pytest.raises(BrokerUnavailable, match="access to topic") as caught:
        publisher.publish([foreign])
    assert caught.value.outcomes == [REFUSED]
    assert publisher.publish(messages(1)) == [CONFIRMED]
    publisher.close()


def test_the_broker_vouches_for_the_user_where_that_is_asked_for(node: TlsNode, channel: Any, unique: str) -> None:
    topology(channel, unique)
    publisher = publisher_to(node.url, unique, send_user=True)
    assert publisher.publish(messages(1)) == [CONFIRMED]
    assert channel.basic_get(unique, no_ack=True).properties["user_id"] == "guest"
    publisher.close()


def test_the_broker_sees_who_is_connected(node: TlsNode, unique: str) -> None:
    publisher = publisher_to(node.url, unique)
    publisher.publish(messages(1))
    seen = node.rabbitmqctl("list_connections", "client_properties")
    for text in ("sqlalchemy-eventbus", '"crm publisher ', '"connection.blocked"'):
        assert text in seen
    publisher.close()


# -- certificates -----------------------------------------------


def test_over_tls_to_the_name_in_the_certificate(node: TlsNode, channel: Any, unique: str) -> None:
    topology(channel, unique)
    publisher = publisher_to(node.tls_url(cacertfile=node.authority), unique)
    assert publisher.publish(messages(1)) == [CONFIRMED]
    sent = messages(400, size=5_000, start=1)
    assert publisher.publish(sent) == [CONFIRMED] * 400
    publisher.tick()
    assert publisher.publish(messages(1)) == [CONFIRMED]
    publisher.close()


def test_a_certificate_for_another_name_is_refused(node: TlsNode, unique: str) -> None:
    """TRAPS F12: the authority is trusted; only the name is wrong. kombu alone would send the password."""
    publisher = publisher_to(node.tls_url("127.0.0.1", cacertfile=node.authority), unique)
    with pytest.raises(BrokerUnavailable, match=r"CERTIFICATE_VERIFY_FAILED.*IP address mismatch"):
        publisher.publish(messages(1))


def test_a_certificate_of_an_unknown_authority_is_refused(node: TlsNode, unique: str) -> None:
    publisher = publisher_to(node.tls_url(cacertfile=node.directory / "other-ca.pem"), unique)
    with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        publisher.publish(messages(1))


def test_unchecked_only_when_told_twice(node: TlsNode, channel: Any, unique: str) -> None:
    topology(channel, unique)
    publisher = publisher_to(node.tls_url("127.0.0.1", verify="verify_none"), unique, insecure_tls=True)
    assert publisher.publish(messages(1)) == [CONFIRMED]
    publisher.close()
