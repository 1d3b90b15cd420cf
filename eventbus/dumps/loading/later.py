"""Rows whose time comes after the others': sorted by table, with a reference not yet there, partial, or links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

from sqlalchemy import Connection, ForeignKeyConstraint, Table

from eventbus.dumps.loading.circles import Circle, belonging
from eventbus.dumps.loading.links import Links
from eventbus.dumps.loading.spool import Spool
from eventbus.dumps.outcome import Existing
from eventbus.dumps.rows.groups import Group, Origin
from eventbus.dumps.rows.naturals import Natural, Naturals
from eventbus.dumps.targets import Targets
from eventbus.dumps.writing.failures import Failure, Failures
from eventbus.dumps.writing.writer import Writer

_WAITING: Final = "waiting"
_LINKS: Final = "links"


class Later:
    """The rows that one load has put aside, in files. To be entered before any is.

    `circular` are the references for which no order of tables is right and which the database checks at once.
    """

    def __init__(
        self,
        connection: Connection,
        targets: Targets,
        writer: Writer,
        naturals: Naturals,
        failures: Failures,
        *,
        existing: Existing,
        circular: Sequence[ForeignKeyConstraint],
    ) -> None:
        self._connection = connection
        self._targets = targets
        self._writer = writer
        self._naturals = naturals
        self._failures = failures
        self._links = Links(connection, writer, failures, existing)
        self._circular = list(circular)
        self._spool = Spool()
        self._deepest = max(len(target.parts) for target in targets)

    def __enter__(self) -> Self:
        self._spool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._spool.__exit__(*error)

    @property
    def unlinked(self) -> int:
        """How many links went that lists no longer have."""
        return sum(self._links.deleted.values())

    def sorted_by_table(self, group: Group) -> None:
        """Put a group's rows aside until all of its table are there."""
        self._spool.add(group.table, group, *group.taken())

    def takes(self, group: Group) -> bool:
        """Put aside what of a group has to wait; whether that is all of it."""
        self._settle(group)
        if group.rows and group.role == "link":
            self._spool.add(_LINKS, group, *group.taken())
        elif group.rows and group.partial:
            self._spool.add((_WAITING, group.table, len(group.target.parts)), group, *group.taken())
        return not group.rows

    def _settle(self, group: Group) -> None:
        """Look up the natural keys of a group's rows; rows whose reference is not there yet wait."""
        places = [place for place in range(len(group.columns)) if place in group.naturals or group.role == "link"]
        if group.role == "link" or not any(row[place].__class__ is Natural for row in group.rows for place in places):
            return
        rows, origins = group.taken()
        for found, row, origin in zip(self._naturals.resolve(rows, places), rows, origins, strict=True):
            if found.__class__ is Natural:
                self._spool.add(_WAITING, group, [row], [origin])
            else:
                group.rows.append(found)  # type: ignore[arg-type]
                group.origins.append(origin)

    def write(self, *, by_table: bool) -> None:
        """Write all that was put aside."""
        if by_table:
            self._write_tables()
        self._write_waiting()
        for table in self._targets.order:
            self._write_partial(table)
        self._write_links()

    def _write_tables(self) -> None:
        """Table after table; those in a circle row by row."""
        inside = belonging(self._circular)
        circle = Circle(self._connection, self._writer, self._spool, self._circular)
        for place, table in enumerate(self._targets.order):
            if table in inside:
                circle.put_aside(table)
                if not any(inside.get(each) == inside[table] for each in self._targets.order[place + 1 :]):
                    circle.write()
            else:
                for group, rows, origins in self._spool.take(table):
                    self._writer.write_rows(group, rows, origins)
                self._write_partial(table)
        circle.close()

    def _write_partial(self, table: Table) -> None:
        """Those of classes that inherit last: where several records make one row, its class is the most special one."""
        for depth in range(1, self._deepest + 1):
            for group, rows, origins in self._spool.take((_WAITING, table, depth)):
                self._writer.write_rows(group, rows, origins)

    def _write_waiting(self) -> None:
        """Rows whose natural keys were not there: again and again, as long as that brings some further."""
        waiting = [
            (group, row, origin)
            for group, rows, origins in self._spool.take(_WAITING)
            for row, origin in zip(rows, origins, strict=True)
        ]
        while waiting:
            left = []
            for group, row, origin in waiting:
                (found,) = self._naturals.resolve([row], group.naturals)
                if isinstance(found, Natural):
                    left.append((group, row, origin))
                else:
                    self._writer.write_rows(group, [found], [origin])
            if len(left) == len(waiting):
                for group, row, origin in left:
                    self._no_natural(group, row, origin)
                return
            waiting = left

    def _no_natural(self, group: Group, row: tuple[Any, ...], origin: Origin) -> None:
        place = next(
            place
            for place, value in enumerate(row)
            if value.__class__ is Natural and self._naturals.resolve([row], [place])[0].__class__ is Natural
        )
        keys = {column: key for key, column in group.part.columns.items()}
        reason = self._naturals.explain(row[place])
        self._failures.add(Failure(origin, reason, keys[group.columns[place]]))

    def _write_links(self) -> None:
        for group, rows, origins in self._spool.take(_LINKS):
            settled = self._naturals.resolve(rows, range(len(group.columns)))
            for found, row, origin in zip(settled, rows, origins, strict=True):
                if isinstance(found, Natural):
                    self._no_natural(group, row, origin)
            self._links.write(
                group,
                [(row, origin) for row, origin in zip(settled, origins, strict=True) if not isinstance(row, Natural)],
            )
