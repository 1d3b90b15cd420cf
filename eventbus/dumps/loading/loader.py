"""Reads records, makes rows of them, and sees to it that each comes to be written in its time.

Rows go in as they come, in windows, tables that others refer to first. On PostgreSQL a row must not come before the
one it refers to: where that was not so the load begins anew and sorts all rows by table first, and those of tables that
refer to each other in a circle by the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, ForeignKeyConstraint

from eventbus.dumps.facts import Facts
from eventbus.dumps.inheritance import note_parents
from eventbus.dumps.loading.later import Later
from eventbus.dumps.loading.records import Records
from eventbus.dumps.outcome import WINDOW_BYTES, Loaded, Options
from eventbus.dumps.reading import files
from eventbus.dumps.reading.places import Places
from eventbus.dumps.reading.slices import Slice
from eventbus.dumps.rows.naturals import Naturals
from eventbus.dumps.rows.planner import Planner
from eventbus.dumps.targets import Target, Targets
from eventbus.dumps.writing.blame import Blame
from eventbus.dumps.writing.failures import Failures
from eventbus.dumps.writing.writer import Writer


class Loader:
    """One load, or one attempt at it. `by_table` puts all rows aside until they are sorted.

    `circular` are the references for which no order of tables is right and which the database checks at once.
    """

    def __init__(
        self,
        connection: Connection,
        targets: Targets,
        paths: Sequence[Any],
        options: Options,
        *,
        by_table: bool,
        part: Slice | None = None,
        circular: Sequence[ForeignKeyConstraint] = (),
        retry: bool = False,
    ) -> None:
        self.loaded = Loaded(total=files.plain_size(paths))
        self.failures = Failures(options.max_errors, Places(paths))
        note_parents(connection, targets.order)
        self.facts = Facts(connection)
        self._targets = targets
        self._paths = paths
        self._options = options
        self.planner = Planner(targets, connection.dialect, self.facts, ignore_unknown=options.ignore_nonexistent)
        self.blame = Blame(connection, targets, self.failures, Places(paths))
        self.writer = Writer(
            connection,
            targets,
            self.facts,
            self.failures,
            self.blame,
            existing=options.existing,
            keep_keys=options.keep_keys,
            retry=retry,
        )
        self._records = Records(
            targets,
            options,
            self.loaded,
            self.failures,
            facts=self.facts,
            planner=self.planner,
            written=self.writer.written,
            part=part,
        )
        naturals = Naturals(connection, targets, self.planner.form)
        self._later = Later(
            connection, targets, self.writer, naturals, self.failures, existing=options.existing, circular=circular
        )
        self._by_table = by_table
        self._part = part

    def load(self) -> None:
        """Read all and write all. Raises LoadError; TooEarlyError where rows must be sorted first."""
        with self._later:
            waiting = weight = 0
            for batch in files.read(self._paths) if self._part is None else self._part.batches:
                weight += batch.weight
                for start in range(0, len(batch.records), self._options.window):
                    waiting += self._take(batch.path, batch.records[start : start + self._options.window])
                    if waiting >= self._options.window or weight >= WINDOW_BYTES:
                        self._flush()
                        waiting = weight = 0
                self.loaded.size += batch.size
                del batch  # not held while the next one is read: both may be large
            self._flush()
            self._later.write(by_table=self._by_table)
        self.loaded.kept = self.writer.kept

    def _take(self, path: str, records: Sequence[Any]) -> int:
        for item in records:
            self._records.add(*files.origin(path, item))
        return len(records)

    @property
    def unlinked(self) -> int:
        """How many links went that lists no longer have."""
        return self._later.unlinked

    @property
    def used(self) -> list[Target]:
        """What records were loaded into, in dependency order."""
        return [target for target in self._targets if target in self._records.met]

    @property
    def scope(self) -> list[Target]:
        """The targets whose rows are replaced: those that records came for, and those that were named."""
        met, selection = self._records.met, self._records.selection
        return [target for target in self._targets if target in met or selection.is_named(target)]

    def _flush(self) -> None:
        ready = []
        for group in self._records.filled():
            if self._later.takes(group):
                continue
            if self._by_table:
                self._later.sorted_by_table(group)
            else:
                ready.append(group)
        self.writer.write(ready)
        self._records.forget_plans()
        if self._options.progress is not None:
            self._options.progress(self.loaded)
