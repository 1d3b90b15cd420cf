"""From the rows of a database to the lines of a dump: all columns, exactly, in an order of our own.

What the model cannot read (an enum's name that was renamed since, the 30th of February) is named with its record.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy import Column, Connection, Table
from sqlalchemy.orm import Mapper

from eventbus.dumps.dumping.dumped import Dumped
from eventbus.dumps.facts import MYSQL, Facts
from eventbus.dumps.forms import Form, as_is, form_of
from eventbus.dumps.inheritance import alone
from eventbus.dumps.targets import Target, Targets
from eventbus.errors import ConfigurationError, SerializationError

ROWS: Final = 1_000
"""Fetched from the server at a time."""
COMPUTED: Final = "computed by the database"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be dumped of a target: fields to leave out, and the primary keys wanted (none: all)."""

    without: frozenset[str] = frozenset()
    pks: Sequence[Any] = ()
    published: bool = False


class Dump:
    """Reads the rows of targets as records; `dumped` counts."""

    def __init__(self, connection: Connection, targets: Targets, *, skip_broken: bool) -> None:
        self.dumped = Dumped()
        self._connection = connection
        self._targets = targets
        self._facts = Facts(connection)
        self._skip_broken = skip_broken

    def is_view(self, target: Target) -> bool:
        """Whether the records of a target are those of a view."""
        return self._facts.of(target.parts[-1].table).view

    def prepare(self, chosen: Mapping[Target, Wanted]) -> list[Rows]:
        """What is to be read, with the columns that cannot be noted, and the records counted."""
        found = []
        for target, wanted in chosen.items():
            rows = Rows(self._connection, self._targets, target, wanted, self._facts)
            model = self._targets.model(target)
            self.dumped.left_out.update({f"{model}.{key}": reason for key, reason in rows.left_out.items()})
            self.dumped.incomplete += [f"{model}.{key}" for key in rows.incomplete]
            count = rows.count()
            self.dumped.total += count
            if count < len(wanted.pks):
                self.dumped.absent += rows.absent()
            found.append(rows)
        return found

    def lines(self, rows: Sequence[Rows], progress: Callable[[Dumped], None] | None) -> Iterator[bytes]:
        """The records as JSON, keys sorted. Raises SerializationError for one that cannot be read."""
        for each in rows:
            self.dumped.models[each.model] += 0
            for some in each.fetch():
                before = self.dumped.objects
                for row in some:
                    line = self._line(each, row)
                    if line is not None:
                        self.dumped.objects += 1
                        yield line
                self.dumped.models[each.model] += self.dumped.objects - before
                if progress is not None:
                    progress(self.dumped)

    def _line(self, rows: Rows, row: Sequence[Any]) -> bytes | None:
        try:
            return orjson.dumps(rows.record(row), option=orjson.OPT_SORT_KEYS)
        except Exception as error:
            told = rows.explain(row, error)
            if not self._skip_broken:
                raise told from error
            self.dumped.broken.append(str(told))
            return None


class Rows:
    """The rows of one target, and how each becomes a record."""

    def __init__(self, connection: Connection, targets: Targets, target: Target, wanted: Wanted, facts: Facts) -> None:
        self.model = targets.model(target)
        self.left_out: dict[str, str] = {}
        self.incomplete: list[str] = []
        self._connection = connection
        self._target = target
        self._entity = target.entity
        self._wanted = wanted
        self._facts = facts
        self._forms = self._choose(facts)
        self._shown = {key: form.show(self._column(key)) for key, form in self._forms.items()}
        self._primary = [key for key in target.primary if key in self._forms]
        self.record = _compiled(self.model, list(self._forms.items()), self._primary)

    def _column(self, key: str) -> Column[Any]:
        return self._entity.columns[self._entity.positions[key]]

    def _choose(self, facts: Facts) -> dict[str, Form]:
        found: dict[str, Form] = {}
        for key, column in zip(self._entity.keys, self._entity.columns, strict=True):
            form = form_of(column, self._connection.dialect, facts.of(column.table).column(column.name))
            reason = self._reason(key, column, form)
            if reason is None:
                assert form is not None
                found[key] = form
            else:
                self.left_out[key] = reason
        self._note_unknown(facts)
        return found

    def _reason(self, key: str, column: Column[Any], form: Form | None) -> str | None:
        if key in self._wanted.without:
            return "left out on request"
        if self._wanted.published and key in self._entity.withheld:
            return self._entity.withheld[key]
        if key in self._target.computed or self._facts.of(column.table).column(column.name).computed:
            return COMPUTED
        if form is None:
            self.incomplete.append(key)
            return f"no JSON form for {type(column.type).__name__}"
        return None

    def _note_unknown(self, facts: Facts) -> None:
        """Columns that the table has and the models do not: a backup without them is none."""
        for part in self._target.parts:
            known = {column.name for column in part.table.columns}
            mapped = {column.name for column in part.columns.values()} | {
                column.name for key, column in zip(self._entity.keys, self._entity.columns, strict=True)
            }
            for name, column in facts.of(part.table).columns.items():
                reason = "not in the models" if name not in known else "not mapped" if name not in mapped else None
                if (
                    reason
                    and not column.computed
                    and name not in self._wanted.without
                    and name not in self._mapped(part.table)
                ):
                    self.left_out[name] = reason
                    if not self._wanted.published:
                        self.incomplete.append(name)

    def _mapped(self, table: Table) -> set[str]:
        """Columns that another class of the same table has (single table inheritance)."""
        mapper = self._entity.mapper
        if mapper is None:
            return set()
        family = mapper.base_mapper.self_and_descendants
        return {
            column.name
            for each in family
            for prop in each.column_attrs
            for column in prop.columns
            if getattr(column, "table", None) is table
        }

    @property
    def _source(self) -> Any:
        return self._entity.table if self._entity.mapper is None else self._entity.mapper.persist_selectable

    def select(self) -> sa.Select[Any]:
        """The records of exactly this class, in the order of their keys' bytes."""
        columns = [shown.label(f"c{number}") for number, shown in enumerate(self._shown.values())]
        found: sa.Select[Any] = self._of_class(sa.select(*columns).select_from(self._source))
        return found.order_by(*self._order())

    def _of_class(self, statement: Any) -> Any:
        mapper = self._entity.mapper
        if mapper is not None and _has_family(mapper):
            statement = statement.where(_is_of(mapper))
        if self._wanted.pks:
            statement = statement.where(self._is_wanted())
        return alone(statement, *(part.table for part in self._target.parts))

    def _is_wanted(self) -> sa.ColumnElement[bool]:
        keys = [self._column(key) for key in self._target.primary]
        wanted = list(self._wanted_keys())
        # An OR for each key would be too deep for SQLite from a thousand on.
        if len(keys) == 1:
            return as_is(keys[0]).in_([value for (value,) in wanted])
        return sa.tuple_(*map(as_is, keys)).in_(wanted)

    def _key_forms(self) -> list[Form]:
        """Those of the primary key, which may be left out of the records."""
        missing = [name for name in self._target.primary if name not in self._forms]
        if missing:
            raise ConfigurationError(f"--pks: {', '.join(missing)} is left out of the dump, by which records are known")
        return [self._forms[name] for name in self._target.primary]

    def _wanted_keys(self) -> Iterator[tuple[Any, ...]]:
        """The primary keys wanted, as values of their columns."""
        names, forms = self._target.primary, self._key_forms()
        for pk in self._wanted.pks:
            parts = pk if len(names) > 1 else [pk]
            if not isinstance(parts, list) or len(parts) != len(names):
                raise ConfigurationError(f"--pks {pk}: the primary key of {self.model} has {len(names)} columns")
            try:
                yield tuple(form.read(part) for form, part in zip(forms, parts, strict=True))
            except ValueError as error:
                raise ConfigurationError(f"--pks {pk}: {error}") from error

    def _order(self) -> list[sa.ColumnElement[Any]]:
        """By the key; where there is none, by everything."""
        name = self._connection.dialect.name
        if self._target.primary:
            return [_by_bytes(self._column(key), name) for key in self._target.primary]
        columns = [self._column(key) for key in self._forms]
        return [each for column in columns for each in (column.is_(None), _sortable(column, name))]

    def count(self) -> int:
        """How many there are."""
        statement = self._of_class(sa.select(sa.func.count()).select_from(self._source))
        counted: int = self._connection.execute(statement).scalar_one()
        return counted

    def absent(self) -> list[Any]:
        """The primary keys wanted that no record has."""
        forms = self._key_forms()
        shown = [form.show(self._column(name)) for form, name in zip(forms, self._target.primary, strict=True)]
        rows = self._connection.execute(self._of_class(sa.select(*shown).select_from(self._source)))
        there = {tuple(form.read(form.write(value)) for form, value in zip(forms, row, strict=True)) for row in rows}
        return [pk for pk, key in zip(self._wanted.pks, self._wanted_keys(), strict=True) if key not in there]

    def fetch(self) -> Iterator[Sequence[Any]]:
        """The rows, some at a time."""
        with self._connection.execute(self.select(), execution_options={"yield_per": ROWS}) as result:
            yield from result.partitions()

    def explain(self, row: Sequence[Any], error: BaseException) -> SerializationError:
        """The error that names the record, the field and what is wrong with the value."""
        pk = {key: value for key, value in zip(self._forms, row, strict=True) if key in self._primary}
        key: Any = [pk[each] for each in self._primary]
        key = key[0] if len(key) == 1 else key
        shown = key if isinstance(key, str | int) else list(map(str, key))
        name = f"{self._entity.name}/{shown}" if self._primary else f"{self._entity.name} (a row without a key)"
        for (field_name, form), value in zip(self._forms.items(), row, strict=True):
            try:
                orjson.dumps(value if value is None or value.__class__.__name__ == form.dumps else form.write(value))
            except Exception as wrong:  # noqa: BLE001 - whatever a value that does not fit makes of it
                reason = "a text that is not UTF-8" if _is_undecoded(value) else str(wrong) or type(wrong).__name__
                return SerializationError(
                    f"{name}: field {field_name!r} holds what cannot be dumped: {reason} "
                    "(--skip-broken leaves the record out)",
                    record=name,
                    field=field_name,
                )
        return SerializationError(f"{name}: cannot be dumped: {error}", record=name)


def _is_undecoded(value: Any) -> bool:
    """Whether a text holds bytes that could not be read (see `surroundings`)."""
    return isinstance(value, str) and any("\udc80" <= character <= "\udcff" for character in value)


def _has_family(mapper: Mapper[Any]) -> bool:
    return mapper.polymorphic_on is not None and (
        mapper.inherits is not None or len(list(mapper.self_and_descendants)) > 1
    )


def _is_of(mapper: Mapper[Any]) -> sa.ColumnElement[bool]:
    """Rows of exactly this class; the base of a family has those too that no class of it knows."""
    kind: Any = mapper.polymorphic_on
    own: sa.ColumnElement[bool] = kind == mapper.polymorphic_identity
    if mapper.inherits is not None:
        return own
    others = [each for each in mapper.polymorphic_map if each != mapper.polymorphic_identity]
    return sa.or_(kind.is_(None), kind.not_in(others)) if others else own


def _by_bytes(column: Column[Any], dialect: str) -> sa.ColumnElement[Any]:
    """A column to sort by, texts by their bytes: collations differ from server to server."""
    if isinstance(column.type, sa.Enum):
        return sa.cast(column, sa.LargeBinary) if dialect in MYSQL else _collated(sa.cast(column, sa.String), dialect)
    if isinstance(column.type, sa.String):
        return sa.cast(column, sa.LargeBinary) if dialect in MYSQL else _collated(column, dialect)
    return as_is(column)


_SORTABLE: Final = (sa.String, sa.Enum, sa.Integer, sa.Numeric, sa.Boolean, sa.DateTime, sa.Date, sa.Time)


def _sortable(column: Column[Any], dialect: str) -> sa.ColumnElement[Any]:
    """A column to sort by that may be of a type without an order, as points and XML are: by their text."""
    if isinstance(column.type, _SORTABLE) or dialect == "sqlite":
        return _by_bytes(column, dialect)
    return sa.cast(column, sa.LargeBinary) if dialect in MYSQL else _collated(sa.cast(column, sa.String), dialect)


def _collated(column: sa.ColumnElement[Any], dialect: str) -> sa.ColumnElement[Any]:
    if dialect not in ("postgresql", "sqlite"):
        return column
    return sa.type_coerce(column, sa.String()).collate("C" if dialect == "postgresql" else "BINARY")


def _compiled(
    model: str, forms: Sequence[tuple[str, Form]], primary: Collection[str]
) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """A function that makes a record of a row, in one expression."""
    names: dict[str, Any] = {"datetime": dt.datetime, "date": dt.date, "model": model}
    values = {key: f"v{number}" for number, (key, _) in enumerate(forms)}
    lines = [
        "def record(row):",
        f"    {' '.join(f'{value},' for value in values.values())} = row" if forms else "    pass",
    ]
    nulls = []
    for key, form in forms:
        value, write = values[key], f"f{values[key]}"
        names[write] = form.write
        if form.json and not form.asks_null:
            lines.append(f"    n{value} = {value}.__class__ is str and {value}.strip() == 'null'")
            nulls.append(key)
        as_it_is = f" and {value}.__class__ is not {form.dumps}" if form.dumps else ""
        lines.append(f"    if {value} is not None{as_it_is}: {value} = {write}({value})")
    keys = [values[key] for key in primary]
    pk = keys[0] if len(keys) == 1 else f"[{', '.join(keys)}]" if keys else "None"
    fields = ", ".join(f"{key!r}: {value}" for key, value in values.items())
    lines.append(f"    made = {{'fields': {{{fields}}}, 'model': model, 'pk': {pk}}}")
    if nulls:
        flags = " or ".join(f"n{values[key]}" for key in nulls)
        pairs = ", ".join(f"({key!r}, n{values[key]})" for key in nulls)
        lines.append(f"    if {flags}: made['json_null'] = [key for key, is_null in ({pairs},) if is_null]")
    lines.append("    return made")
    exec(compile("\n".join(lines), "<eventbus dump>", "exec"), names)  # noqa: S102 - our own text; names are repr()
    made: Callable[[Sequence[Any]], dict[str, Any]] = names["record"]
    return made
