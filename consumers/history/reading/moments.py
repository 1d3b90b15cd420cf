"""A moment as a length of the log: every question about the past begins with it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from consumers.base.reading.moments import moment
from consumers.history.reading import past
from consumers.history.reading.history import History
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.settings import HISTORY_FILE
from eventbus.errors import ConfigurationError
from eventbus.redaction import shown

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def at_time(history: History, microseconds: int) -> int:
    """The longest beginning of the log in which no transaction is from after this moment; 0 is none of it.

    Within one outbox it is whole: who has seen another's commit comes after it.
    """
    later = history.query("SELECT min(position) FROM tx WHERE time > ?", microseconds)[0][0]
    return int(history.notes.position if later is None else later - 1)


def at_transaction(history: History, id: str) -> int:
    """The log up to this transaction, with all its parts and what lies between them."""
    return history.parts(id)[-1].position


def at_position(history: History, position: int) -> int:
    """The log up to this number."""
    return history.transaction(position).position if position else 0


def records(
    data_dir: Path, at: str | None = None, tx: str | None = None, position: int | None = None
) -> Iterator[dict[str, Any]]:
    """All records of a mirror as they were, as a dump has them: at a time, after a transaction, or at a position.

    For `eventbus loaddata`. Raises HistoryUnavailable, NotInHistory, and ConfigurationError where the position is
    inside a transaction: the snapshot at the beginning is one, in parts of 5,000 records.
    """
    with History(data_dir / PRIVATE / HISTORY_FILE) as history:
        if at is not None:
            found = at_time(history, parse(at))
        elif tx is not None:
            found = at_transaction(history, tx)
        else:
            found = _between(history, at_position(history, position or 0))
        for record in past.records(history, found):
            yield record.dumped()


def _between(history: History, position: int) -> int:
    """The position, if a transaction ends there. Between two parts of one, foreign keys may lead nowhere."""
    here, end = history.at(position), position
    while here is not None and (following := history.at(end + 1)) is not None and following.id == here.id:
        end += 1
    if end != position:
        raise ConfigurationError(
            f"position {position} is inside a transaction, which was no state of the database: ask for position {end}"
        )
    return position


def parse(text: str) -> int:
    """ISO 8601 as microseconds since 1970; without an offset it is UTC. Raises ConfigurationError."""
    at = moment(text)
    if at is None:
        raise ConfigurationError(f"{shown(text, 80)!r} is no time: write 2026-11-23, 2026-11-23T08:00:00Z or the like")
    return (at - _EPOCH) // timedelta(microseconds=1)
