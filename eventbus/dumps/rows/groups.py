"""Rows that wait to be written: of one table, with one set of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Column, Table

from eventbus.dumps.forms import Form
from eventbus.dumps.rows.defaults import Default
from eventbus.dumps.targets import Part, Target

Role = Literal["record", "part", "link"]
"""What a row is: the record; a part of it that others may fill as well; a link of a list."""
Origin = tuple[str, int, str, Any]
"""A record's file, its number in it (from 1), its model and primary key."""


@dataclass(slots=True, eq=False)
class Group:
    """Rows for one table with one set of columns, waiting to be written.

    A row has the values of `columns`, in that order. By those at the places `key` a row that is there already is known;
    without any it is always a new one. `partial` rows lack columns that a new row needs.
    """

    target: Target
    part: Part
    columns: tuple[Column[Any], ...]
    forms: tuple[Form, ...]
    key: tuple[int, ...]
    defaults: tuple[Default, ...] = ()
    role: Role = "record"
    partial: bool = False
    counted: bool = True
    naturals: tuple[int, ...] = ()
    """Places where a row may have a natural key that is to be looked up."""
    lacking: tuple[str, ...] = ()
    """Parts of the key that the rows do not have, and of which the database would make NULL without an error."""
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    """Where each row comes from, for errors."""

    @property
    def table(self) -> Table:
        """The table the rows are for."""
        return self.part.table

    def taken(self) -> tuple[list[tuple[Any, ...]], list[Origin]]:
        """The rows and their origins; the group is empty afterwards."""
        rows, origins = self.rows, self.origins
        self.rows, self.origins = [], []
        return rows, origins

    def key_of(self, row: Sequence[Any]) -> tuple[Any, ...]:
        """By which an existing row is known."""
        return tuple(row[place] for place in self.key)
