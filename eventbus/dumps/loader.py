"""Reads records, makes rows of them, and sees to it that each comes to be written in its time.

Rows go in as they come, in windows, tables that others refer to first. On PostgreSQL a row must not come before the
one it refers to: where that was not so the load begins anew and sorts all rows by table first, and those of tables that
refer to each other in a circle by the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, ForeignKeyConstraint, Table

from eventbus.dumps import files
from eventbus.dumps.blame import Blame
from eventbus.dumps.circles import Circle, belonging
from eventbus.dumps.facts import Facts
from eventbus.dumps.failures import Failure, Failures
from eventbus.dumps.links import Links
from eventbus.dumps.naturals import Natural, Naturals
from eventbus.dumps.outcome import WINDOW_BYTES, Loaded, Options
from eventbus.dumps.places import Places
from eventbus.dumps.rows import Group, Origin, Plan, Planner
from eventbus.dumps.selection import Selection
from eventbus.dumps.slices import Slice
from eventbus.dumps.spool import Spool
from eventbus.dumps.targets import Target, Targets
from eventbus.dumps.writer import Writer
from eventbus.errors import LoadError

MOST_PLANS: Final = 10_000
"""Sets and orders of fields that are remembered."""
_WAITING: Final = "waiting"
_LINKS: Final = "links"


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
        self.facts = Facts(connection)
        self._connection = connection
        self._targets = targets
        self._paths = paths
        self._options = options
        self._selection = Selection(targets, options)
        self._known = self._selection.known
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
        self._naturals = Naturals(connection, targets, self.planner.form)
        self._links = Links(connection, self.writer, options.existing)
        self._circular = list(circular)
        self._by_table = by_table
        self._spool = Spool()
        self._plans: dict[tuple[Target, bool, tuple[str, ...] | frozenset[str]], Plan] = {}
        self._groups: list[Group] = []
        self._met: dict[Target, None] = {}
        self._part = part
        self._last_path = "" if part is None else part.path
        self._number = 0 if part is None else part.number
        self.loaded.files = 1 if self._last_path else 0

    def load(self) -> None:
        """Read all and write all. Raises LoadError; TooEarlyError where rows must be sorted first."""
        with self._spool:
            waiting = size = 0
            for batch in files.read(self._paths) if self._part is None else self._part.batches:
                for item in batch.records:
                    self._add(*files.origin(batch.path, item))
                waiting += len(batch.records)
                size += batch.size
                self.loaded.size += batch.size
                if waiting >= self._options.window or size >= WINDOW_BYTES:
                    self._flush()
                    waiting = size = 0
            self._flush()
            self._finish()
        self.loaded.kept = self.writer.kept

    @property
    def used(self) -> list[Target]:
        """What records were loaded into, in dependency order."""
        return [target for target in self._targets if target in self._met]

    @property
    def scope(self) -> list[Target]:
        """The targets whose rows are replaced: those that records came for, and those that were named."""
        return [target for target in self._targets if target in self._met or self._selection.is_named(target)]

    # -- records ---------------------------------------------------------------

    def _add(self, path: str, record: Any) -> None:
        if path != self._last_path:
            self._last_path = path
            self._number = 0
            self.loaded.files += 1
        self._number += 1
        try:
            model, pk, fields = record["model"], record.get("pk"), record["fields"]
            target = self._known[model] if model in self._known else self._selection.target(model)
            names = tuple(fields.keys())
        except (TypeError, KeyError, AttributeError):
            self._fail((path, self._number, "", None), 'not a record of the form {"model", "pk", "fields"}')
            return
        except LookupError as error:
            self._fail((path, self._number, str(model), pk), str(error.args[0]))
            return
        if target is None:
            self.loaded.skipped += 1
            return
        origin = (path, self._number, model, pk)
        if len(record) > 3:
            fields = self._more_of(record, origin, target, fields)
            if fields is None:
                return
        try:
            group, row = self._plans[target, pk is not None, names].only  # type: ignore[misc]
            group.rows.append(row(pk, fields))
            group.origins.append(origin)
        except Exception:  # noqa: BLE001 - no plan yet, more rows than one, or a value that does not fit: see there
            self._make_rows(origin, target, fields, names)
        self.loaded.objects += 1
        self.loaded.models[model] += 1

    def _more_of(self, record: Mapping[str, Any], origin: Origin, target: Target, fields: Any) -> Any:
        """The fields of a record that says more than its model, pk and fields; None where it cannot be loaded."""
        if "stub" in record:
            self._fail(origin, f"a stub, of which only the key was published: {record['stub']}")
            return None
        names = record.get("json_null")
        return self._with_json_nulls(target, names, fields) if isinstance(names, list) else fields

    def _with_json_nulls(self, target: Target, names: Sequence[Any], fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields, with JSON's null where the record says that it is not SQL's, in columns that know both."""
        of_key = dict(zip(target.entity.keys, target.entity.columns, strict=True))
        nulls = [name for name in names if name in of_key and name in fields and fields[name] is None]
        return {**fields, **{name: sa.JSON.NULL for name in nulls if self.planner.form(of_key[name]).json}}

    def _fail(self, origin: Origin, reason: str, field: str | None = None, cause: BaseException | None = None) -> None:
        self.failures.add(Failure(origin, reason, field, cause))

    def _make_rows(self, origin: Origin, target: Target, fields: Mapping[str, Any], names: tuple[str, ...]) -> None:
        keyed = origin[3] is not None
        plan: Plan | None = None
        try:
            plan = self._plans.get((target, keyed, names)) or self._plan(target, keyed, names)
            plan.add(origin, fields)
        except LoadError as error:
            self._fail(origin, str(error), cause=error)
        except Exception as error:
            if plan is None:
                raise
            field, reason = plan.explain(fields)
            self._lose(target, origin[3])
            self._fail(origin, reason, field, error)

    def _lose(self, target: Target, pk: Any) -> None:
        values = pk if isinstance(pk, list) else [pk]
        for key, value in zip(target.primary, values, strict=False):
            for part in target.parts:
                if key in part.columns:
                    self.failures.lost.add((part.columns[key], value if isinstance(value, str | int) else str(value)))

    def _plan(self, target: Target, keyed: bool, names: tuple[str, ...]) -> Plan:
        """One plan for each set of fields, found again quickly by their order as well."""
        same = target, keyed, frozenset(names)
        plan = self._plans.get(same)
        if plan is None:
            self._check_tables(target)
            wanted = [name for name in names if self._selection.wants_field(target, name)]
            plan = self._plans[same] = self.planner.plan(target, keyed, wanted)
            self._groups += [group for group, _ in plan.groups] + [group for _, group, _ in plan.links]
        self._plans[target, keyed, names] = plan
        return plan

    def _check_tables(self, target: Target) -> None:
        for part in target.parts:
            facts = self.facts.of(part.table)
            if not facts.transactional and not self._options.without_transactions:
                raise LoadError(
                    f"table {part.table.name} is of the engine {facts.engine}, which has no transactions: what a "
                    "failed load wrote there would stay (--without-transactions loads it nevertheless)"
                )

        if not target.primary:
            self._check_keyless(target.parts[0].table)

    def _check_keyless(self, table: Table) -> None:
        """Rows without a key are always new ones: they must not be there already."""
        if self._part is not None:
            raise LoadError(
                f"table {table.name} has no key, so a load that goes on could not tell which rows are there: load it "
                "apart, without --commit-every"
            )
        if self._options.existing != "replace" and not self.writer.written(table).empty:
            raise LoadError(
                f"table {table.name} has no key and has rows: which of the records they are cannot be told (--existing "
                "replace makes its rows those of the files)"
            )

    # -- rows ------------------------------------------------------------------

    def _flush(self) -> None:
        filled = [group for group in self._groups if group.rows]
        self._met.update(dict.fromkeys(group.target for group in filled))
        ready = []
        for group in filled:
            self._settle(group)
            if not group.rows:
                continue
            if group.role == "link":
                self._spool.add(_LINKS, group, *group.taken())
            elif group.partial:
                self._spool.add((_WAITING, group.table), group, *group.taken())
            elif self._by_table:
                self._spool.add(group.table, group, *group.taken())
            else:
                ready.append(group)
        self.writer.write(ready)
        if len(self._plans) > MOST_PLANS:
            # As many as there are records, in the worst file. Those in use are soon made again.
            self._plans.clear()
            self._groups.clear()
        if self._options.progress is not None:
            self._options.progress(self.loaded)

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

    def _finish(self) -> None:
        if self._by_table:
            self._write_tables()
        self._write_waiting()
        for table in self._targets.order:
            self._write_partial(table)
        self._write_links()

    def _write_tables(self) -> None:
        """Table after table; those in a circle row by row."""
        inside = belonging(self._circular)
        circle = Circle(self._connection, self.writer, self._spool, self._circular)
        for place, table in enumerate(self._targets.order):
            if table in inside:
                circle.put_aside(table)
                if not any(inside.get(each) == inside[table] for each in self._targets.order[place + 1 :]):
                    circle.write()
            else:
                for group, rows, origins in self._spool.take(table):
                    self.writer.write_rows(group, rows, origins)
                self._write_partial(table)
        circle.close()

    def _write_partial(self, table: Table) -> None:
        for group, rows, origins in self._spool.take((_WAITING, table)):
            self.writer.write_rows(group, rows, origins)

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
                    self.writer.write_rows(group, [found], [origin])
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
        self._fail(origin, self._naturals.explain(row[place]), keys[group.columns[place]])

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
