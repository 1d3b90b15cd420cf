"""Lists of a many-to-many relationship: a record's list is the whole of it, as in Django."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table

from eventbus.dumps.outcome import Existing
from eventbus.dumps.rows.groups import Group, Origin
from eventbus.dumps.rows.statements import Statements
from eventbus.dumps.writing.failures import Failure, Failures
from eventbus.dumps.writing.writer import PARAMETERS, Writer


class Links:
    """Makes the links of records what their lists say. `deleted` counts links that went, by table."""

    def __init__(self, connection: Connection, writer: Writer, failures: Failures, existing: Existing) -> None:
        self.deleted: dict[Table, int] = {}
        self._connection = connection
        self._writer = writer
        self._failures = failures
        self._existing = existing
        self._statements = Statements(connection.dialect)

    def write(self, group: Group, rows: Sequence[tuple[tuple[Any, ...], Origin]]) -> None:
        """Write the links of some records: rows of owner and other, one with no other for each record."""
        owner, other = group.key
        self._writer.written(group.table)
        wanted: dict[Any, dict[Any, tuple[tuple[Any, ...], Origin]]] = {}
        for row, origin in rows:
            those = wanted.setdefault(row[owner], {})
            if row[other] is not None:
                those.setdefault(row[other], (row, origin))
        there = self._there(group, list(wanted))
        if self._existing in ("update", "replace"):
            gone = [link for link in there if link[1] not in wanted.get(link[0], {})]
            self._refuse_loaded(group, gone, {row[owner]: origin for row, origin in rows})
            self._delete(group, gone)
        left = [each for key, those in wanted.items() for value, each in those.items() if (key, value) not in there]
        if left:
            self._insert(group, left)
        came = [row for those in wanted.values() for row, _ in those.values()]
        if came and self._writer.kept_keys is not None:
            self._writer.kept_keys.note(group, came)

    def _there(self, group: Group, owners: list[Any]) -> set[tuple[Any, Any]]:
        owner, other = group.key
        shown = [(group.columns[place], group.forms[place]) for place in (owner, other)]
        found: set[tuple[Any, Any]] = set()
        for start in range(0, len(owners), PARAMETERS):
            asked = owners[start : start + PARAMETERS]
            statement = self._statements.known([group.columns[owner]], [group.forms[owner]], len(asked), shown)
            found.update((row[0], row[1]) for row in self._connection.exec_driver_sql(statement, tuple(asked)))
        return found

    def _refuse_loaded(self, group: Group, gone: list[tuple[Any, Any]], origins: dict[Any, Origin]) -> None:
        """A link that another record of the files has is not to go."""
        written = self._writer.written(group.table)
        in_order = group.part.columns[group.target.primary[0]] is group.columns[group.key[0]]
        by_key = {link if in_order else link[::-1]: link for link in gone}
        loaded = gone if written.empty else [by_key[key] for key in written.ledger.met(by_key)]
        for owner, other in loaded:
            reason = f"its list of {group.table.name} lacks {other!r}, and another record has that link"
            self._failures.add(Failure(origins[owner], f"{reason}: leave one of them out"))

    def _delete(self, group: Group, links: list[tuple[Any, Any]]) -> None:
        if links:
            self._connection.exec_driver_sql(self._statements.delete(group), links)
            self.deleted[group.table] = self.deleted.get(group.table, 0) + len(links)
            self._writer.written(group.table).added -= len(links)

    def _insert(self, group: Group, left: list[tuple[tuple[Any, ...], Origin]]) -> None:
        rows, origins = [row for row, _ in left], [origin for _, origin in left]
        known = self._writer.known(group, rows, origins)
        new = [place for place, one in enumerate(known or []) if not one]
        if new:
            self._writer.insert(group, [rows[place] for place in new], [origins[place] for place in new])
