"""DELETE: which rows it took away, and what they held."""

from __future__ import annotations

from eventbus.events.change import Key
from eventbus.listeners.recording.frame import Frame
from eventbus.listeners.statements.execution import Execution, note_deleted
from eventbus.listeners.statements.rows import Known, Row


class DeleteExecution(Execution):
    """The database gives back what it deleted. Where it does not, what was there before and is no more has gone."""

    def prepare(self) -> None:
        self._names = self.hit.names()
        self._keys = self.sent.keys(self.hit) if self.sent.many else None
        self._seen: dict[Key, Row] = {}
        if self.gives_back():
            self.ask(self._names)
            return
        self.hold("delete")
        if self._keys is not None:
            self._seen = self.by_key(self.rows_by_key(self._names, dict.fromkeys(self._keys)))
            return
        for number in range(len(self.sent.parameters)):
            self._seen |= self.by_key(self.look(self._names, self.sent.criteria(number)))

    def finish(self) -> None:
        if self.returning is not None:
            gone = self.taken_away()
        else:
            stay = self.staying(self._seen)
            left = {key: row for key, row in self._seen.items() if key not in stay}
            unseen = set(self._keys or ()) - self._seen.keys()
            if self._keys is not None and self.count >= len(set(self._keys)):
                # Each hit a row: one that was put in the place of another since.
                left |= {key: dict(zip(self.hit.pk_keys, key, strict=True)) for key in unseen}
            self.check_count(len(left))
            gone = self.hit.known(self.connection, list(left.values()))

        self._note(gone)

    def finish_partly(self) -> None:
        stay = self.staying(self._seen)
        self._note(self.hit.known(self.connection, [row for key, row in self._seen.items() if key not in stay]))

    def _note(self, gone: Known) -> None:
        def note(frame: Frame) -> None:
            note_deleted(frame, gone)

        self.record(note)
