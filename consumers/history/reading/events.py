"""Changes of the log as events once more, for readers who come later than the events did."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

import orjson

from consumers.history.reading.history import History
from consumers.history.reading.transaction import Touch, Transaction
from consumers.history.store import chain
from consumers.history.store.content import Content, identify
from eventbus.events import naming
from eventbus.events.envelope import VERSION_DIGITS

_CHUNK: Final = 200


class Told(NamedTuple):
    """One change. `body` is an event, sealed; `record` is the record's path in the mirror."""

    position: int
    record: str
    version: int
    routing_key: str
    body: bytes


def told(history: History, after: int) -> Iterator[Told]:
    """What happened behind this position, in the order of the log.

    The bodies are events as `envelope.decode` reads them, with two differences. An id is the transaction's with the
    record, since the history keeps no event's own. `before` has all changed fields that the history knows.
    """
    contents = _Contents(history, after)
    while transactions := history.log(after, _CHUNK):
        for transaction in transactions:
            for touch in history.touches(transaction.position):
                before, now = contents.around(touch)
                yield _told(transaction, touch, before, now)
        after = transactions[-1].position


class _Contents:
    """What each record held around each of its changes behind a position; each change is asked for once.

    A record's versions are kept from its first change on and go as they are asked for.
    """

    def __init__(self, history: History, after: int) -> None:
        self._history = history
        self._after = after
        self._known: dict[str, dict[int, tuple[Content | None, Content | None]]] = {}

    def around(self, touch: Touch) -> tuple[Content | None, Content | None]:
        """Before the change, and after it."""
        known = self._known.get(touch.path)
        if known is None or touch.step.version not in known:  # not met yet, or changed while this is read
            known = self._known[touch.path] = self._read(touch.path)
        if touch.step.version not in known:
            raise touch.step.damaged("the record's own list of versions does not have it")
        found = known.pop(touch.step.version)
        if not known:
            del self._known[touch.path]
        return found

    def _read(self, path: str) -> dict[int, tuple[Content | None, Content | None]]:
        record = self._history.record(path)
        steps = self._history.steps(path, record.id)
        oldest = max((index for index, step in enumerate(steps) if step.position > self._after), default=0)
        versions = list(chain.versions(record.content, steps[: oldest + 2]))
        found = {newer.step.version: (older.content, newer.content) for newer, older in pairwise(versions)}
        if versions and len(steps) == oldest + 1:
            found[versions[-1].step.version] = None, versions[-1].content
        return found


def _told(transaction: Transaction, touch: Touch, before: Content | None, now: Content | None) -> Told:
    model, pk = identify(touch.path, touch.key)
    service, _, entity = model.partition(".")
    step = touch.step
    key = naming.routing_key(service, entity, step.op)
    subject = naming.subject(entity, pk)
    event = {
        "specversion": "1.0",
        "id": f"{transaction.id}-{subject}"[:300],
        "source": f"/{service}",
        "type": key,
        "subject": subject,
        "time": transaction.when,
        "datacontenttype": "application/json",
        "partitionkey": subject,
        "sequence": f"{step.version:0{VERSION_DIGITS}d}",
        "correlationid": transaction.id,
        "data": {"op": step.op, "model": model, "pk": pk, **_values(touch, before, now), **_of(transaction)},
    }
    return Told(transaction.position, touch.path, step.version, key, orjson.dumps(event))


def _values(touch: Touch, before: Content | None, now: Content | None) -> dict[str, Any]:
    op, changed = touch.step.op, touch.step.changed
    old = dict(before.fields) if before is not None else {}
    if op == "u":
        old = {name: value for name, value in old.items() if changed is None or name in changed}
    told: dict[str, Any] = {
        "before": old if op in "ud" else None,
        "after": None if op == "d" or now is None else now.fields,
        "changed": sorted(changed or ()) if op == "u" else [],
    }
    if now is not None and now.stub is not None:
        told["stub"] = now.stub
    return told


def _of(transaction: Transaction) -> dict[str, Any]:
    told = {"id": transaction.id, "size": transaction.size}
    return {
        "author": transaction.author,
        "transaction": {**told, "notes": transaction.notes} if transaction.notes else told,
    }
