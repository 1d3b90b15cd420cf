"""People at a terminal see progress; logs and pipes do not."""

from __future__ import annotations

import io
import logging

import orjson
import pytest

from consumers.base import progress
from consumers.base.progress import Progress
from eventbus.monitoring.logs import JsonFormatter, TextFormatter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_count_total_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PAUSE", 0)
    terminal = Terminal()
    shown = Progress("compared", 5000, terminal)
    shown.add(1000)
    shown.add(234)
    shown.end()
    assert "compared: 1,234 of 5,000, " in terminal.getvalue()
    assert terminal.getvalue().endswith("a second\n")


def test_nothing_is_written_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PAUSE", 0)
    stream = io.StringIO()
    shown = Progress("compared", stream=stream)
    shown.add(1000)
    shown.end()
    assert stream.getvalue() == ""


def record() -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "eventbus.x", "levelname": "WARNING", "msg": "lost %s", "args": ("it",)})
    made.url = "amqp://user:secret@host//"
    return made


def test_a_log_line_is_json_with_its_details_and_no_password() -> None:
    line = orjson.loads(JsonFormatter().format(record()))
    assert (line["level"], line["event"], line["url"]) == ("warning", "lost it", "amqp://user:***@host//")


def test_a_person_reads_text_without_a_password() -> None:
    assert TextFormatter().format(record()).endswith("warning lost it (url=amqp://user:***@host//)")
