"""Upserts: which rows an INSERT … ON CONFLICT (or ON DUPLICATE KEY) finds in its way, and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Connection, Engine, Insert, Table, UniqueConstraint, select, text

from eventbus.errors import CaptureError
from eventbus.events.change import MISSING, Key
from eventbus.listeners.statements.rows import Hit, Known

Given = Sequence[Mapping[str, Any]]


class Outcome(NamedTuple):
    """What an upsert did: the keys of new rows, and the others as they were before."""

    created: list[Key]
    updated: Known
    deleted: Known


class Telling:
    """Knows which tables tell which of an upsert's rows are new: those of PostgreSQL, if not partitioned."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Engine, dict[Table, bool]] = WeakKeyDictionary()

    def __call__(self, connection: Connection, table: Table) -> bool:
        """Asks the database once a table."""
        if connection.dialect.name != "postgresql":
            return False
        known = self._known.setdefault(connection.engine, {})
        if table not in known:
            known[table] = self._ask(connection, table)
        return known[table]

    def _ask(self, connection: Connection, table: Table) -> bool:
        schemas = connection.get_execution_options().get("schema_translate_map") or {}
        quote = connection.dialect.identifier_preparer.quote
        schema = schemas.get(table.schema, table.schema)
        name = quote(table.name) if schema is None else f"{quote(schema)}.{quote(table.name)}"
        kind = select(text("relkind")).select_from(text("pg_catalog.pg_class"))
        found: Any = connection.scalar(kind.where(text("oid = to_regclass(:name)").bindparams(name=name)))
        return found in ("r", b"r")


def rows_in_conflict(connection: Connection, statement: Insert, hit: Hit, given: Given, *, tells_new: bool) -> Known:
    """The rows that share a primary or unique key with one that is to be inserted, locked; perhaps some more.

    Raises CaptureError where the new rows come from a SELECT: what they conflict with cannot be told. So it is, unless
    the database tells afterwards what is new, where a unique key is computed from what the statement holds. A key that
    is made for a new row (a sequence, a function as default) conflicts with nothing we know of.
    """
    if statement.select is not None:
        raise CaptureError(
            f"INSERT … SELECT into {hit.name} with an upsert clause: which rows it makes and which it changes cannot "
            "be told. Insert values, or split it into an UPDATE and an INSERT"
        )
    defaults = {hit.key_of_column(column): _default(column) for column in hit.table.columns}
    known: Known = {}
    for names in _unique_keys(hit):
        computed = None in names or any(_is_computed(row, names) for row in given)
        if computed and not tells_new and _may_meet(statement, hit, names):
            raise CaptureError(
                f"INSERT into {hit.name} with an upsert clause: the database computes a unique key of it "
                f"({', '.join(name or 'an expression' for name in names)}), so what it conflicts with cannot be told. "
                "Name other columns in its ON CONFLICT, give values, or split it into an UPDATE and an INSERT"
            )
        if None not in names:
            for definite, tuples in _by_shape(names, given, defaults).items():
                known.update(hit.read_where(connection, definite, list(tuples), {}))
    return known


def outcome(connection: Connection, hit: Hit, earlier: Known, rows: Mapping[Key, bool | None]) -> Outcome:
    """What became of the rows that were in the way, and of those that the statement gave back.

    A row that is not new and was not foreseen has another key now, if one that was foreseen is gone. Else it got in the
    way since (another transaction committed it), or by a key of which we could not know.
    """
    passed = [key for key in earlier if key not in rows]
    # Left alone; or replaced (OR REPLACE), or given another key.
    left = hit.read_keys(connection, passed, {}) if passed else {}
    gone = {key: earlier[key] for key in passed if key not in left}
    met = [key for key, new in rows.items() if new is False and key not in earlier]
    if gone and met:
        if len(met) != len(gone):
            raise CaptureError(
                f"INSERT into {hit.name} gives new keys to rows that could not be foreseen: which is which?"
            )
        met = []
    unforeseen = {
        key: (entity, dict.fromkeys(row, MISSING)) for key, (entity, row) in hit.read_keys(connection, met, {}).items()
    }
    return Outcome(
        created=[key for key in rows if key not in earlier and key not in unforeseen],
        updated={**{key: earlier[key] for key in rows if key in earlier}, **unforeseen},
        deleted=gone,
    )


def _unique_keys(hit: Hit) -> Iterator[tuple[str | None, ...]]:
    """The attribute keys of the primary key and of each unique constraint and index; None for what is no attribute."""
    yield hit.pk_keys
    table = hit.table
    constraints: list[Iterable[Any]] = [
        each.columns for each in table.constraints if isinstance(each, UniqueConstraint)
    ]
    constraints += [each.expressions for each in table.indexes if each.unique]
    for columns in constraints:
        yield tuple(None if _is_made(column) else hit.key_of_column(column) for column in columns)


def _is_made(column: Any) -> bool:
    return not isinstance(column, Column) or column.computed is not None


def _default(column: Column[Any]) -> Any:
    """What a row has that does not give the column: MISSING where only the statement's run will tell."""
    if column.default is not None:
        return getattr(column.default, "arg", MISSING) if column.default.is_scalar else MISSING
    return None if column.server_default is None else MISSING


def _is_computed(row: Mapping[str, Any], names: Collection[str | None]) -> bool:
    """Whether the statement has the database compute this whole key from what it holds."""
    return all(row.get(name) is MISSING for name in names if name is not None)


def _by_shape(
    names: Sequence[Any], given: Given, defaults: Mapping[Any, Any]
) -> dict[tuple[str, ...], dict[tuple[Any, ...], None]]:
    """The keys of the rows to insert, by the parts that are known: rows that share these may be in the way."""
    shapes: dict[tuple[str, ...], dict[tuple[Any, ...], None]] = {}
    for row in given:
        parts = {name: row.get(name, defaults.get(name)) for name in names}
        if any(part is None for part in parts.values()):
            continue  # NULL is like nothing else
        definite = {name: part for name, part in parts.items() if part is not MISSING}
        if definite:
            shapes.setdefault(tuple(definite), {})[tuple(definite.values())] = None
    return shapes


def _may_meet(statement: Insert, hit: Hit, names: Collection[str | None]) -> bool:
    """Whether the upsert does something about a conflict on this key; others are errors."""
    target = getattr(statement._post_values_clause, "inferred_target_elements", None)
    if target is None:
        return True
    chosen = [hit.key_of_column(each) if isinstance(each, str | Column) else None for each in target]
    return None in chosen or set(chosen) == set(names)
