"""One event as the history needs it: what it says of which record, and of which transaction it is a part."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson

from consumers.json_mirror import filenames
from eventbus.events.envelope import LONGEST_TEXT, Event
from eventbus.events.notes import MAX_NOTE, MAX_NOTES

_LARGEST: Final = 1_000_000_000
"""Events of a transaction; what says more says nothing."""


class Fact(NamedTuple):
    """What one transaction did to one record.

    `record` is its file relative to DATA_DIR. `changed` are the fields whose change is this transaction's doing, those
    it wrote with their old value among them. `whole` says that all of `fields` is certain, not only what was changed.
    `size` is what the event knew of the transaction's size when it was made. `source` is its number in the journal.
    """

    record: str
    model: str
    pk: Any
    version: int
    op: str
    fields: Mapping[str, Any] | None
    stub: Mapping[str, Any] | None
    changed: frozenset[str]
    whole: bool
    transaction: str
    size: int
    author: str | None
    time: str
    trace: str | None
    notes: Mapping[str, Any] | None
    source: int = 0

    @property
    def vouched(self) -> frozenset[str]:
        """Names of the fields whose values are certain."""
        return frozenset(self.fields or ()) if self.whole else self.changed


def fact_of(event: Event, source: int = 0) -> Fact:
    """The event, without what the history does not keep."""
    service, _, entity = event.model.partition(".")
    transaction = event.transaction
    size, id, notes = transaction.get("size"), transaction.get("id"), transaction.get("notes")
    return Fact(
        record=f"{filenames.directory(service, entity)}/{filenames.filename(event.pk)}",
        model=event.model,
        pk=event.pk,
        version=event.version,
        op=event.op,
        fields=event.after,
        stub=event.stub,
        changed=frozenset(event.changed).union(event.written),
        whole=event.whole,
        transaction=id if isinstance(id, str) and 0 < len(id) <= LONGEST_TEXT else event.id,
        size=size if type(size) is int and 0 < size <= _LARGEST else 1,
        author=event.author and event.author[:LONGEST_TEXT],
        time=event.time,
        trace=event.traceparent and event.traceparent[:LONGEST_TEXT],
        notes=_noted(notes) if isinstance(notes, Mapping) and notes else None,
        source=source,
    )


def _noted(notes: Mapping[str, Any]) -> dict[str, Any]:
    """As much as `eventbus.annotate` would have taken; of what is no text, its JSON."""
    texts = ((name, text if isinstance(text, str) else orjson.dumps(text).decode()) for name, text in notes.items())
    return {name[:MAX_NOTE]: text[:MAX_NOTE] for name, text in islice(texts, MAX_NOTES)}


def folded(earlier: Fact, later: Fact) -> Fact:
    """Two changes of one record in one transaction are one, the later; it answers for what both of them changed."""
    if later.op in "cdr":
        return later
    op = earlier.op if earlier.op in "cr" else later.op
    whole = later.whole or earlier.op in "cr"
    fields = later.fields
    if earlier.fields and fields and not later.whole:
        known = {name: earlier.fields[name] for name in earlier.vouched - later.vouched if name in earlier.fields}
        fields = {**fields, **{name: value for name, value in known.items() if name in fields}}
    return later._replace(op=op, whole=whole, fields=fields, changed=earlier.changed | later.changed)
