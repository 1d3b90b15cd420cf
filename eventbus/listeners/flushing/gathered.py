"""What one flush did, until all of it is known: what went away, what came, and what statements did meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eventbus.errors import CaptureError
from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.listeners.recording.frame import Frame, Recorded
from eventbus.listeners.recording.ledger import TransactionFrame


class Gathered:
    """What came and what went away goes into the frame at the end, in that order of the two: first what went.

    A key may have gone from one object to another, a link may show on both its sides. `partial`: entities of which
    some row that came is not known as a whole.
    """

    __slots__ = ("created", "deleted", "frame", "linked", "partial", "unlinked")

    def __init__(self, frame: TransactionFrame) -> None:
        self.frame = frame
        self.created: dict[Entity, dict[Key, Values]] = {}
        self.deleted: dict[Entity, dict[Key, dict[str, Any]]] = {}
        self.linked: dict[Entity, dict[Key, Values]] = {}
        self.unlinked: dict[Entity, dict[Key, dict[str, Any]]] = {}
        self.partial: set[Entity] = set()

    def link(
        self,
        entity: Entity,
        gone: Iterable[tuple[Key, dict[str, Any]]],
        came: Iterable[tuple[Key, Values]],
        *,
        partial: bool,
    ) -> None:
        """Rows of a secondary table, of one collection."""
        if gone:
            self.unlinked.setdefault(entity, {}).update(gone)
        if came:
            self.linked.setdefault(entity, {}).update(came)
            if partial:
                self.partial.add(entity)

    def record(self) -> None:
        """Put into the frame what went away, then what came."""
        if self.unlinked or self.deleted:
            self._record_gone()
        for entity, rows in self.created.items():
            self.frame.created_rows(entity, rows, whole=entity not in self.partial)
        for entity, rows in self.linked.items():
            self.frame.created_rows(entity, rows, whole=entity not in self.partial)
        if self.frame.notes:
            self._record_statements()

    def _record_statements(self) -> None:
        """What statements did that events of mappers ran within the flush.

        The objects were flushed without knowing of them: recorded first, the statements' rows would be overwritten by
        what the objects hold.
        """
        notes, self.frame.notes = self.frame.notes, []
        for note in notes:
            done = Frame()
            note(done)
            for entity, records in done.records.items():
                self._reconcile(entity, records)
            self.frame.merge(done)

    def _reconcile(self, entity: Entity, records: dict[Key, Recorded | Values]) -> None:
        """A row that the flush has deleted is gone, whatever a statement did to it before.

        Raises CaptureError where a statement has deleted the row in whose place the flush wrote a new one.
        """
        created, deleted = self.created.get(entity, {}), self.deleted.get(entity, {})
        for pk, record in list(records.items()):
            if isinstance(record, tuple):
                continue
            if record.op == "u" and pk in deleted:
                del records[pk]
                self._recall(entity, pk, deleted[pk], record.before)
            elif record.op == "d" and pk in created and _is_another(entity, record.before, created[pk]):
                raise CaptureError(
                    f"{entity.name}{pk}: a statement has deleted the row within the flush that writes a new one in its "
                    "place, so what became of the record cannot be told. Delete it before the flush, or with "
                    "session.delete()"
                )

    def _recall(self, entity: Entity, pk: Key, seen: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """Where the deleted object knew what the statement had set, what went away is what the statement found."""
        gone = self.frame.records[entity].get(pk)
        if isinstance(gone, Recorded) and gone.op == "d":
            for key, old in before.items():
                if old is not MISSING and key in seen and gone.before.get(key, MISSING) is seen[key]:
                    gone.before[key] = old

    def _record_gone(self) -> None:
        for away in (self.unlinked, self.deleted):
            for entity, gone in away.items():
                for pk, before in gone.items():
                    self.frame.deleted(entity, pk, before)


def _is_another(entity: Entity, before: Mapping[str, Any], created: Values) -> bool:
    """Whether a row that was there is not the one that was made."""
    return any(
        MISSING is not before.get(key, MISSING) != value is not MISSING
        for key, value in zip(entity.keys, created, strict=True)
    )
