"""Settings: read once, from variables or mounted files; all errors at once; no password on any screen."""

from pathlib import Path

import pytest

from eventbus.errors import ConfigurationError
from eventbus.inspection.settings import examine_environment
from eventbus.redaction import redact
from eventbus.settings import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "SERVICE", "EXCHANGE", "QUEUE", "MAX_EVENT_BYTES", "UNROUTABLE", "ORDERING"):
        monkeypatch.delenv(f"EVENTBUS_{name}", raising=False)


def test_without_a_setting_the_broker_is_a_file_in_the_working_directory() -> None:
    settings = Settings.from_env()
    assert settings.url == "sqlite:///eventbus-broker.sqlite3"
    assert (settings.service, settings.exchange, settings.queue) == ("app", "eventbus", "json-mirror")


def test_a_setting_may_come_from_a_mounted_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("amqp://u:p@broker//\n")
    monkeypatch.setenv("EVENTBUS_URL_FILE", str(secret))
    assert Settings.from_env().url == "amqp://u:p@broker//"


def test_a_secret_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVENTBUS_URL_FILE", str(tmp_path / "nothing"))
    with pytest.raises(ConfigurationError, match=r"EVENTBUS_URL_FILE must be .*/nothing: No such file or directory"):
        Settings.from_env()


def test_all_wrong_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_MAX_EVENT_BYTES", "many")
    monkeypatch.setenv("EVENTBUS_INSECURE_TLS", "perhaps")
    monkeypatch.setenv("EVENTBUS_UNROUTABLE", "maybe")
    monkeypatch.setenv("EVENTBUS_EXCHANGE", "")
    with pytest.raises(ConfigurationError) as told:
        Settings.from_env()
    assert [text.split()[0] for text in str(told.value).split("; ")] == [
        "EVENTBUS_MAX_EVENT_BYTES:",
        "EVENTBUS_INSECURE_TLS:",
        "EVENTBUS_EXCHANGE",
        "EVENTBUS_UNROUTABLE",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UNROUTABLE", "maybe"),
        ("ORDERING", "loose"),
        ("MAX_EVENT_BYTES", "10"),
        *((name, "") for name in ("SERVICE", "EXCHANGE", "QUEUE")),
    ],
)
def test_a_value_without_meaning_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"EVENTBUS_{name}", value)
    with pytest.raises(ConfigurationError, match=f"EVENTBUS_{name}"):
        Settings.from_env()


def test_the_source_is_a_path_of_one_quoted_word() -> None:
    assert Settings(service="Crm.eu").source == "/%43rm%2Eeu"


@pytest.mark.parametrize(
    "text",
    [
        "amqp://user:secret@host/vhost",
        "cannot reach amqps://user:sec/ret@secret@host:5671//, giving up",
        "redis://:secret@host",
        "postgresql+psycopg://u:secret@h/db?password=secret",
        "amqp://user:a secret with spaces@host//",
        "postgresql://user:a://secret@host/db",
        "between amqp://user:secret of one@host// and amqp://other:secret@host//",
    ],
)
def test_no_password_survives_redaction(text: str) -> None:
    assert "secret" not in redact(text)
    assert "host" in redact(text) or "@h/" in redact(text)


def test_settings_show_no_password() -> None:
    assert "secret" not in repr(Settings(url="amqp://u:secret@h"))


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"EVENTBUS_WIRE": "batch"}, []),
        ({"EVENTBUS_SHARD": "0/2"}, []),
        ({"EVENTBUS_WIRE": "batch", "EVENTBUS_SHARD": "0/2"}, ["shards dead-letter batches"]),
    ],
)
def test_doctor_names_batches_that_no_shard_takes(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: list[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = list(examine_environment())
    assert [text for text in told if not any(text in each.text for each in found)] == []
    assert [each.level for each in found].count("wrong") == len(told)
    assert ("events in batches" in found[0].text) is ("EVENTBUS_WIRE" in environment)
