"""`transports.connection`: one door to every broker, and what it does not let through."""

from __future__ import annotations

import ssl
import traceback
import zlib
from pathlib import Path
from typing import Any

import amqp
import pytest

from eventbus import transports
from eventbus.errors import ConfigurationError

PASSWORD = "s3cret-p4ss"


def test_a_relative_path_is_fixed_to_the_working_directory_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    connection = transports.connection("sqlite:///broker.sqlite3")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with connection:
        connection.connect()
        assert (tmp_path / "broker.sqlite3").is_file()


def test_an_absolute_path_has_four_slashes_and_may_be_encoded(tmp_path: Path) -> None:
    with transports.connection(f"sqlite:///{tmp_path}/50%25%3F.sqlite3") as connection:
        connection.connect()
    assert (tmp_path / "50%?.sqlite3").is_file()


def test_nothing_is_opened_before_it_is_used(tmp_path: Path) -> None:
    transports.connection(f"sqlite:///{tmp_path}/broker.sqlite3").release()
    transports.connection("amqp://127.0.0.1:1//").release()
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_is_down_is_an_error_at_once() -> None:
    with transports.connection("amqp://127.0.0.1:1//") as connection, pytest.raises(OSError, match="refused"):
        connection.channel()


def test_memory_is_polled_often() -> None:
    with transports.connection("memory://") as connection:
        assert connection.transport.polling_interval == 0.01
    with transports.connection("memory://", transport_options={"polling_interval": 0.5}) as connection:
        assert connection.transport.polling_interval == 0.5


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "use amqp://"),
        ("broker.sqlite3", "use amqp://"),
        (f"http://u:{PASSWORD}@host/", "use amqp://"),
        (f"redis://:{PASSWORD}@host/", "use amqp://"),
        ("sqlite://broker.sqlite3", "three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///broker.sqlite3?timeout=5", "takes no parameters"),
        (f"amqp://u:{PASSWORD}@a//;amqp://u:{PASSWORD}@b//", "one only"),
        (f"amqps://u:{PASSWORD}@host//?verify=verify_none", "insecure_tls"),
        (f"amqps://u:{PASSWORD}@host//?heartbeat=5", "unknown parameter heartbeat"),
        (f"amqp://u:{PASSWORD}@host//?cacertfile=/etc/ca.pem", "without TLS"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        transports.connection(url)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def options_of(url: str, **arguments: Any) -> Any:
    with transports.connection(url, **arguments) as connection:
        return connection.ssl


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("amqps://broker.example//", {}),
        ("amqps://broker.example//", {"ssl": True}),
        ("amqps://broker.example//", {"ssl": {"server_hostname": None}}),
        ("amqp://broker.example//", {"ssl": True}),
        ("amqps://broker.example//", {"insecure_tls": True}),
    ],
)
def test_tls_always_checks_the_certificate_and_the_name_in_it(url: str, arguments: dict[str, Any]) -> None:
    options = options_of(url, **arguments)
    assert options["cert_reqs"] is ssl.CERT_REQUIRED
    assert options["server_hostname"] == "broker.example"


def test_tls_options_are_added_to_those_of_the_url() -> None:
    options = options_of("amqps://10.0.0.1//", ssl={"server_hostname": "broker.example", "ciphers": "HIGH"})
    assert (options["server_hostname"], options["ciphers"]) == ("broker.example", "HIGH")
    assert options["cert_reqs"] is ssl.CERT_REQUIRED


def test_plain_amqp_has_no_tls_options() -> None:
    assert options_of("amqp://broker.example//") is False


def test_empty_tls_options_are_refused_for_kombu_would_send_plain_text() -> None:
    for url in ("amqp://broker.example//", "amqps://broker.example//"):
        with pytest.raises(ConfigurationError, match="plain text"):
            transports.connection(url, ssl={})


def test_an_unchecked_certificate_has_to_be_asked_for_twice() -> None:
    with pytest.raises(ConfigurationError, match="insecure_tls"):
        transports.connection("amqps://broker.example//", ssl={"cert_reqs": ssl.CERT_NONE})
    asked = options_of("amqps://broker.example//?verify=verify_none", insecure_tls=True)
    assert asked["cert_reqs"] is ssl.CERT_NONE


def test_messages_of_a_real_broker_are_not_inflated_either() -> None:
    with transports.connection("amqp://broker.example//") as connection:
        channel_class = connection.transport.Connection.Channel
    bomb = zlib.compress(bytes(1 << 20))
    received = amqp.Message(bomb, application_headers={"compression": "application/x-gzip"})
    received.delivery_info = {"delivery_tag": 1}
    message = channel_class.Message(received)
    assert message.body == bomb
    assert message.headers == {"compression": "application/x-gzip"}
