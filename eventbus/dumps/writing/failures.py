"""What is wrong with the records of a load: gathered up to a limit, told with the place of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from eventbus.dumps.reading.places import Places
from eventbus.dumps.reading.sources import LONGEST_PATH
from eventbus.dumps.rows.groups import Origin
from eventbus.errors import LoadError
from eventbus.redaction import shown

_REFERENCE: Final = re.compile(r"[^:]* (?:refers to no|is wanted by) ")
"""A reason that begins with the names of its fields."""
LONGEST: Final = 1_000
"""Characters of a reason that are shown."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One record that cannot be loaded. `origin` is None where no record of a file is to blame."""

    origin: Origin | None
    reason: str
    field: str | None = None
    cause: BaseException | None = None
    model: str | None = None
    pk: Any = None


def _forget_frames(error: BaseException | None) -> None:
    """Let go of a traceback, which holds the values of its frames: a record may be large."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class Failures:
    """Gathers failures; `add` raises the error when there are as many as may be told."""

    def __init__(self, limit: int, places: Places) -> None:
        self.limit = max(1, limit)
        self._places = places
        self._found: list[Failure] = []
        self.lost: set[tuple[Any, Any]] = set()
        """The tables and keys of rows that are not there since their record is wrong: what refers to them is right."""

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, failure: Failure) -> None:
        """Note a failure. Raises LoadError if it is the last that is told."""
        self._found.append(replace(failure, cause=None) if self._found else failure)
        _forget_frames(failure.cause)
        if len(self._found) >= self.limit:
            raise self.error() from failure.cause

    def check(self) -> None:
        """Raise LoadError if there is any failure."""
        if self._found:
            raise self.error() from self._found[0].cause

    def error(self) -> LoadError:
        """One error for all."""
        files = {each.origin[0]: None for each in self._found if each.origin is not None}
        order = {path: place for place, path in enumerate(files)}
        found = sorted(
            self._found, key=lambda each: (order[each.origin[0]], each.origin[1]) if each.origin else (-1, 0)
        )
        errors = [self._error(each) for each in found]
        if len(errors) == 1:
            return errors[0]
        first = errors[0]
        message = "\n".join(str(each) for each in errors)
        if len(errors) >= self.limit:
            message += f"\nand perhaps more: these are the first {len(errors)} (--max-errors)"
        return LoadError(
            message,
            path=first.path,
            model=first.model,
            pk=first.pk,
            record=first.record,
            line=first.line,
            field=first.field,
            errors=errors,
        )

    def _error(self, failure: Failure) -> LoadError:
        reason = shown(failure.reason, LONGEST)
        if failure.field is not None and not (reason.startswith(failure.field) and _REFERENCE.match(reason)):
            reason = f"field {failure.field!r}: {reason}"
        if failure.origin is None:
            return LoadError(
                f"{shown(str(failure.model))} {shown(repr(failure.pk))}, in the database: {reason}",
                model=failure.model,
                pk=failure.pk,
                field=failure.field,
            )
        path, number, model, pk = failure.origin
        line = self._places.line(path, number)
        where = f"(record {number}{f', line {line}' if line else ''})"
        what = f"{shown(model)} {shown(repr(pk))}: " if model else ""
        return LoadError(
            f"{shown(path, LONGEST_PATH)}: {what}{reason} {where}",
            path=path,
            model=model or None,
            pk=pk,
            record=number,
            line=line,
            field=failure.field,
        )
