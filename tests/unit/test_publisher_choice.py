"""Which publisher a URL gets, what it shows of itself, and what goes with every message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eventbus import transports
from eventbus.errors import ConfigurationError
from eventbus.events import signing
from eventbus.events.envelope import Message, encode, seal
from eventbus.publishers import AmqpPublisher, Outcome, Publisher, VirtualPublisher, publisher_for
from eventbus.publishers.headers import headers_for
from eventbus.settings import Settings


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("amqp://u:p@h//", AmqpPublisher),
        ("amqps://u:p@h//", AmqpPublisher),
        ("sqlite:///broker.sqlite3", VirtualPublisher),
        ("memory://", VirtualPublisher),
    ],
)
def test_each_kind_of_url_has_its_publisher_which_does_not_connect_yet(url: str, kind: type[Publisher]) -> None:
    publisher = publisher_for(Settings(url=url, service="crm"))
    assert type(publisher) is kind
    publisher.tick()
    publisher.abandon()
    publisher.close()
    publisher.close()


@pytest.mark.parametrize("url", ["sqlite:///broker.sqlite3", "memory://", "amqp://h//"])
def test_once_made_a_publisher_imports_nothing_more_so_that_a_fork_finds_no_half_of_a_module(url: str) -> None:
    program = (
        "import sys; from eventbus.publishers import publisher_for; from eventbus.settings import Settings\n"
        f"publisher = publisher_for(Settings(url={url!r}, service='crm')); before = set(sys.modules)\n"
        f"from eventbus import transports; transports.connection({url!r}).get_transport_cls()\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "amqp://[h",
        "amqp://u:[@h//",
        "postgresql://h/d",
        "h:5672",
        "",
        "amqp://a//;amqp://b//",
        "sqlite://",
    ],
)
def test_other_urls_are_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        publisher_for(Settings(url=url, service="crm"))


@pytest.mark.parametrize("port", ["abc", "99999", "-1"])
@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_a_port_that_is_none_is_a_configuration_error_without_the_password(scheme: str, port: str) -> None:
    for use in (transports.connection, lambda url: publisher_for(Settings(url=url, service="crm"))):
        with pytest.raises(ConfigurationError, match="a port is a number up to 65535") as told:
            use(f"{scheme}://guest:sesame@localhost:{port}//")
        assert "sesame" not in str(told.value)


def two_exchanges(url: str, queue: str, bound_before: str | None) -> list[Outcome]:
    """Services with an exchange each publish to one broker without a server; the outcomes, of either one message."""
    outcomes = []
    with transports.connection(url) as connection:
        channel = connection.channel()
        if bound_before is not None:
            channel.exchange_declare(exchange=f"{queue}-one", type="topic", durable=True, auto_delete=False)
            channel.queue_declare(queue=queue, durable=True, auto_delete=False)
            channel.queue_bind(queue=queue, exchange=f"{queue}-one", routing_key=bound_before)
        for exchange in (f"{queue}-one", f"{queue}-two"):
            publisher = publisher_for(Settings(url=url, service="crm", exchange=exchange, queue=queue))
            outcomes += publisher.publish([Message("crm.contact.created", "1", b'{"partitionkey":"contact/1"}', "t")])
            publisher.close()
    return outcomes


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_services_of_one_embedded_broker_may_have_an_exchange_each(kind: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/broker.sqlite3" if kind == "sqlite" else "memory://"
    taken, left = Outcome.CONFIRMED, Outcome.UNROUTABLE
    assert two_exchanges(url, "mine", bound_before=None) == [taken, taken]
    assert two_exchanges(url, "yours", bound_before="billing.#") == [left, taken], "a consumer's own bindings count"


def test_the_repr_shows_no_password() -> None:
    publisher = publisher_for(Settings(url="amqp://u:sesame@h//", service="crm"))
    assert "sesame" not in repr(publisher)
    assert "amqp://u:***@h//" in repr(publisher)


def test_the_headers_are_the_partition_key_and_with_a_key_the_signature() -> None:
    subject = 'order_line/[1,"a"]'
    body = seal(
        encode(
            id="t-0",
            source="/crm",
            type="crm.order_line.created",
            subject=subject,
            time="2026-11-23T08:00:00Z",
            transaction="t",
            data={"before": {"partitionkey": "not this"}, "note": '"partitionkey":"nor this"'},
        ),
        7,
    )
    assert headers_for()(body) == {"partitionkey": subject}
    key = signing.Key("2026-11", b"x" * 32)
    headers = headers_for(key)(body)
    assert headers["partitionkey"] == subject
    signing.verify(body, headers, [key])


def test_a_body_without_partition_key_has_no_such_header() -> None:
    assert headers_for()(b'{"a":1}') == {}
