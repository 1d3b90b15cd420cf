"""A transaction as the history tells it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from consumers.history.store.reading import damaged, parsed
from consumers.history.store.rows import Step
from consumers.history.store.writing import text_of

COLUMNS: Final = (
    "tx.position, tx.id, tx.part, tx.service, tx.author, tx.time, tx.trace, tx.notes, tx.size, tx.seen, tx.had, "
    "tx.version, tx.late"
)
"""What `Transaction.of` makes one of."""
_FIRST: Final = -62_135_596_800 * 10**6
_LAST: Final = 253_402_300_800 * 10**6 - 1
"""Microseconds of the years 1 and 9999: what a date can be."""


class Transaction(NamedTuple):
    """A transaction, or a part of one. `position` is its number in the log; `time` is microseconds since 1970.

    `seen` is how many events this part has, `had` those of earlier parts, `size` what there should be in all. `late`
    says that something of a higher version was in the log before it.
    """

    position: int
    id: str
    part: int
    service: str
    author: str | None
    time: int
    trace: str | None
    notes: Mapping[str, Any]
    size: int
    seen: int
    had: int
    version: int
    late: bool

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Transaction:
        """The transaction of a row of COLUMNS. Raises HistoryDamaged."""
        where = f"transaction #{row[0]}"
        try:
            id = text_of(row[1])
        except ValueError as error:
            raise damaged(where, error) from error
        notes = parsed(row[7], dict, where) if row[7] else {}
        return cls(*row)._replace(id=id, notes=notes, late=bool(row[-1]))

    @property
    def is_incomplete(self) -> bool:
        """Whether events were missing when it was sealed."""
        return self.had + self.seen < self.size

    @property
    def when(self) -> str:
        """Its time, RFC 3339 in UTC, to the microsecond."""
        return moment_text(self.time)


class Touch(NamedTuple):
    """What a transaction did to one record: the step, and the record's path and key."""

    path: str
    key: bytes | None
    step: Step


def moment_text(microseconds: int) -> str:
    """RFC 3339 in UTC."""
    seconds, rest = divmod(min(max(microseconds, _FIRST), _LAST), 10**6)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"
