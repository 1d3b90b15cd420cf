"""Who gave a field its value: the transaction that changed it, which is not always the one where documents differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, Final, NamedTuple

from consumers.history.reading.history import History
from consumers.history.reading.transaction import Transaction
from consumers.history.store.rows import Version

NOTHING: Final = object()
"""There was no such field, or no record."""


class Cause(NamedTuple):
    """A value and where it comes from. `before` is what it was, `NOTHING` where there was none.

    `sure` is False where the value was seen first in this transaction, which did not set it: a trigger, an event that
    is lost, or what the record was when its history began. `ignored` are later transactions whose event carried another
    value, which they had not set: from an old copy of the row (`stale`), or one nobody knows (`unseen`).
    """

    value: Any
    before: Any
    transaction: Transaction
    version: int
    op: str
    sure: bool
    ignored: Sequence[tuple[Transaction, str, Any]] = ()


def causes(history: History, path: str, field: str) -> Iterator[Cause]:
    """Who set this field of this record, the latest first."""
    ignored: list[tuple[Transaction, str, Any]] = []
    for version, older in pairwise(chain(history.walk(path), [None])):
        assert version is not None
        before = NOTHING if older is None else _value(older, field)
        if version.content is not None and field in version.step.strangers:
            kind, value = version.step.strangers[field]
            ignored.append((history.transaction(version.step.position), kind, value))
        value = _value(version, field)
        if value is NOTHING and before is NOTHING:
            continue
        if _is_doing(version, field) or (value is not before and value != before):
            step = version.step
            sure = _is_doing(version, field) and step.op != "r"
            transaction = history.transaction(step.position)
            yield Cause(value, before, transaction, step.version, step.op, sure, tuple(ignored))
            ignored = []


def _is_doing(version: Version, field: str) -> bool:
    step = version.step
    if step.op in "cd":
        return True
    return step.op == "u" and field in (step.changed or ())


def _value(version: Version, field: str) -> Any:
    return version.content.fields.get(field, NOTHING) if version.content is not None else NOTHING
