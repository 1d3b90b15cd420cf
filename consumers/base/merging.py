"""Field by field: what a record is after events that came in any order, some of them twice.

    records[event.subject] = merge(records.get(event.subject), event)

An event shows the whole record and vouches for some of it (docs/events.md, "What an event vouches for"). A field has
the value of the highest version that vouches for it; a deletion, or an event that vouches for all, leaves nothing of
what is older. What nobody vouches for is as the newest event shows it. So the result follows from the set of events
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, final

import orjson

Fields = Mapping[str, Any]


class Telling(Protocol):
    """As much of an `Event` as merging looks at; the attributes mean what they mean there."""

    @property
    def version(self) -> int: ...

    @property
    def after(self) -> Fields | None: ...

    @property
    def whole(self) -> bool: ...

    @property
    def written(self) -> Sequence[str]: ...

    @property
    def stub(self) -> Fields | None: ...


class Told(NamedTuple):
    """What an event tells of a record."""

    version: int
    after: Fields | None
    written: Sequence[str] = ()
    whole: bool = False
    stub: Fields | None = None


@final
class Merged:
    """A record, merged from the events so far. Never changed: `merge` makes another.

    `version` is the highest so far. `stub` says why the newest event could not tell more than the key (see `Event`).

    Of what merging needs: `base` is the version of the last event that vouched for all, or 0. `vouched` holds the
    values somebody vouches for. `parts` has the versions that differ from `base`: of a field that was written later
    (which may have gone then); negative for one whose value a stub took back. `after` is what the newest event shows.
    """

    __slots__ = ("after", "base", "parts", "stub", "version", "vouched")

    def __init__(
        self,
        version: int,
        base: int,
        vouched: Fields,
        parts: Mapping[str, int],
        *,
        after: Fields | None,
        stub: Fields | None = None,
    ) -> None:
        self.version = version
        self.base = base
        self.vouched = vouched
        self.parts = parts
        self.after = after
        self.stub = stub

    def __repr__(self) -> str:
        return f"<Merged {self.version} {'deleted' if self.deleted else self.fields}>"

    @property
    def deleted(self) -> bool:
        """Whether the record is gone. Remember it all the same: a late update must not bring it back."""
        return self.after is None

    @property
    def fields(self) -> Fields | None:
        """The record; None once it is deleted, its key alone while it is a stub."""
        if self.after is None or self.stub or self.after is self.vouched:
            return self.after
        shown = {**self.after, **self.vouched}
        for name, version in self.parts.items():
            if version > 0 and name not in self.vouched:
                shown.pop(name, None)
        return shown

    @property
    def rest(self) -> bytes | None:
        """What has to be kept beside `version`, `fields` and `stub`, as JSON; None where these say it all.

        They do unless the record was changed since it was last told as a whole.
        """
        if self.base == self.version or self.after is None:
            return None
        rest: dict[str, Any] = {"base": str(self.base), "parts": {name: str(n) for name, n in self.parts.items()}}
        if self.stub:
            rest["vouched"] = self.vouched
        elif self.after is not self.vouched:
            rest.update(self._differences(self.after))
        return orjson.dumps(rest)

    def _differences(self, after: Fields) -> dict[str, Any]:
        """By which `restore` finds `vouched` and `after` in `fields`; mostly there are none."""
        vouched = self.vouched
        found = {
            "guessed": [name for name in after if name not in vouched and self.parts.get(name, 0) <= 0],
            "hidden": {
                name: value
                for name, value in after.items()
                if (vouched[name] != value if name in vouched else self.parts.get(name, 0) > 0)
            },
            "lacking": [name for name in vouched if name not in after],
        }
        return {key: value for key, value in found.items() if value}

    @classmethod
    def restore(
        cls, version: int, fields: Fields | None, stub: Fields | None = None, rest: bytes | None = None
    ) -> Merged:
        """The record that was kept with these `version`, `fields`, `stub` and `rest`."""
        if rest is None or fields is None:
            return cls(version, version, {} if stub or fields is None else fields, {}, after=fields, stub=stub)
        more = orjson.loads(rest)
        parts = {name: int(number) for name, number in more["parts"].items()}
        if stub:
            return cls(version, int(more["base"]), more["vouched"], parts, after=fields, stub=stub)
        if len(more) == 2:
            return cls(version, int(more["base"]), fields, parts, after=fields)
        guessed, lacking = more.get("guessed", ()), more.get("lacking", ())
        vouched = {name: value for name, value in fields.items() if name not in guessed}
        after = {name: value for name, value in fields.items() if name not in lacking} | more.get("hidden", {})
        return cls(version, int(more["base"]), vouched, parts, after=after)


_NOTHING: Final = Merged(-1, 0, {}, {}, after=None)


def merge(known: Merged | None, event: Telling) -> Merged:
    """What a record is with this event, too; `known` itself where the event says nothing new.

    `known` is what this gave for the record's earlier events, in whatever order they came; None before the first. Keep
    deleted records as well, as long as older events of theirs may still be on their way.
    """
    if known is None:
        known = _NOTHING
    elif event.version <= known.base:
        return known
    if event.whole:
        return _with_whole(known, event)
    return _with_part(known, event)


def _with_whole(known: Merged, event: Telling) -> Merged:
    """An event that vouches for all, be it that the record is gone, or that nothing is known of it (a stub)."""
    version, after, stub = event.version, event.after, event.stub
    base: Fields = {} if stub or after is None else after
    if version >= known.version:
        return Merged(version, version, base, {}, after=after, stub=stub)
    vouched, parts = dict(base), {name: n for name, n in known.parts.items() if abs(n) > version}
    for name, later in parts.items():
        vouched.pop(name, None)
        if later > 0 and name in known.vouched:
            vouched[name] = known.vouched[name]
    return Merged(known.version, version, vouched, parts, after=known.after, stub=known.stub)


def _with_part(known: Merged, event: Telling) -> Merged:
    """An update that vouches for what it wrote; one that is a stub takes that back."""
    version, after, stub = event.version, event.after or {}, event.stub
    vouched, parts, base, news = dict(known.vouched), dict(known.parts), known.base, False
    for name in event.written:
        if abs(parts.get(name, base)) >= version:
            continue
        news = True
        parts[name] = -version if stub else version
        if stub or name not in after:
            vouched.pop(name, None)
        else:
            vouched[name] = after[name]
    if version > known.version:
        # Mostly nobody raced, and the newest event shows what is vouched for.
        same = vouched == after and not stub
        return Merged(version, base, after if same else vouched, parts, after=after, stub=stub)
    return Merged(known.version, base, vouched, parts, after=known.after, stub=known.stub) if news else known


def retold(record: Merged) -> Iterator[Told]:
    """The fewest events from which somebody who knows nothing of the record makes it, and goes on merging rightly.

    Mostly one. Each has the version it must have for what others have heard meanwhile, or will hear late.
    """
    version, fields = record.version, record.fields
    if record.base == version or fields is None:
        yield Told(version, record.after, whole=True, stub=record.stub)
        return
    if record.base:
        yield Told(record.base, record.vouched, whole=True)
    unknown = record.stub or {"reason": "unknown", "field": None}
    for number in sorted({version, *map(abs, record.parts.values())}):
        written = [name for name, at in record.parts.items() if abs(at) == number]
        taken_back = any(record.parts[name] < 0 for name in written)
        if number == version:
            yield Told(version, record.after, written, stub=record.stub)
        else:
            yield Told(number, record.vouched, written, stub=unknown if taken_back else None)
