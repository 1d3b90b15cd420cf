"""Which publisher a URL gets, what it shows of itself, and what goes with every message."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eventbus import signing, transports
from eventbus.envelope import encode, seal
from eventbus.errors import ConfigurationError
from eventbus.publishers import AmqpPublisher, Publisher, VirtualPublisher, publisher_for
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
