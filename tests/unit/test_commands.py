"""The command `eventbus` gathers the others, and every command ends in the same way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import click
import pytest
from sqlalchemy.exc import OperationalError

import eventbus
from eventbus import commands
from eventbus.errors import ConfigurationError, EventBusError


def ending(error: BaseException | int | None) -> click.Command:
    def body() -> int | None:
        if isinstance(error, BaseException):
            raise error
        return error

    return click.Command("it", callback=body)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package of a user's own, which names commands for `eventbus`."""
    info = tmp_path / "shop-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[eventbus.commands]\n"
        "greet = shop_commands:greet\nbroken = shop_commands_gone:greet\nnone = shop_commands:NAME\n"
    )
    (tmp_path / "shop_commands.py").write_text(
        "import click\nNAME = 'x'\n@click.command()\ndef greet():\n    'Say hello.'\n    click.echo('hello')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    yield tmp_path
    sys.modules.pop("shop_commands", None)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (ConfigurationError("EVENTBUS_URL: no URL"), 2, "it: EVENTBUS_URL: no URL"),
        (EventBusError("lost amqp://u:geheim@h//"), 1, "it: lost amqp://u:***@h//"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (OperationalError("SELECT 1", {}, Exception("database is gone")), 1, "database is gone"),
        (click.UsageError("say which"), 2, "Error: say which"),
        (click.ClickException("no such letter"), 1, "Error: no such letter"),
        (click.Abort(), 1, "it: interrupted; nothing was kept"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_command_ends_with_a_number_and_one_sentence(
    error: BaseException | int | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.run(ending(error), [], "it") == code
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "name", ["dead-letters", "dumpdata", "loaddata", "mirror", "relay", "replay", "snapshot", "completion"]
)
def test_each_command_is_found_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: eventbus {name}")
    assert "Cannot be used" not in shown
    assert commands.main(["--help"]) == 0
    assert f"\n  {name} " in capsys.readouterr().out


def test_a_package_of_yours_may_add_commands(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["greet"]) == 0
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize(
    ("name", "why"), [("broken", "No module named 'shop_commands_gone'"), ("none", "is no click command")]
)
def test_a_command_that_cannot_be_loaded_says_why_and_hurts_no_other(
    package: Path, name: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["--help"]) == 0
    assert f"\n  {name} " in capsys.readouterr().out
    assert commands.main([name]) == 2
    told = capsys.readouterr().err
    assert why in told
    assert "shop" in told


def test_an_unknown_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["mirorr"]) == 2
    assert "No such command 'mirorr'" in capsys.readouterr().err


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"eventbus, version {eventbus.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_it(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["completion", shell]) == 0
    assert "_EVENTBUS_COMPLETE" in capsys.readouterr().out
