"""What must hold before a load is kept: as many rows as records, no key met twice, no reference that leads nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.exc import IntegrityError

from eventbus.dumps.loading.loader import Loader
from eventbus.dumps.reading.places import Places
from eventbus.dumps.targets import Link, Target, Targets
from eventbus.dumps.writing import constraints, references
from eventbus.dumps.writing.blame import same
from eventbus.dumps.writing.failures import Failure, Failures
from eventbus.dumps.writing.references import Dangling, Reference
from eventbus.dumps.writing.replacing import delete_others, doomed_but_needed
from eventbus.errors import LoadError


def check(connection: Connection, targets: Targets, loader: Loader, places: Places, *, replaced: bool) -> None:
    """Raise LoadError where something does not hold."""
    loader.failures.check()
    _check_twice(targets, loader, places)
    loader.failures.check()
    if replaced:
        _replace(connection, targets, loader, places)
    loader.failures.check()
    _check_references(connection, targets, loader, places, replaced=replaced)
    loader.failures.check()
    _check_counts(loader)


def _replace(connection: Connection, targets: Targets, loader: Loader, places: Places) -> None:
    """Delete what is not in the files. Raises LoadError where something that stays needs it."""
    kept, parking = loader.writer.kept_keys, loader.writer.parking
    assert kept is not None
    assert parking is not None
    scope = loader.scope
    for target in scope:
        for part in target.parts:
            loader.writer.written(part.table)
    _tell(targets, loader, places, list(doomed_but_needed(connection, targets, scope, kept, loader.failures.limit)))
    loader.failures.check()
    gone = delete_others(connection, targets, scope, kept)
    for each in parking.left():
        reason = f"{each.column.key} is wanted by two records, this one and that of the key {list(each.key)!r}"
        loader.failures.add(Failure(each.origin, reason, each.column.key))
    for table, count in gone.items():
        loader.writer.tables[table].added -= count
    loader.loaded.deleted = sum(gone[target.parts[-1].table] for target in scope if target.parts[-1].table in gone)


def _check_counts(loader: Loader) -> None:
    for table, written in loader.writer.tables.items():
        expected, found = written.before + written.added, loader.facts.count(table)
        if found != expected:
            raise LoadError(
                f"table {table.name} has {found:,} rows after the load where there should be {expected:,}: "
                "others write into it meanwhile (load while they do not), or a trigger or rule of the database leaves "
                "rows out or adds some"
            )


def _check_twice(targets: Targets, loader: Loader, places: Places) -> None:
    """Records of one key, by the numbers that stand for keys; two keys of one number are no failure."""
    for table, written in loader.writer.tables.items():
        if numbers := written.ledger.twice():
            _name_twice(targets, table, loader.failures, places, len(numbers))


def _name_twice(targets: Targets, table: Table, failures: Failures, places: Places, most: int) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for path, number, record in places.records():
        try:
            target, pk = targets.find(record["model"]), record.get("pk")
        except (TypeError, KeyError, AttributeError):
            continue
        if target is None or pk is None or target.parts[-1].table is not table:
            continue
        first = seen.setdefault(str(pk), (path, number))
        if first != (path, number):
            reason = f"there are two records of this key: the other one is record {first[1]} of {first[0]}"
            failures.add(Failure((path, number, record["model"], pk), reason))
            most -= 1
            if not most:
                return


# -- references ----------------------------------------------------------------


def _check_references(
    connection: Connection, targets: Targets, loader: Loader, places: Places, *, replaced: bool
) -> None:
    every = False
    if connection.dialect.name == "postgresql":
        try:
            with connection.begin_nested():
                constraints.check_now(connection)
        except IntegrityError as error:
            every, cause = True, error
    found = list(_dangling(connection, targets, loader, replaced=replaced, every=every))
    _tell(targets, loader, places, found)
    if every and not loader.failures:
        raise LoadError(" ".join(str(cause.orig).split())) from cause


def _dangling(
    connection: Connection, targets: Targets, loader: Loader, *, replaced: bool, every: bool
) -> Iterable[Dangling]:
    incoming = replaced or connection.dialect.name == "sqlite"
    for reference in references.to_check(connection, targets, loader.used, all_incoming=incoming, every=every):
        yield from references.dangling(connection, reference, loader.failures.limit)


def _tell(targets: Targets, loader: Loader, places: Places, found: list[Dangling]) -> None:
    places_of = _located(targets, places, found)
    for number, each in enumerate(found):
        target = _target(targets, each.reference)
        model = each.reference.child.name if target is None else targets.model(target)
        field = str(getattr(each.reference.columns[0], "key", each.reference.columns[0].name))
        key: Any = each.key[0] if len(each.key) == 1 else list(each.key)
        if number in places_of:
            path, record_number, record = places_of[number]
            origin = (path, record_number, record["model"], record.get("pk"))
            loader.failures.add(Failure(origin, str(each), field))
        else:
            loader.failures.add(Failure(None, str(each), field, model=model, pk=key))


def _target(targets: Targets, reference: Reference) -> Target | None:
    return targets.of_table(reference.child) if isinstance(reference.child, Table) else None


def _located(targets: Targets, places: Places, found: list[Dangling]) -> dict[int, tuple[str, int, Any]]:
    """By the number of each, the record that it came from, as far as it is one of the files."""
    left = {number: (each, _target(targets, each.reference)) for number, each in enumerate(found)}
    result: dict[int, tuple[str, int, Any]] = {}
    for path, number, record in places.records() if left else ():
        try:
            target = targets.find(record["model"])
            links = {} if target is None else targets.links(target)
            hit = next((n for n, (each, of) in left.items() if _came_from(record, target, links, each, of)), None)
        except (TypeError, KeyError, AttributeError):
            continue
        if hit is not None:
            result[hit] = (path, number, record)
            del left[hit]
            if not left:
                break
    return result


def _came_from(
    record: Any, target: Target | None, links: Mapping[str, Link], dangling: Dangling, of: Target | None
) -> bool:
    """Whether a row is that of a record, or one that the record's lists made."""
    if of is target:
        return _is_of(record, dangling, target)
    for name, link in links.items():
        if link.target is of:
            key = dangling.key or (record.get("pk"), dangling.values[0])  # a table without a key has only that
            owner, other = key if link.owner_first or not dangling.key else key[::-1]
            if same(record.get("pk"), owner) and any(same(each, other) for each in record["fields"].get(name, ())):
                return True
    return False


def _is_of(record: Any, dangling: Dangling, target: Target | None) -> bool:
    pk = record.get("pk")
    if pk is not None:
        key: Any = dangling.key[0] if len(dangling.key) == 1 else list(dangling.key)
        return same(pk, key)
    fields = record["fields"]
    aliases = {} if target is None else {key: name for name, key in target.aliases.items()}
    return all(
        same(fields.get(column.key, fields.get(aliases.get(column.key, ""))), value)
        for column, value in zip(dangling.reference.columns, dangling.values, strict=True)
    )
