"""What a load did, and how it was to be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from eventbus.errors import counted

Existing = Literal["update", "keep", "fail", "replace"]
"""What becomes of a record whose key is in the database already."""

WINDOW: Final = 5_000
"""Records gathered before they are written."""
WINDOW_BYTES: Final = 4 << 20
"""The same by the memory that they may take, at least."""
MAX_ERRORS: Final = 20


@dataclass(slots=True)
class Loaded:
    """What a load did: records in all and by model name, the files they came from, and records left out on request.

    `kept` of the records were there already and are as they were (`existing="keep"`); `deleted` rows were not in the
    files (`existing="replace"`). `size` counts bytes of JSON so far, of `total` (0: not known). With `commit_every` the
    first `committed` records of the files are there for good, and `resume` goes on behind them. `triggered` tables have
    triggers of their own, which may have changed what was loaded. `untold` rows and links went of which `publish` told
    nothing. With `dry_run` nothing of it was kept.
    """

    objects: int = 0
    files: int = 0
    skipped: int = 0
    kept: int = 0
    deleted: int = 0
    published: int = 0
    untold: int = 0
    size: int = 0
    total: int = 0
    committed: int = 0
    resume: str = "0"
    dry_run: bool = False
    models: Counter[str] = field(default_factory=Counter)
    triggered: dict[str, None] = field(default_factory=dict)

    def add(self, other: Loaded) -> None:
        """Count what another load did too."""
        for name in ("objects", "skipped", "kept", "deleted", "published", "untold", "size"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.files = max(self.files, other.files)
        self.models.update(other.models)
        self.triggered |= other.triggered

    @property
    def share(self) -> float | None:
        """The part of the work that is done; None where that is not known."""
        return self.size / self.total if self.total else None

    def warnings(self) -> Iterator[str]:
        """What whoever asked for the load should know beside its numbers."""
        if self.untold:
            yield f"{counted(self.untold, 'row')} deleted, which is not published: `eventbus compare --heal` tells it"
        for table in self.triggered:
            yield f"table {table} has a trigger, which may have changed what was loaded"

    def __str__(self) -> str:
        kept = f", kept {self.kept} that were there" if self.kept else ""
        deleted = f", deleted {self.deleted} that were not in the files" if self.deleted else ""
        left_out = f" ({self.skipped} of other models left out)" if self.skipped else ""
        published = f", published {self.published}" if self.published else ""
        verb = "Checked and did not keep" if self.dry_run else "Installed"
        done = f"{verb} {self.objects - self.kept} object(s) from {self.files} fixture(s)"
        return f"{done}{kept}{deleted}{published}{left_out}"


@dataclass(frozen=True, slots=True)
class Options:
    """How a load is to be done."""

    existing: Existing = "update"
    ignore_nonexistent: bool = False
    exclude: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    progress: Callable[[Loaded], None] | None = None
    max_errors: int = MAX_ERRORS
    window: int = WINDOW
    without_transactions: bool = False
    keep_keys: bool = False


def adding(total: Loaded, progress: Callable[[Loaded], None] | None) -> Callable[[Loaded], None] | None:
    """What tells the progress of a part as that of the whole."""
    if progress is None:
        return None

    def tell(part: Loaded) -> None:
        so_far = replace(total, models=total.models.copy())
        so_far.add(part)
        progress(so_far)

    return tell
