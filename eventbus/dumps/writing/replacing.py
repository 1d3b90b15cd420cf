"""`--existing replace`: afterwards there is what the files have, of each model in them, and nothing else.

The keys that came are kept in temporary tables of the database; rows without one go at the end. Before that it is seen
that nothing which stays refers to them: a cascade would take it along. Where rows have no key at all, those that were
there go first.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table

from eventbus.dumps.facts import MYSQL
from eventbus.dumps.inheritance import alone
from eventbus.dumps.rows.groups import Group
from eventbus.dumps.rows.statements import Statements
from eventbus.dumps.targets import Target, Targets
from eventbus.dumps.writing import references
from eventbus.dumps.writing.references import Reference


class Kept:
    """The keys of the rows that came, by table."""

    def __init__(self, connection: Connection, targets: Targets) -> None:
        self._connection = connection
        self._targets = targets
        self._statements = Statements(connection.dialect)
        self._tables: dict[Table, Table] = {}

    def note(self, group: Group, rows: Sequence[tuple[Any, ...]]) -> None:
        """Remember rows by their key. Raises ValueError where the records leave it to the database."""
        key = self._targets.key(group.table)
        if not set(key) <= set(group.columns):
            raise ValueError("the record has no pk, by which its row could be kept apart from those that go")
        places = [group.columns.index(column) for column in key]
        kept = self.of(group.table)
        forms = [group.forms[place] for place in places]
        names = [kept.c[group.columns[place].name] for place in places]
        statement = self._statements.plain_insert(kept, names, forms)
        self._connection.exec_driver_sql(statement, [tuple(row[place] for place in places) for row in rows])

    def of(self, table: Table) -> Table:
        """The temporary table of a table's keys."""
        found = self._tables.get(table)
        if found is None:
            name = f"eventbus_kept_{uuid.uuid4().hex[:12]}"
            keys = [sa.Column(column.name, column.type) for column in self._targets.key(table)]
            found = self._tables[table] = sa.Table(name, sa.MetaData(), *keys)
            self._make(table, found)
        return found

    def _make(self, table: Table, kept: Table) -> None:
        names = ", ".join(self._statements.name(column) for column in kept.columns)
        quoted = self._statements.table(kept)
        index = f" (INDEX ({names}))" if self._connection.dialect.name in MYSQL else ""
        select = f"SELECT {names} FROM {self._statements.table(table)} WHERE 1 = 0"  # noqa: S608 - names
        self._connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {quoted}{index} AS {select}")
        if not index:
            self._connection.exec_driver_sql(f"CREATE INDEX {kept.name}_key ON {quoted} ({names})")

    def holds(self, table: sa.FromClause, of: Table) -> sa.ColumnElement[bool]:
        """Whether a row of this table (or an alias of it) came."""
        kept, key = self.of(of), self._targets.key(of)
        return sa.exists().where(*(table.c[each.key] == kept.c[each.name] for each in key)).correlate(table)

    def drop(self) -> None:
        """Give up the temporary tables."""
        # Without the word MariaDB would commit the transaction.
        temporary = "TEMPORARY " if self._connection.dialect.name in MYSQL else ""
        for kept in self._tables.values():
            self._connection.exec_driver_sql(f"DROP {temporary}TABLE {self._statements.table(kept)}")
        self._tables.clear()


def doomed_but_needed(
    connection: Connection, targets: Targets, scope: Sequence[Target], kept: Kept, most: int
) -> Iterator[references.Dangling]:
    """Rows that stay and refer to rows that are to go."""
    classes = _classes(targets, scope)
    for reference in references.to_check(connection, targets, scope, all_incoming=True, every=True):
        if isinstance(reference.parent, Table) and reference.parent in classes:
            yield from _needing(connection, reference, classes, kept, most)


def _needing(
    connection: Connection, reference: Reference, classes: dict[Table, list[Any]], kept: Kept, most: int
) -> Iterator[references.Dangling]:
    child, table = reference.child, reference.parent
    assert isinstance(table, Table)
    parent = table.alias("eventbus_referred")
    pairs = [(here, parent.c[there.key]) for here, there in zip(reference.columns, reference.referred, strict=True)]
    goes = (
        sa.exists()
        .where(*(there == here for here, there in pairs), *_goes(parent, table, classes, kept))
        .correlate(child)
    )
    stays = kept.holds(child, child) if isinstance(child, Table) and child in classes else sa.true()
    key = list(child.primary_key) if isinstance(child, Table) else []
    statement = sa.select(*key, *reference.columns).select_from(child).where(goes, stays).limit(most)
    for row in connection.execute(alone(statement, child)):
        yield references.Dangling(reference, tuple(row[: len(key)]), tuple(row[len(key) :]))


def delete_others(connection: Connection, targets: Targets, scope: Sequence[Target], kept: Kept) -> dict[Table, int]:
    """Delete the rows that did not come, those that refer to others first; how many went, by table."""
    classes = _classes(targets, scope)
    gone = {}
    for table in reversed(targets.order):
        if table in classes:
            statement = alone(sa.delete(table).where(*_goes(table, table, classes, kept)), table)
            gone[table] = connection.execute(statement).rowcount
    return gone


def _goes(rows: Any, table: Table, classes: dict[Table, list[Any]], kept: Kept) -> list[sa.ColumnElement[bool]]:
    found = [~kept.holds(rows, table)]
    kinds = classes[table]
    if kinds:
        column, values = kinds[0]
        found.append(rows.c[column.key].in_(values))
    return found


def _classes(targets: Targets, scope: Sequence[Target]) -> dict[Table, list[Any]]:
    """The tables in question; of those that several classes share the column that tells them and its values.

    Not those without a key: what stands in them came.
    """
    found: dict[Table, list[Any]] = {}
    for target in scope:
        if not target.primary:
            continue
        mapper = target.entity.mapper
        for part in target.parts:
            kinds = found.setdefault(part.table, [])
            if (
                mapper is None
                or not isinstance(mapper.polymorphic_on, sa.Column)
                or mapper.polymorphic_on.table is not part.table
            ):
                continue
            if not kinds:
                kinds.append((mapper.polymorphic_on, []))
            kinds[0][1].append(mapper.polymorphic_identity)
    return found
