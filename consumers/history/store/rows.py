"""Rows of the history's file as Python knows them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from consumers.history.errors import HistoryDamaged
from consumers.history.store import deltas
from consumers.history.store.content import Content
from consumers.history.store.reading import damaged, parsed

CHANGES: Final = (
    "SELECT change.position, version, op, whole, names.names, aside, body "
    "FROM change LEFT JOIN names ON names.id = changed WHERE record = ? ORDER BY version DESC"
)
"""A record's changes, newest first; each row goes into `Step`, behind the record's path."""


class Step(NamedTuple):
    """One version of the record at `path`, and the way back to the one before. What cannot be read is HistoryDamaged.

    `stated` are the changed fields, where noted.
    """

    path: str
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
        if self.stated is not None:
            return frozenset(map(str, parsed(self.stated, list, self._name)))
        try:
            return deltas.names(self.body)
        except ValueError as error:
            raise self.damaged(error) from error

    @property
    def vouched(self) -> frozenset[str] | None:
        """The fields whose values are certain at this version; None is all of them."""
        return None if self.whole else self.changed

    @property
    def strangers(self) -> dict[str, list[Any]]:
        """Fields in which the event said something that is not its doing: `stale` or `unseen`, and the value."""
        found: dict[str, list[Any]] = parsed(self.aside, dict, self._name) if self.aside else {}
        if not all(type(each) is list and len(each) == 2 for each in found.values()):
            raise self.damaged("it is not said in what the event was wrong")
        return found

    def undone(self, newer: Content | None) -> Content | None:
        """What the record was before, where it is `newer` now."""
        try:
            return deltas.undone(newer, self.body)
        except ValueError as error:
            raise self.damaged(error) from error

    @property
    def is_whole(self) -> bool:
        """Whether it leads back without the newer content."""
        try:
            return deltas.is_whole(self.body)
        except ValueError as error:
            raise self.damaged(error) from error

    @property
    def _name(self) -> str:
        return f"{self.path} at position {self.position}, version {self.version},"

    def damaged(self, why: object) -> HistoryDamaged:
        """The error that says so."""
        return damaged(self._name, why)


class Version(NamedTuple):
    """A step and the content it leads to."""

    step: Step
    content: Content | None
