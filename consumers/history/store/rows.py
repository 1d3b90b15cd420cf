"""Rows of the history's file as Python knows them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from consumers.history.store import deltas
from consumers.history.store.content import Content

CHANGES: Final = (
    "SELECT change.position, version, op, whole, names.names, aside, body "
    "FROM change LEFT JOIN names ON names.id = changed WHERE record = ? ORDER BY version DESC"
)
"""A record's changes, newest first; each row goes into `Step`."""


class Step(NamedTuple):
    """One version of a record, and the way back to the one before. `stated` are the changed fields, where noted."""

    position: int
    version: int
    op: str
    whole: int
    stated: str | None
    aside: bytes | None
    body: bytes | None

    @property
    def changed(self) -> frozenset[str] | None:
        """The fields the transaction changed; None is all of them."""
        if self.op in "crd":
            return None
        return frozenset(orjson.loads(self.stated)) if self.stated is not None else deltas.names(self.body)

    @property
    def vouched(self) -> frozenset[str] | None:
        """The fields whose values are certain at this version; None is all of them."""
        return None if self.whole else self.changed

    @property
    def strangers(self) -> dict[str, list[Any]]:
        """Fields in which the event said something that is not its doing: `stale` or `unseen`, and the value."""
        return orjson.loads(self.aside) if self.aside else {}


class Version(NamedTuple):
    """A step and the content it leads to."""

    step: Step
    content: Content | None
