"""At the commit: what no object knew of the changed rows (server defaults, unloaded columns) is read, all at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, select, tuple_
from sqlalchemy.sql.selectable import FromClause

from eventbus.errors import CaptureError, CaptureWarning
from eventbus.events.change import MISSING, Entity, Key, Values
from eventbus.listeners.flushing.reading import rows_of
from eventbus.listeners.recording.frame import Frame, Recorded
from eventbus.records.columns import stored
from eventbus.records.expressions import is_expression

_CHUNK: Final = 500
"""Rows a SELECT: keeps bound parameters below every database's limit."""
_ROW_VALUES: Final = ("sqlite", "postgresql", "mysql", "mariadb")

Records = dict[Key, Recorded | Values]


def complete(frame: Frame, entity: Entity, needed: Sequence[int], connection: Connection) -> None:
    """Read what is missing of this entity's rows, within the transaction: one SELECT for up to 500 rows.

    `needed`: the positions that are published. A row that is not there any more was deleted by something the Session
    does not see (a trigger, a cascade, SQL of one's own): its record becomes a deletion, with a CaptureWarning.
    """
    records = frame.records[entity]
    lacking = {pk: _after(record) for pk, record in records.items() if _lacks(record, needed)}
    if not lacking:
        return
    positions = sorted({i for after in lacking.values() for i in needed if after[i] is MISSING} - set(entity.pk_index))
    if not positions:
        return
    found = dict(_read(entity, positions, list(lacking), connection))
    _rename_texts(frame, lacking, found, entity)
    strange = found.keys() - lacking.keys()
    if strange:
        raise CaptureError(
            f"{entity.name}: the database knows the record {min(strange, key=str)!r} by another key than the Session "
            f"did (types or collation of the primary key differ), so its values cannot be told"
        )
    for pk, after in lacking.items():
        if pk in found:
            _fill(records, pk, after, dict(zip(positions, found[pk], strict=True)))
        else:
            _vanish(records, entity, pk)


def _rename_texts(frame: Frame, lacking: dict[Key, Any], found: Mapping[Key, Any], entity: Entity) -> None:
    """Numbers and UUIDs whose keys were given as text go by the key that is read: of the same text."""
    records = frame.records[entity]
    typed = {tuple(map(str, pk)): pk for pk in found.keys() - lacking.keys()}
    for pk in [pk for pk in lacking if typed and pk not in found]:
        now = typed.get(tuple(map(str, pk)))
        if now is None or (now in records and not isinstance(records[pk], tuple)):
            continue
        after = list(lacking.pop(pk))
        for position, part in zip(entity.pk_index, now, strict=True):
            after[position] = part
        lacking[now] = tuple(after)
        record = records.pop(pk)
        if isinstance(record, Recorded):
            record.pk, record.after = now, lacking[now]
            records[now] = record
        else:
            frame.created(entity, now, lacking[now])  # of the key that was "changed" to its text: an update


def forget_untouched(frame: Frame, entity: Entity) -> bool:
    """Make what updated records did not set unknown, so that `complete` reads it; whether there is any such record.

    An object may have been loaded before another transaction changed the same row in a column that this one leaves
    alone. The row is locked since its UPDATE: what is read now is what will be committed.
    """
    any_updated = False
    for record in frame.records[entity].values():
        if type(record) is Recorded and record.op == "u" and record.after is not None:
            any_updated = True
            kept = {*record.before, *(entity.keys[position] for position in entity.pk_index)}
            record.certain = entity.keys
            record.after = tuple(
                [value if key in kept else MISSING for key, value in zip(entity.keys, record.after, strict=True)]
            )
    return any_updated


def holds_expressions(record: Recorded) -> bool:
    """Whether an object has left SQL expressions in the place of values."""
    return any(map(is_expression, (*record.before.values(), *(record.after or ()))))


def forget_expressions(frame: Frame) -> bool:
    """Make values unknown that are SQL expressions, so that `complete` reads them; whether there was any.

    SQLAlchemy expires an attribute that was set to one, but not if that was a bound parameter. Nobody looks for those
    before an event cannot be written: they are rare, and rows are many.
    """
    found = False
    for entity, records in frame.records.items():
        for pk, record in records.items():
            if isinstance(record, tuple):
                if any(map(is_expression, record)):
                    records[pk] = _without_expressions(record)
                    frame.partial.add(entity)
                    found = True
            elif holds_expressions(record):
                record.exact = False
                record.before = {key: MISSING if is_expression(old) else old for key, old in record.before.items()}
                if record.after is not None:
                    record.after = _without_expressions(record.after)
                frame.partial.add(entity)
                found = True
    return found


def forget_unfit(frame: Frame, column: tuple[Entity, str] | None) -> None:
    """Make unknown what no event can hold, so that `complete` reads it: expressions, and all values of this column."""
    forget_expressions(frame)
    if column is None:
        return
    entity, key = column
    position, records = entity.positions[key], frame.records[entity]
    frame.partial.add(entity)
    for pk, record in records.items():
        after = _after(record)
        if after is None:
            continue
        after = (*after[:position], MISSING, *after[position + 1 :])
        if isinstance(record, Recorded):
            record.after = after
        else:
            records[pk] = after


def _without_expressions(values: Values) -> Values:
    return tuple([MISSING if is_expression(value) else value for value in values])


def _lacks(record: Recorded | Values, needed: Sequence[int]) -> bool:
    after = _after(record)
    if after is None:
        return False
    for position in needed:  # noqa: SIM110 - any() of a generator takes three times as long, and rows are many
        if after[position] is MISSING:
            return True
    return False


def _after(record: Recorded | Values) -> Any:
    return record if type(record) is tuple else record.after  # type: ignore[union-attr]


def _read(
    entity: Entity, positions: Sequence[int], keys: Sequence[Key], connection: Connection
) -> Iterator[tuple[Key, Sequence[Any]]]:
    columns = entity.columns
    primary = [columns[position] for position in entity.pk_index]
    source: FromClause = entity.table if entity.mapper is None else entity.mapper.persist_selectable
    statement = select(*primary, *(stored(columns[position]) for position in positions)).select_from(source)
    width = len(primary)
    asked = [*primary, *(columns[position] for position in positions)]
    for start in range(0, len(keys), _CHUNK):
        matches = _among(primary, keys[start : start + _CHUNK], connection.dialect.name)
        for row in rows_of(connection, statement.where(matches), asked):
            yield tuple(row[:width]), row[width:]


def _among(primary: Sequence[ColumnElement[Any]], keys: Sequence[Key], dialect: str) -> ColumnElement[bool]:
    if len(primary) == 1:
        # Of the column's type: what a value alone tells may be another one, which binds it otherwise.
        values = [pk[0] for pk in keys]
        return primary[0].in_(bindparam(None, values, type_=primary[0].type, expanding=True))
    if dialect in _ROW_VALUES:
        return tuple_(*primary).in_(keys)
    return or_(*(and_(*(column == part for column, part in zip(primary, pk, strict=True))) for pk in keys))


def _fill(records: Records, pk: Key, after: Values, values: dict[int, Any]) -> None:
    filled = tuple([values.get(i, MISSING) if value is MISSING else value for i, value in enumerate(after)])
    record = records[pk]
    if type(record) is tuple:
        records[pk] = filled
        return
    assert isinstance(record, Recorded)
    if record.certain is None:
        read = [i for i, value in values.items() if after[i] is MISSING and value is not MISSING]
        record.certain = tuple([record.entity.keys[i] for i in read])
    record.after = filled


def _vanish(records: Records, entity: Entity, pk: Key) -> None:
    record = records[pk]
    if type(record) is tuple:
        del records[pk]
    else:
        records[pk] = Recorded("d", entity, pk, record.before, None)  # type: ignore[union-attr]
    warnings.warn(
        f"A {entity.name} written in this transaction is gone before the commit: deleted by something the Session "
        "cannot see (a trigger, a database cascade, SQL of your own). It is published as deleted.",
        CaptureWarning,
        stacklevel=2,
    )
