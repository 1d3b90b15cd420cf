"""One record after another becomes rows, in the groups of its plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Table

from eventbus.dumps.facts import Facts
from eventbus.dumps.loading.selection import Selection
from eventbus.dumps.outcome import Loaded, Options
from eventbus.dumps.reading.slices import Slice
from eventbus.dumps.rows.groups import Group, Origin
from eventbus.dumps.rows.planner import Plan, Planner
from eventbus.dumps.targets import Target, Targets
from eventbus.dumps.writing.failures import Failure, Failures
from eventbus.dumps.writing.writer import Written
from eventbus.errors import LoadError

MOST_PLANS: Final = 10_000
"""Sets and orders of fields that are remembered."""


class Records:
    """What a load has met so far: models, sets of fields, the place in the file. `groups`: where the rows are put."""

    def __init__(
        self,
        targets: Targets,
        options: Options,
        loaded: Loaded,
        failures: Failures,
        *,
        facts: Facts,
        planner: Planner,
        written: Callable[[Table], Written],
        part: Slice | None,
    ) -> None:
        self.groups: list[Group] = []
        self.met: dict[Target, None] = {}
        self.selection = Selection(targets, options)
        self._options = options
        self._loaded = loaded
        self._failures = failures
        self._facts = facts
        self._planner = planner
        self._written = written
        self._known = self.selection.known
        self._plans: dict[tuple[Target, bool, tuple[str, ...] | frozenset[str]], Plan] = {}
        self._part = part
        self._last_path = "" if part is None else part.path
        self._number = 0 if part is None else part.number
        loaded.files = 1 if self._last_path else 0

    def add(self, path: str, record: Any) -> None:
        """Take in the next record of a file; what is wrong with it goes to the failures."""
        if path != self._last_path:
            self._last_path = path
            self._number = 0
            self._loaded.files += 1
        self._number += 1
        try:
            model, pk, fields = record["model"], record.get("pk"), record["fields"]
            target = self._known[model] if model in self._known else self.selection.target(model)
            names = tuple(fields.keys())
        except (TypeError, KeyError, AttributeError):
            self._fail((path, self._number, "", None), 'not a record of the form {"model", "pk", "fields"}')
            return
        except LookupError as error:
            self._fail((path, self._number, str(model), pk), str(error.args[0]))
            return
        if target is None:
            self._loaded.skipped += 1
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
        self._loaded.objects += 1
        self._loaded.models[model] += 1

    def _more_of(self, record: Mapping[str, Any], origin: Origin, target: Target, fields: Any) -> Any:
        """The fields of a record that says more than its model, pk and fields; None where it cannot be loaded."""
        if "stub" in record:
            self._fail(origin, f"a stub, of which only the key was published: {record['stub']}")
            return None
        if "json_null" not in record:
            return fields
        try:
            return self._with_json_nulls(target, record["json_null"], fields)
        except LookupError as error:
            self._fail(origin, f"json_null: {error.args[0]}")
            return None

    def _with_json_nulls(self, target: Target, names: Any, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields, with JSON's null where the record says that it is not SQL's. LookupError where that cannot be."""
        if not isinstance(names, list):
            raise LookupError("not a list of fields")
        of_key = dict(zip(target.entity.keys, target.entity.columns, strict=True))
        nulls = [name for name in names if name in of_key or not self._options.ignore_nonexistent]
        for name in nulls:
            if name not in of_key or name not in fields or fields[name] is not None:
                raise LookupError(f"{name!r} is no field of this record that is null")
            if not self._planner.form(of_key[name]).json:
                raise LookupError(f"the column of {name!r} does not tell JSON's null from SQL's")
        return {**fields, **dict.fromkeys(nulls, sa.JSON.NULL)}

    def _fail(self, origin: Origin, reason: str, field: str | None = None, cause: BaseException | None = None) -> None:
        self._failures.add(Failure(origin, reason, field, cause))

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
            field, reason = plan.explain(origin[3], fields, error)
            self._lose(target, origin[3])
            self._fail(origin, reason, field, error)

    def _lose(self, target: Target, pk: Any) -> None:
        values = pk if isinstance(pk, list) else [pk]
        for key, value in zip(target.primary, values, strict=False):
            for part in target.parts:
                if key in part.columns:
                    self._failures.lost.add((part.columns[key], value if isinstance(value, str | int) else str(value)))

    def _plan(self, target: Target, keyed: bool, names: tuple[str, ...]) -> Plan:
        """One plan for each set of fields, found again quickly by their order as well."""
        same = target, keyed, frozenset(names)
        plan = self._plans.get(same)
        if plan is None:
            self._check_tables(target)
            wanted = [name for name in names if self.selection.wants_field(target, name)]
            plan = self._plans[same] = self._planner.plan(target, keyed, wanted)
            self.groups += [group for group, _ in plan.groups] + [group for _, group, _ in plan.links]
        self._plans[target, keyed, names] = plan
        return plan

    def _check_tables(self, target: Target) -> None:
        for part in target.parts:
            facts = self._facts.of(part.table)
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
        if self._options.existing != "replace" and not self._written(table).empty:
            raise LoadError(
                f"table {table.name} has no key and has rows: which of the records they are cannot be told (--existing "
                "replace makes its rows those of the files)"
            )

    def filled(self) -> list[Group]:
        """The groups that have rows; their targets are met."""
        filled = [group for group in self.groups if group.rows]
        self.met.update(dict.fromkeys(group.target for group in filled))
        return filled

    def forget_plans(self) -> None:
        """There may be as many as there are records, in the worst file. Those in use are soon made again."""
        if len(self._plans) > MOST_PLANS:
            self._plans.clear()
            self.groups.clear()
