"""Logs of the command: a line of JSON each, or, for a person at a terminal, a line of text."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from eventbus.settings import redact

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(level: str = "INFO") -> None:
    """Send what eventbus and its consumers say to standard error. Called by commands only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if sys.stderr.isatty() else JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


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
        return redact(orjson.dumps(line, default=str).decode("utf-8", "replace"))


class TextFormatter(logging.Formatter):
    """`12:34:56 warning disk trouble (reason=No space left on device)`, over a line of progress if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        extra = ", ".join(f"{name}={value}" for name, value in _extra(record).items())
        text = f"\r\x1b[K{clock} {record.levelname.lower()} {record.getMessage()}{f' ({extra})' if extra else ''}"
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        return redact(text)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
