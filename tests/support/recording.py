"""The listeners with nothing behind them: what a Session's commits would publish, as plain values.

Bytes go through the real encoder and are decoded again; only outbox and broker are missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Engine, Select, select

from eventbus.events.envelope import Batch, Event, decode
from eventbus.listeners import base, targets
from eventbus.listeners.auto_fields import AutoFields
from eventbus.listeners.base import Listener
from eventbus.listeners.capture import Capture
from eventbus.listeners.committing.encoding import Encoder
from eventbus.listeners.committing.transaction import Transactions
from eventbus.listeners.statements.bulk import Bulk
from eventbus.listeners.statements.omissions import Mode
from eventbus.records.columns import stored
from eventbus.records.entities import Entities
from eventbus.records.entity import Entity


class Written(NamedTuple):
    """One `write`: the connection it was for, and the batch."""

    connection: Connection
    batch: Batch


class RecordingSink:
    """A sink that keeps what it is given. `fail` is raised at the next write or submit of that name."""

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.submitted: list[Written] = []
        self.doubted: list[Written] = []
        self.fail: dict[str, Exception] = {}

    def write(self, connection: Connection, batch: Batch, *, committing: bool) -> list[Written]:
        if "write" in self.fail:
            raise self.fail.pop("write")
        assert connection.in_transaction()
        self.written.append(Written(connection, batch))
        return [self.written[-1]]

    def submit(self, entries: Sequence[Written]) -> None:
        if "submit" in self.fail:
            raise self.fail.pop("submit")
        self.submitted += entries

    def doubt(self, entries: Sequence[Written]) -> None:
        self.doubted += entries


class Recording:
    """An installation on `target` whose events are kept. Make it with `record`; `uninstall` ends it."""

    def __init__(
        self,
        target: Any,
        *,
        author: Callable[[], Any] | None = None,
        auto_fields: bool | AutoFields = True,
        listeners: Sequence[Listener] = (),
        bulk: Mode = "capture",
        policy: Any = "fail",
        max_bytes: int = 1 << 20,
        reread: bool = False,
        **entities: Any,
    ) -> None:
        self.sink = RecordingSink()
        self.entities = Entities("crm", **entities)
        self.capture = Capture(self.entities, author=author)
        stamps = auto_fields if isinstance(auto_fields, AutoFields) else None
        if auto_fields is True:
            stamps = AutoFields(author=self.capture.author)
        self.target = targets.resolve(target)
        encoder = Encoder("crm", policy=policy, max_bytes=max_bytes)
        self._remove = base.register(
            self.target.session_class,
            auto_fields=stamps,
            capture=self.capture,
            bulk=Bulk(self.capture, bulk),
            transaction=Transactions(self.capture, encoder, self.sink, listeners=listeners, reread=reread),
            others=listeners,
        )

    def uninstall(self) -> None:
        """Take the listeners away again."""
        self._remove()
        self.target.release()

    @property
    def events(self) -> list[Event]:
        """All events of committed transactions so far, decoded, in order."""
        return [
            decode(message.body)
            for version, entry in enumerate(self.sink.submitted, 1)
            for message in Batch(version, *_parts(entry.batch)).messages()
        ]

    def take(self) -> list[Event]:
        """The events since the last `take`."""
        events = self.events
        self.sink.submitted.clear()
        return events

    def short(self) -> list[tuple[str, str]]:
        """The events since the last `take`, each as operation and subject."""
        return [(event.op, event.subject) for event in self.take()]


def _parts(batch: Batch) -> tuple[str, list[str], list[bytes], int]:
    return batch.transaction, batch.keys, batch.bodies, batch.first_index


Store = dict[tuple[str, str], Any]
"""Records as a mirror has them: entity and key as JSON, to the fields."""


def replay(events: Sequence[Event], store: Store) -> Store:
    """Apply events to a store as a strict mirror would: nothing is created twice, nothing absent is changed.

    What they tell of the old record has to be what the store holds: one writer at a time, with nothing stale, has no
    excuse.
    """
    seen: dict[Any, int] = {}
    for event in events:
        key = (event.entity, json.dumps(event.pk))
        assert event.transaction["index"] >= seen.get(event.transaction["id"], 0), f"{event.id} is out of order"
        seen[event.transaction["id"]] = event.transaction["index"] + 1
        if event.op == "c":
            assert key not in store, f"{key} was created twice"
            store[key] = event.after
            continue
        assert key in store, f"{key} was changed or deleted without being there"
        old = store.pop(key)
        assert event.before is not None
        assert {**old, **event.before} == old, f"{key}: {event.before} was never so: {old}"
        if event.op == "u":
            check_changed(event, old)
            store[key] = event.after
    return store


def check_changed(event: Event, old: Mapping[str, Any]) -> None:
    """An update names all fields that differ, none twice, and none that is known not to; what changed was written.

    Times may look alike that are not: MariaDB cuts off fractions of a second.
    """
    before, after, changed = event.before or {}, event.after or {}, set(event.changed)
    assert len(event.changed) == len(changed), event
    assert event.written or event.whole, event
    assert event.whole or changed <= set(event.written), event
    assert before.keys() <= changed, event
    assert {name for name in after if after[name] != old.get(name)} <= changed, (event, old)
    alike = {name for name in before if name in after and before[name] == after[name]}
    assert alike <= {"created_at"}, event


def tables(recording: Recording, engine: Engine) -> Store:
    """What a mirror should hold: every row of every captured table, through the same serialisers."""
    store: Store = {}
    with engine.connect() as connection:
        for entity in recording.entities:
            if entity.mapper is not None and entity.mapper.polymorphic_identity is not None:
                rows = connection.execute(_of_class(entity)).all()
            else:
                rows = connection.execute(select(*map(stored, entity.columns))).all()
            serializer = entity.serializer(engine.dialect)
            for row in rows:
                key = (entity.name, json.dumps(serializer.pk(tuple(row))))
                store[key] = json.loads(orjson.dumps(serializer.after(tuple(row))))
    return store


def _of_class(entity: Entity) -> Select[Any]:
    mapper = entity.mapper
    assert mapper is not None
    statement = select(*map(stored, entity.columns)).select_from(mapper.persist_selectable)
    if mapper.polymorphic_on is not None:
        statement = statement.where(mapper.polymorphic_on == mapper.polymorphic_identity)
    return statement
