"""How commands log: as the environment asks, and without passwords."""

from __future__ import annotations

import json
import logging

import pytest

from eventbus.errors import ConfigurationError
from eventbus.monitoring import logs


def test_json_lines_are_the_default_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.to_stderr():
        logging.getLogger("eventbus.x").warning("lost %s", "amqp://u:geheim@h//", extra={"attempt": 2})
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["attempt"]) == ("lost amqp://u:***@h//", "warning", 2)


def test_text_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EVENTBUS_LOG_FORMAT", "text")
    with logs.to_stderr():
        logging.getLogger("eventbus.x").warning("lost it", extra={"attempt": 2})
    assert capsys.readouterr().err.endswith(" warning lost it (attempt=2)\n")


def test_the_level_is_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTBUS_LOG_LEVEL", "error")
    with logs.to_stderr():
        logging.getLogger("eventbus.x").warning("not shown")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "value"), [("LEVEL", "loud"), ("FORMAT", "xml")])
def test_what_cannot_be_meant_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"EVENTBUS_LOG_{name}", value)
    with (
        pytest.raises(ConfigurationError, match=f"EVENTBUS_LOG_{name}={value.upper() if name == 'LEVEL' else value}: "),
        logs.to_stderr(),
    ):
        pass


def test_logging_is_left_as_it_was() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with logs.to_stderr(verbose=True):
        assert root.handlers[:] != before[0]
    assert (root.handlers[:], root.level) == before
