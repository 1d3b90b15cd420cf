"""UPDATE: which rows it changed, and what they held before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventbus.errors import CaptureError
from eventbus.events.change import MISSING, Key
from eventbus.listeners.flushing.plan import is_rewritten, may_mutate
from eventbus.listeners.recording.frame import Frame, differs
from eventbus.listeners.statements.execution import (
    Execution,
    differing,
    note_created,
    note_deleted,
    note_updated,
)
from eventbus.listeners.statements.rows import Known, Lock, Row, look_by
from eventbus.listeners.statements.stability import is_stable, soon, writes


class UpdateExecution(Execution):
    """Where the database gives the changed rows back, these are what was changed: whatever was seen before.

    Old values are read before, under the lock that the UPDATE takes next, where its WHERE looks at nothing but the row;
    a list of keys is looked up without a lock. Where nothing is given back (MariaDB) that look tells the rows as well.
    """

    def prepare(self) -> None:
        self._sets = self.sent.sets(self.hit)
        self._names = self.hit.names(self._sets)
        self._moves = not self._sets.keys().isdisjoint(self.hit.pk_keys)
        self._keys = self.sent.keys(self.hit) if self.sent.many else None
        self._unknown = dict.fromkeys(self._sets, MISSING)
        self._plain = {name for name in self._sets if _is_plain(self.hit.columns[name])}
        self._seen: dict[Key, Row] = {}
        self._hits = 0
        if self.gives_back():
            self.ask(self._names)
            if self._moves or self._is_stable():
                self._look()
        elif self._keys is not None:
            self.hold("update")
            self._see(self.rows_by_key(self._names, dict.fromkeys(self._keys)))
        else:
            self._look()

    def _is_stable(self) -> bool:
        return not self.sent.other_tables and all(is_stable(each) for each in self.sent.statement._where_criteria)

    def _look(self) -> None:
        if any(writes(each) for each in self.sent.statement._where_criteria):
            raise CaptureError(
                f"{self.hit.name}: the statement chooses its rows by another one that writes, which would run twice. "
                "Run that one first, and give this one the keys"
            )
        self.hold("update")
        for number in range(len(self.sent.parameters)):
            self._see(self._rows(self.sent.criteria(number)))

    def _rows(self, criteria: Sequence[Any]) -> list[Row]:
        """Those that the UPDATE will hit, perhaps some more, under its lock."""
        if not self.sent.other_tables and all(is_stable(each) for each in criteria):
            return self.look(self._names, criteria, lock=Lock.UPDATE)
        # Rows of other tables are not to be locked, nor those that may match and do not.
        likely = [soon(each, self.connection.dialect) for each in criteria]
        chosen = self.look(self.hit.pk_keys, [each for each in likely if each is not None])
        keys = list(self.by_key(chosen))
        return look_by(
            self.connection, self.hit, self._names, self.hit.pk_keys, keys, self.sent.schemas, lock=Lock.UPDATE
        )

    def _see(self, rows: Sequence[Row]) -> None:
        seen = self.by_key(rows)
        self._seen |= seen
        self._hits += len(seen)

    def finish(self) -> None:
        if self._moves:
            self._finish_moved()
        elif self.returning is not None:
            self._finish_told()
        elif self._keys is not None and not self.is_exact:
            self._finish_by_key()
        else:
            if self._keys is None:
                self.check_count(self._hits)
            self._note_changed(self._now(self._seen), self._seen)

    def finish_partly(self) -> None:
        """The rows of a list that are not what they were; keys that were set are not followed."""
        if self._keys is None or self._moves:
            return
        now = self.by_key(self.rows_by_key(self._names, self._seen))
        changed = [row for key, row in now.items() if any(differs(self._seen[key][name], row[name]) for name in row)]
        self._note_changed(self.hit.known(self.connection, changed), self._seen)

    def _finish_told(self) -> None:
        rows = self.left()
        self._note_changed(rows, {key: self._seen.get(key, self._unknown) for key in rows})

    def _finish_by_key(self) -> None:
        """All keys were hit, but those that are not there."""
        rows = dict(self._seen)
        if len(rows) < len(set(self._keys or ())):
            unseen = self.rows_by_key(self.hit.pk_keys, set(self._keys or ()) - rows.keys())
            rows |= {key: row for key, row in self.by_key(unseen).items() if key not in rows}
        news = dict(zip(self._keys or (), self.sent.new_values(self.hit), strict=True))
        before = {key: differing(row, news.get(key, {}), self._sets) for key, row in rows.items()}
        if self._each_hit() and not self._has_to_be_read():
            now = [self._set(row, news.get(key, {})) for key, row in rows.items()]
            self._note_changed(self.hit.known(self.connection, now), before, certain=False)
        else:
            self._note_changed(self._now(rows), before)

    def _each_hit(self) -> bool:
        """Whether each key hit a row: none has gone since it was seen."""
        return bool(self.connection.dialect.supports_sane_multi_rowcount) and self.count == len(self._keys or ())

    def _set(self, seen: Row, new: Row) -> Row:
        """A row as it was seen, with what was set; where that is not what the row holds it is read at the commit."""
        return {**seen, **self._unknown, **{name: value for name, value in new.items() if name in self._plain}}

    def _now(self, rows: dict[Key, Row]) -> Known:
        """These rows as they are now, as far as that has to be known at once; the rest is read at the commit."""
        if self._has_to_be_read():
            return self.hit.known(self.connection, self.rows_by_key(self._names, rows))
        kept = {*self.hit.pk_keys, self.hit.kind}
        bare = [{name: value for name, value in row.items() if name in kept} for row in rows.values()]
        return self.hit.known(self.connection, bare)

    def _has_to_be_read(self) -> bool:
        return self._may_reclassify() or self.is_elsewhere

    def _may_reclassify(self) -> bool:
        kind = self.hit.kind
        return kind is not None and kind in self.hit.columns and (kind in self._sets or not self.hit.kind_is_column)

    def _note_changed(self, rows: Known, before: dict[Key, Row], *, certain: bool = True) -> None:
        was: Known = rows
        if self._may_reclassify():
            was = self.hit.known(self.connection, [self._seen[key] for key in rows if key in self._seen])
        others = {key for key in rows if key in was and was[key][0] is not rows[key][0]}
        changed = {key: each for key, each in rows.items() if key not in others}

        def note(frame: Frame) -> None:
            note_deleted(frame, {key: was[key] for key in others})
            note_created(frame, {key: rows[key] for key in rows if key in others})
            note_updated(frame, changed, before, certain=certain)

        self.record(note)

    def _finish_moved(self) -> None:
        """Rows were given other keys: the old record has gone, a new one has come."""
        if self.returning is not None:
            now = self.left()
            stay = self.staying(self._seen)
            left = {key: row for key, row in self._seen.items() if key in now or key not in stay}
        else:
            now, left = self._moved()
        if len(left) < len(now):
            raise CaptureError(
                f"{self.hit.name}: the statement gives new primary keys to rows that were not seen before. Choose them "
                "by their own columns, or roll back and run the transaction again"
            )
        gone = self.hit.known(self.connection, list(left.values()))

        def note(frame: Frame) -> None:
            note_deleted(frame, gone)
            note_created(frame, now)

        self.record(note)

    def _moved(self) -> tuple[Known, dict[Key, Row]]:
        self.check_count(self._hits)
        stay = self.staying(self._seen) if self.count < len(self._seen) else frozenset()
        left = {key: row for key, row in self._seen.items() if key not in stay}
        moved: list[Row] = []
        for key in left:
            new = {name: self._sets.get(name, part) for name, part in zip(self.hit.pk_keys, key, strict=True)}
            if any(part is MISSING for part in new.values()):
                raise CaptureError(
                    f"{self.hit.name}: the database is to compute new primary keys, which are then not known here; "
                    "give them as values, row by row"
                )
            moved.append(new)
        return self.hit.known(self.connection, moved), left


def _is_plain(column: Any) -> bool:
    """Whether a column holds what it is given, and that stays what it is."""
    return not is_rewritten(column) and not may_mutate(column)
