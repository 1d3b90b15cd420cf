"""TLS is safe unless told otherwise, and what cannot be meant is an error before anything is sent."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from eventbus.errors import ConfigurationError
from eventbus.publishers import AmqpPublisher, publisher_for
from eventbus.settings import Settings
from eventbus.transports.tls import split_url


def test_amqps_checks_certificate_and_the_host_name_of_the_url() -> None:
    url, options = split_url("amqps://u:p@Broker.example:5671//")
    assert url == "amqps://u:p@Broker.example:5671//"
    assert options is not None
    assert options["cert_reqs"] is ssl.CERT_REQUIRED
    assert options["server_hostname"] == "broker.example"
    assert ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).minimum_version >= ssl.TLSVersion.TLSv1_2, "py-amqp's context"


def test_localhost_is_checked_under_its_name_although_kombu_connects_to_its_number() -> None:
    assert split_url("amqps://localhost//")[1]["server_hostname"] == "localhost"  # type: ignore[index]


def test_amqp_is_plain() -> None:
    assert split_url("amqp://u:p@h//") == ("amqp://u:p@h//", None)


def test_files_of_the_url_are_handed_on(tmp_path: Path) -> None:
    for name in ("ca.pem", "crm.pem", "crm.key"):
        (tmp_path / name).touch()
    query = f"cacertfile={tmp_path}/ca.pem&certfile={tmp_path}/crm.pem&keyfile={tmp_path}/crm.key"
    url, options = split_url(f"amqps://h//?{query}&server_name_indication=broker.internal")
    assert url == "amqps://h//"
    assert options is not None
    assert [options[name] for name in ("ca_certs", "certfile", "keyfile")] == [
        str(tmp_path / name) for name in ("ca.pem", "crm.pem", "crm.key")
    ]
    assert options["server_hostname"] == "broker.internal"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("amqps://u:sesame@h//?verify=verify_none", "insecure_tls=True"),
        ("amqps://u:sesame@h//?verify=maybe", "verify_peer or verify_none"),
        ("amqps://u:sesame@h//?ssl_cert_reqs=CERT_NONE", "unknown parameter ssl_cert_reqs"),
        ("amqps://u:sesame@h//?cacertfile=/nonexistent/ca.pem", "cannot be read"),
        ("amqps://u:sesame@h//?keyfile=/dev/null", "without certfile"),
        ("amqp://u:sesame@h//?cacertfile=/dev/null", "would be ignored without TLS"),
    ],
)
def test_an_unsafe_or_useless_set_up_is_refused_at_once_and_shows_no_password(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        AmqpPublisher(url, exchange="eventbus", service="crm")
    assert "sesame" not in str(caught.value)


def test_insecure_only_when_told() -> None:
    _, options = split_url("amqps://h//?verify=verify_none", insecure=True)
    assert options is not None
    assert options["cert_reqs"] is ssl.CERT_NONE
    publisher_for(Settings(url="amqps://h//?verify=verify_none", service="crm", insecure_tls=True))
