"""What is told of a dump: plain values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Dumped:
    """What a dump holds: records in all and by model name, and the columns that are not in it, with the reason.

    `incomplete` are those of them that nobody asked to leave out; `broken` records were left out with `skip_broken`.
    `absent` are the primary keys that were asked for and are not there.
    `total` is how many records there are to be.
    """

    objects: int = 0
    total: int = 0
    models: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    absent: list[Any] = field(default_factory=list)

    @property
    def share(self) -> float | None:
        """The part of the work that is done; None where that is not known."""
        return self.objects / self.total if self.total else None

    def __str__(self) -> str:
        left_out = f", left out {len(self.broken)} that cannot be read" if self.broken else ""
        return f"Dumped {self.objects} object(s) of {len(self.models)} model(s){left_out}"
