"""A canary sits in every password and in a value of a record. It comes out of no log, error, figure or help."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import prometheus_client
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from consumers.base.monitoring import Figures
from consumers.json_mirror.command import main as mirror
from eventbus import commands, install, metrics

PASSWORD, VALUE = "canary-pa55word", "canary-va1ue"
PLACES = {
    "EVENTBUS_URL": f"amqp://guest:{PASSWORD}@127.0.0.1:1//",
    "DATABASE_URL": f"postgresql+psycopg://crm:{PASSWORD}@127.0.0.1:1/crm",
    "EVENTBUS_CACHE_URL": f"redis://:{PASSWORD}@127.0.0.1:1/0",
    "EVENTBUS_HMAC_KEYS": f"k1:{PASSWORD * 3}",
    "EVENTBUS_WEB_TOKEN": PASSWORD * 3,
}
FAILING = [
    ["compare", "--wait", "0"],
    ["dead-letters", "list"],
    ["dead-letters", "purge", "--all"],
    ["doctor"],
    ["dumpdata"],
    ["history", "log", "crm.contact", "ab12"],
    ["loaddata", "nothing.json"],
    ["mirror", "--status"],
    ["mirror", "--rebuild"],
    ["replay"],
    ["schema", f"{__name__}:nothing"],
    ["snapshot", f"{__name__}:nothing"],
    ["status"],
    ["why", "crm.contact", "ab12"],
]


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("EVENTBUS_") and "_TEST_" not in name:
            monkeypatch.delenv(name)
    for name, value in {**PLACES, "EVENTBUS_LOG_LEVEL": "DEBUG", "EVENTBUS_SERVICE": "crm", "DATA_DIR": "data"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EVENTBUS_MODELS", f"{__name__}:Base")
    return monkeypatch


def helps(command: click.Command, *path: str) -> Iterator[list[str]]:
    """The words of this command and of all below it."""
    yield [*path]
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from helps(below, *path, name)


def told(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> str:
    shown = capfd.readouterr()
    return shown.out + shown.err + caplog.text


def test_no_help_shows_what_the_environment_holds(
    environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    listed = [words for entry in entry_points(group="eventbus.commands") for words in helps(entry.load(), entry.name)]
    assert len(listed) > 20
    for words in [[], *listed]:
        assert commands.main([*words, "--help"]) == 0
        shown = capfd.readouterr()
        assert "Usage:" in shown.out
        assert PASSWORD not in shown.out + shown.err, words


def test_every_command_is_tried() -> None:
    without = {"history", "web", "tail", "relay", "mirror"}
    """They wait for a broker for ever, but for parts of them."""
    names = {entry.name for entry in entry_points(group="eventbus.commands")}
    assert names - without <= {words[0] for words in FAILING}


@pytest.mark.parametrize("words", FAILING, ids=lambda words: "-".join(words[:2]))
def test_no_command_tells_a_password_when_it_fails(
    words: list[str],
    environment: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    assert commands.main(words) != 0
    shown = told(capfd, caplog)
    assert shown
    assert PASSWORD not in shown


def test_a_value_is_in_its_file_and_in_no_log_and_no_figure(
    environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in PLACES:
        environment.delenv(name)
    engine = sa.create_engine("sqlite:///crm.sqlite3")
    Base.metadata.create_all(engine)
    registry = prometheus_client.CollectorRegistry()
    with install(sessions := sessionmaker(engine), service="crm") as bus:
        metrics.register(bus, registry)
        with sessions.begin() as session:
            session.add(Contact(id=VALUE, name=VALUE))
        bus.flush()
    assert mirror(["--drain"]) == 0
    (file,) = Path("data/crm/contact").glob("*.json")
    assert VALUE in file.read_text()
    Figures(registry)
    assert VALUE not in prometheus_client.generate_latest(registry).decode()
    assert VALUE not in told(capfd, caplog)
    engine.dispose()
