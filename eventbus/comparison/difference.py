"""What a comparison finds and counts: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from eventbus.comparison.mirror import STUB, Held
from eventbus.comparison.rows import Row

Kind = Literal["missing", "extra", "different"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One record that is not in the mirror as the database has it.

    `missing`: the mirror has no record of the row. `extra`: the database has no row of the record. `different`:
    `fields` are the names of those that differ. `reason` says why the row cannot be published, where that is so.
    """

    kind: Kind
    model: str
    pk: Any
    fields: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(slots=True)
class Tally:
    """How far a comparison is, and what it has found.

    `objects`: rows read. `in_flight`: records that differed to the last, while their events were still on the way.
    `healed`: differences that are gone after they were published. `problems`: what stood against healing, by record.
    """

    objects: int = 0
    share: float | None = None
    missing: int = 0
    extra: int = 0
    different: int = 0
    in_flight: int = 0
    published: int = 0
    healed: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        """All differences."""
        return self.missing + self.extra + self.different

    @property
    def is_equal(self) -> bool:
        """Whether the mirror is, at the end, what the database is."""
        return self.found == self.healed and not self.in_flight


def difference(model: str, pk: Any, row: Row | None, held: Held | None, quiet: Sequence[str]) -> Difference | None:
    """How they differ; None where they do not. Fields in `quiet` stay home, so they never count."""
    if row is None:
        return None if held is None else Difference("extra", model, pk)
    if held is None:
        return Difference("missing", model, pk, reason=row.reason)
    if row.content == held.content:
        return None
    ours, theirs = _fields(row.content), _fields(held.content)
    names = tuple(
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in quiet and (name not in ours or name not in theirs or not _same(ours[name], theirs[name]))
    )
    alike = not names and STUB not in (row.content, held.content)
    return None if alike else Difference("different", model, pk, names, row.reason)


def _fields(content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(content + b"\n}")["fields"] if content else {}
    return found


def _same(ours: Any, theirs: Any) -> bool:
    """As JSON: true is not 1."""
    return orjson.dumps(ours, option=orjson.OPT_SORT_KEYS) == orjson.dumps(theirs, option=orjson.OPT_SORT_KEYS)
