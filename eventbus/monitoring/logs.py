"""What commands log: a line of JSON each, or, for a person, a line of text. The library configures no handler."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from eventbus.errors import ConfigurationError
from eventbus.redaction import printable, redact
from eventbus.settings import reading_environment

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
_FORMATS: Final = ("text", "json")


@contextmanager
def to_stderr(*, verbose: bool = False) -> Iterator[None]:
    """Send what is logged meanwhile to standard error, and nowhere else; used by commands only.

    EVENTBUS_LOG_LEVEL (INFO; DEBUG with `verbose`) says how much, EVENTBUS_LOG_FORMAT whether as `text` or `json`
    (text on a terminal, else json). Raises ConfigurationError for other values.
    """
    with reading_environment("EVENTBUS_") as env:
        level = str(env.str("LOG_LEVEL", "DEBUG" if verbose else "INFO")).upper()
        form = str(env.str("LOG_FORMAT", "text" if sys.stderr.isatty() else "json")).lower()
    _require("EVENTBUS_LOG_LEVEL", level, _LEVELS)
    _require("EVENTBUS_LOG_FORMAT", form, _FORMATS)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if form == "text" else JsonFormatter())
    root, amqp = logging.getLogger(), logging.getLogger("amqp")
    before = root.handlers[:], root.level, amqp.level
    root.handlers[:] = [handler]
    root.setLevel(level)
    amqp.setLevel(max(logging.WARNING, root.level))  # it logs every frame
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        amqp.setLevel(before[2])


def _require(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name}={value}: write one of {', '.join(choices)}")


class JsonFormatter(logging.Formatter):
    """`{"time": …, "level": …, "logger": …, "event": …, …}` with what `extra` holds; URLs without their passwords."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return printable(redact(_as_json(line)))


class TextFormatter(logging.Formatter):
    """`12:34:56 warning disk trouble (reason=No space left on device)`, over a line of progress if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        message = record.getMessage()
        facts = ", ".join(f"{name}={value}" for name, value in _extra(record).items() if str(value) not in message)
        text = f"{clock} {record.levelname.lower()} {message}{f' ({facts})' if facts else ''}"
        text = printable(redact(text))
        if record.exc_info:
            text += "\n" + "\n".join(map(printable, redact(self.formatException(record.exc_info)).split("\n")))
        return f"\r\x1b[K{text}" if sys.stderr.isatty() else text


def _as_json(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str).decode("utf-8", "replace")
    except TypeError:  # half a character, an integer beyond 64 bits
        return json.dumps(line, default=str)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
