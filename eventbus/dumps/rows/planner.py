"""From the records of a dump to rows for a database.

For each set of fields that records of one model have, one function is generated that makes a row of a record: a tuple
of what the driver takes, so that nothing is left to do for a row when it is written.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marshmallow import ValidationError
from sqlalchemy import Column
from sqlalchemy.engine import Dialect

from eventbus.dumps.facts import Facts
from eventbus.dumps.forms import Form, Read, form_of
from eventbus.dumps.rows.defaults import defaults_of
from eventbus.dumps.rows.groups import Group, Origin
from eventbus.dumps.rows.naturals import natural_key, reading_lists
from eventbus.dumps.targets import Link, Part, Target, Targets
from eventbus.errors import LoadError

MakeRow = Callable[[Any, Mapping[str, Any]], tuple[Any, ...]]
"""A record's `pk` and `fields` to a row of its group."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How records of one target with one set of fields become rows: one in each group."""

    groups: Sequence[tuple[Group, MakeRow]]
    readers: Mapping[str, tuple[str, Read]]
    links: Sequence[tuple[str, Group, MakeRow]]
    """Fields that are lists of keys on the other side of a many-to-many relationship."""
    owner: Callable[[Any, Mapping[str, Any]], Any]
    """How the record is named in its links: by its key, or by its natural one."""
    only: tuple[Group, MakeRow] | None
    """Its group where a record is one row and nothing else."""
    keys: Sequence[Read] = ()
    """What reads the parts of a pk."""

    def add(self, origin: Origin, values: Mapping[str, Any]) -> None:
        """Add a record's rows to the groups; all or, where a value does not fit, none. Raises whatever that raises."""
        pk = origin[3]
        if self.only is not None:
            group, row = self.only
            group.rows.append(row(pk, values))
            group.origins.append(origin)
            return
        made = [(group, row(pk, values)) for group, row in self.groups]
        for name, group, row in self.links:
            if not isinstance(values[name], list):
                raise TypeError(name)
            owner = self.owner(pk, values)
            group.rows.append(row([owner, None], {}))  # so that a list without any is a list as well
            group.origins.append(origin)
            for other in values[name]:
                if other is None:
                    raise TypeError(name)
                group.rows.append(row([owner, other], {}))
                group.origins.append(origin)
        for group, one in made:
            group.rows.append(one)
            group.origins.append(origin)

    def explain(self, pk: Any, values: Mapping[str, Any], error: Exception) -> tuple[str | None, str]:
        """Which field of a record is wrong and why, after its row could not be made."""
        if isinstance(error, _OtherKeyError):
            return error.field, str(error)
        for key, (source, read) in self.readers.items():
            if reason := _refusal(read, values[source]):
                return key, reason
        for name, _, _ in self.links:
            if not isinstance(values[name], list) or None in values[name]:
                return name, "not a list of keys"
        parts = [pk] if len(self.keys) == 1 else pk if isinstance(pk, list) else []
        reasons = [reason for read, part in zip(self.keys, parts, strict=False) if (reason := _refusal(read, part))]
        return None, ": ".join(["the pk does not fit the model's primary key", *reasons[:1]])


def _refusal(read: Read, value: Any) -> str | None:
    """Why a value cannot be read; None where it can, or is null."""
    try:
        if value is not None:
            read(value)
    except ValidationError as wrong:
        return " ".join(map(str, wrong.messages))
    except (ValueError, TypeError, ArithmeticError, AttributeError) as wrong:
        return str(wrong)
    return None


class Planner:
    """Makes plans for one database."""

    def __init__(self, targets: Targets, dialect: Dialect, facts: Facts, *, ignore_unknown: bool) -> None:
        self._targets = targets
        self._dialect = dialect
        self._facts = facts
        self._ignore_unknown = ignore_unknown
        self._forms: dict[Column[Any], Form] = {}

    def plan(self, target: Target, keyed: bool, names: Sequence[str]) -> Plan:
        """The plan for records with these fields, with or without a `pk`. Raises LoadError for unknown fields."""
        links = {name: link for name, link in self._targets.links(target).items() if name in names}
        sources = self._sources(target, [name for name in names if name not in links])
        primary = target.primary if keyed else []
        if not primary and len(target.parts) > 1 and not sources.keys() >= set(target.primary):
            raise LoadError("a record over several tables (joined inheritance) needs its pk")
        natural = None if primary else natural_key(target, sources)
        groups = [self._group(target, part, primary, sources, natural or ()) for part in target.parts]
        of_key = dict(zip(target.entity.keys, target.entity.columns, strict=True))
        readers = {key: (source, self._reader(target, key, of_key[key])) for key, source in sources.items()}
        return Plan(
            groups,
            readers,
            [(name, *self._link(link)) for name, link in links.items()],
            self._owner(target, primary, sources, natural),
            groups[0] if len(groups) == 1 and not links else None,
            [self._reader(target, key, of_key[key]) for key in primary],
        )

    def _owner(
        self, target: Target, primary: Sequence[str], sources: Mapping[str, str], natural: Sequence[str] | None
    ) -> Any:
        if primary:
            return lambda pk, _values: pk
        names = [sources[key] for key in natural or () if key in sources]

        def owner(_pk: Any, values: Mapping[str, Any]) -> list[Any]:
            if not names:
                raise LoadError(f"a record of {target.entity.name} without a pk needs a unique field for its lists")
            parts = [values[name] for name in names]
            return [value for part in parts for value in (part if part.__class__ is list else (part,))]

        return owner

    def _link(self, link: Link) -> tuple[Group, MakeRow]:
        primary = link.target.primary if link.owner_first else link.target.primary[::-1]
        group, row = self._group(link.target, link.target.parts[0], primary, {}, ())
        group.role, group.counted = "link", False
        group.key = tuple(group.columns.index(link.target.parts[0].columns[key]) for key in primary)
        return group, row

    def _sources(self, target: Target, names: Sequence[str]) -> dict[str, str]:
        """Attribute key to the name under which the record has it."""
        found = {name: name if name in target.entity.positions else target.aliases.get(name) for name in names}
        unknown = [name for name, key in found.items() if key is None]
        if unknown and not self._ignore_unknown:
            raise LoadError(
                f"there is no field {', '.join(map(repr, unknown))}{_meant(unknown, target)} "
                "(--ignorenonexistent leaves such out)"
            )
        sources: dict[str, str] = {}
        for name, key in found.items():
            if key is not None and sources.setdefault(key, name) != name:
                raise LoadError(f"the fields {sources[key]!r} and {name!r} are one: leave one of them out")
        for twin, key in target.twins.items():
            if twin in sources:
                sources.setdefault(key, sources[twin])
        return {key: name for key, name in sources.items() if key not in target.computed}

    def _group(
        self, target: Target, part: Part, primary: Sequence[str], sources: Mapping[str, str], natural: Sequence[str]
    ) -> tuple[Group, MakeRow]:
        keys = [key for key in part.columns if key in primary or key in sources or key in target.constants]
        columns = tuple(part.columns[key] for key in keys)
        forms = tuple(self.form(column) for column in columns)
        known_by = self._known_by(target, part, primary, sources, natural)
        missing = [
            column
            for key, column in part.columns.items()
            if key not in keys
            and not column.nullable
            and column.default is None
            and column.server_default is None
            and column.identity is None
            and column is not part.table.autoincrement_column
        ]
        own = part is target.parts[-1]
        filled = any(key in sources for key in part.columns if key not in primary)
        group = Group(
            target,
            part,
            columns,
            forms,
            tuple(columns.index(column) for column in known_by),
            defaults_of(part, keys, self._dialect),
            role="record" if own or filled else "part",
            partial=bool(missing and known_by) or not (own or filled),
            counted=own,
            naturals=tuple(place for place, column in enumerate(columns) if column.foreign_keys),
            lacking=tuple(self._lacking(part, keys)),
        )
        row = _RowFunction()
        for key, column, form in zip(keys, columns, forms, strict=True):
            usual = replace(form, loads="") if key in target.constants else form
            row.add(key, usual, self._reader(target, key, column), primary, sources, target)
        return group, row.made(len(primary))

    def _lacking(self, part: Part, given: Sequence[str]) -> Iterator[str]:
        """SQLite has NULL in a primary key, but for the one INTEGER of which it makes numbers by itself."""
        if self._dialect.name != "sqlite":
            return
        primary = list(part.table.primary_key)
        for key, column in part.columns.items():
            if column.primary_key and key not in given and column.default is None and column.server_default is None:
                type_ = self._facts.of(part.table).column(column.name).type
                if len(primary) > 1 or type_ != "integer":
                    yield key

    def _known_by(
        self, target: Target, part: Part, primary: Sequence[str], sources: Mapping[str, str], natural: Sequence[str]
    ) -> list[Column[Any]]:
        wanted = target.primary if primary or sources.keys() >= set(target.primary) else natural
        found = [part.columns[key] for key in wanted if key in part.columns]
        return found if len(found) == len(wanted) else []

    def form(self, column: Column[Any]) -> Form:
        """The form of a column's values; one that refuses them all where they have none."""
        found = self._forms.get(column)
        if found is None:
            facts = self._facts.of(column.table).column(column.name)
            found = form_of(column, self._dialect, facts) or Form(_refuse, _refuse)
            self._forms[column] = found
        return found

    def _reader(self, target: Target, key: str, column: Column[Any]) -> Read:
        read = self.form(column).read
        if key in target.constants:
            read = _of_class(read, target, target.constants[key])
        if column.primary_key or column.foreign_keys:
            read = _without_truths(read)
        return reading_lists(read, column, self._targets)


def _of_class(read: Read, target: Target, own: Any) -> Read:
    """A reader of what tells classes of one table apart: as another class's record this one would come out again."""
    mapper = target.entity.mapper
    assert mapper is not None

    def read_own(value: Any) -> Any:
        found = read(value)
        another = mapper.inherits is not None or found in mapper.polymorphic_map
        if found.__class__ is own.__class__ and found != own and another:
            raise ValueError(f"{value!r} is not of this model, but of another one: here it is {own!r}")
        return found

    return read_own


def _without_truths(read: Read) -> Read:
    """A reader of keys, which takes true for 1 only in a column of truth values."""

    def read_key(value: Any) -> Any:
        found = read(value)
        if value.__class__ is bool and found.__class__ is not bool:
            raise ValueError("true and false are no keys")
        return found

    return read_key


class _RowFunction:
    """The text of `row(pk, fields)`: one tuple."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}
        self._lines: list[str] = []
        self._items: list[str] = []

    def add(
        self,
        key: str,
        form: Form,
        read: Read,
        primary: Sequence[str],
        sources: Mapping[str, str],
        target: Target,
    ) -> None:
        number = len(self._items)
        if key in primary:
            value = f"p{primary.index(key)}"
            self._compare(value, key, sources, read)
        elif key in sources:
            value = f"v{number}"
            self._lines.append(f"    {value} = fields[{sources[key]!r}]")
        else:
            self._names[f"c{number}"] = target.constants[key]
            self._items.append(f"c{number},")
            return
        for twin, own in target.twins.items():
            if own == key:
                self._compare(value, twin, sources, read)
        self._names[f"f{number}"] = read
        self._items.append(_usual(form).format(v=value, f=f"f{number}") + ",")

    def _compare(self, value: str, key: str, sources: Mapping[str, str], read: Read) -> None:
        """Have it seen that a field of the record, if it has it, says the same as its key."""
        if key in sources:
            name = f"k{len(self._lines)}"
            self._names[name] = _same_key(sources[key], read)
            field = f"fields[{sources[key]!r}]"
            self._lines.append(f"    if {value} != {field}: {name}({value}, {field})")

    def made(self, key_parts: int) -> MakeRow:
        parts = ", ".join(f"p{number}" for number in range(key_parts))
        targets = {0: "", 1: "    p0 = pk"}.get(key_parts, f"    {parts} = pk if pk.__class__ is list else None")
        lines = ["def row(pk, fields):", targets, *self._lines, f"    return ({' '.join(self._items)})"]
        exec(compile("\n".join(lines), "<eventbus loader>", "exec"), self._names)  # noqa: S102 - our own text
        row: MakeRow = self._names["row"]
        return row


def _usual(form: Form) -> str:
    """The expression for a value of this column, by which most values need no call."""
    if form.loads:
        return f"{{v}} if {{v}}.__class__ is {form.loads} or {{v}} is None else {{f}}({{v}})"
    return "{f}({v})" if form.asks_null else "None if {v} is None else {f}({v})"


class _OtherKeyError(ValueError):
    """A record's pk is not what its fields say."""

    def __init__(self, field: str, pk: Any, value: Any) -> None:
        super().__init__(f"its pk says {pk!r}, this field {value!r}")
        self.field = field


def _same_key(key: str, read: Read) -> Callable[[Any, Any], None]:
    """What sees to it that a part of a pk and the field of the same column, which look different, are one value."""

    def check(pk: Any, value: Any) -> None:
        if value is not None and read(pk) != read(value):
            raise _OtherKeyError(key, pk, value)

    return check


def _meant(unknown: Sequence[str], target: Target) -> str:
    known = [*target.entity.keys, *target.aliases]
    close = [each for name in unknown for each in difflib.get_close_matches(name, known, 1)]
    return f", did you mean {', '.join(map(repr, close))}?" if close else ""


def _refuse(_value: Any) -> Any:
    raise ValueError("a column of this type cannot be loaded")
