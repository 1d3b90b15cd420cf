"""`log`, `why`, `show`, `diff`, `at`, `path`: questions to the history."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import orjson

from consumers.history.commands import telling
from consumers.history.commands.options import (
    AS_JSON,
    KEY,
    MODEL,
    data_dir,
    directory_of,
    json_text,
    opened,
    path_of,
    position_of,
    say,
)
from consumers.history.errors import NotInHistory
from consumers.history.git.layout import path_of as path_in_git
from consumers.history.reading import moments, past
from consumers.history.reading.history import History
from consumers.history.reading.transaction import COLUMNS, Touch, Transaction
from consumers.history.reading.why import NOTHING, causes
from consumers.history.store import chain
from consumers.history.store.content import identify
from consumers.history.store.rows import Version


@click.command()
@click.argument("model", metavar="[MODEL]", required=False)
@click.argument("key", metavar="[KEY]", required=False)
@click.option("--since", help="Not before this time.")
@click.option("--until", help="Not after this time.")
@click.option("--author", help="By this author only.")
@click.option("--tx", "transaction", help="Of this transaction only.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many.")
@AS_JSON
@data_dir
def log(data_dir: Path | None, as_json: bool, limit: int | None, **asked: str | None) -> None:
    """Tell what happened, newest first: to all records, to those of MODEL, or to one."""
    with opened(data_dir) as history:
        for transaction in islice(_transactions(history, **asked), limit):
            touches = history.touches(transaction.position)
            if as_json:
                changes = [telling.touched(touch) for touch in touches]
                say(json_text({**telling.as_object(transaction), "changes": changes}))
            else:
                say(telling.line(transaction, _first(touches, asked["model"], asked["key"], history)))


def _first(touches: list[Touch], model: str | None, key: str | None, history: History) -> list[Touch]:
    """What was asked for comes first in the line."""
    if model is None:
        return touches
    wanted = path_of(model, key, history) if key else f"{directory_of(model)}/"
    return sorted(touches, key=lambda touch: not touch.path.startswith(wanted))


def _transactions(history: History, **asked: str | None) -> Iterator[Transaction]:
    where: list[str] = ["1"]
    values: list[Any] = []
    for name, condition in (("since", "tx.time >= ?"), ("until", "tx.time <= ?")):
        if text := asked[name]:
            where.append(condition)
            values.append(moments.parse(text))
    if asked["author"]:
        where.append("tx.author = ?")
        values.append(asked["author"])
    if asked["transaction"]:
        numbers = [each.position for each in history.parts(asked["transaction"])]
        where.append(f"tx.position IN ({', '.join(map(str, numbers))})")
    if model := asked["model"]:
        condition, found = _of_records(history, model, asked["key"])
        where.append(condition)
        values += found
    # Made of the constants above; every value is bound.
    sql = f"SELECT {COLUMNS} FROM tx WHERE {' AND '.join(where)} ORDER BY tx.position DESC"  # noqa: S608
    for row in history.rows(sql, *values):
        yield Transaction.of(row)


def _of_records(history: History, model: str, key: str | None) -> tuple[str, list[Any]]:
    if key:
        record = history.record(path_of(model, key, history))
        return "tx.position IN (SELECT position FROM change WHERE record = ?)", [record.id]
    condition = (
        "EXISTS (SELECT 1 FROM change JOIN record ON record.id = change.record "
        "WHERE change.position = tx.position AND substr(path, 1, ?) = ?)"
    )
    directory = f"{directory_of(model)}/"
    return condition, [len(directory), directory]


@click.command()
@MODEL
@KEY
@click.argument("field")
@click.option("--all", "every", is_flag=True, help="Every value it has had, the latest first.")
@AS_JSON
@data_dir
def why(model: str, key: str, field: str, every: bool, as_json: bool, data_dir: Path | None) -> None:
    """Tell who gave FIELD its value: value, author, time, transaction, trace, and what it was before.

    The answer is the transaction that changed the field. One that wrote the row later from an old copy is named, and
    not blamed.
    """
    with opened(data_dir) as history:
        found = list(islice(causes(history, path_of(model, key, history), field), None if every else 1))
    if not found:
        raise NotInHistory(f"{model} {key} has never had a field {field}, as far as the history goes back")
    for each in found:
        say(
            json_text(telling.cause_object(each))
            if as_json
            else "\n".join([f"{field} = {telling.cause(each)[0]}", *telling.cause(each)[1:]])
        )


@click.command()
@click.argument("transaction", metavar="TX")
@data_dir
def show(transaction: str, data_dir: Path | None) -> None:
    """Tell all of one transaction: its id, the beginning of it, or #POSITION; each record with old and new values."""
    with opened(data_dir) as history:
        for each in _parts(history, transaction):
            say(f"{telling.head(each)}{telling.marks(each)}")
            for name, text in [("trace", each.trace), *sorted(each.notes.items())]:
                if text:
                    say(f"  {name}: {text}")
            for touch in history.touches(each.position):
                say(f"  {telling.named(touch)} ({telling.deed(touch.step)})")
                for line in _differences(history, touch):
                    say(f"    {line}")


def _parts(history: History, text: str) -> list[Transaction]:
    if text.startswith("#") and text[1:].isdecimal():
        return [history.transaction(int(text[1:]))]
    return history.parts(text)


def _differences(history: History, touch: Touch) -> Iterator[str]:
    versions = history.walk(touch.path)
    this = chain.at_version(versions, touch.step)
    now, was = _fields(this), _fields(next(versions, None))
    for name in sorted(now.keys() | was.keys()):
        old, new = was.get(name, NOTHING), now.get(name, NOTHING)
        if old is NOTHING or new is NOTHING or old != new:
            yield f"{name}: {telling.value(old)} -> {telling.value(new)}"


def _fields(version: Version | None) -> Any:
    return version.content.fields if version is not None and version.content is not None else {}


@click.command()
@MODEL
@KEY
@click.argument("versions", nargs=-1, metavar="[OLD [NEW]]")
@data_dir
def diff(model: str, key: str, versions: tuple[str, ...], data_dir: Path | None) -> None:
    """Compare two versions of a record; without them the newest with the one before."""
    if len(versions) > 2:
        raise click.UsageError("give at most two versions")
    with opened(data_dir) as history:
        known = history.versions(path_of(model, key, history))
    old, new = _two(known, versions)
    for line in difflib.unified_diff(_lines(old), _lines(new), _title(old), _title(new), lineterm=""):
        say(line)


def _two(known: list[Version], asked: tuple[str, ...]) -> tuple[Version | None, Version | None]:
    if not known:
        raise NotInHistory("the history keeps no version of this record")
    found: list[Version | None] = []
    for text in asked:
        match = next((each for each in known if text.isdecimal() and each.step.version == int(text)), None)
        if match is None:
            raise NotInHistory(f"there is no version {text} in the history of this record")
        found.append(match)
    if not found:
        found = [known[1] if len(known) > 1 else None]
    return found[0], found[1] if len(found) > 1 else known[0]


def _lines(version: Version | None) -> list[str]:
    if version is None or version.content is None:
        return []
    shown = orjson.dumps(version.content.fields, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    return shown.decode().split("\n")


def _title(version: Version | None) -> str:
    return "nothing" if version is None else f"{version.step.version:020d}"


@click.command()
@click.argument("moment", metavar="TIME")
@click.argument("model", metavar="[MODEL]", required=False)
@click.argument("key", metavar="[KEY]", required=False)
@data_dir
def at(moment: str, model: str | None, key: str | None, data_dir: Path | None) -> None:
    """Print all records, those of MODEL, or one, as they were at TIME (or #POSITION): a dump, one record a line."""
    with opened(data_dir) as history:
        position = position_of(history, moment)
        out = click.open_file("-", "w", encoding="utf-8")
        if key and model:
            out.write(json_text(one_record(history, model, key, position).dumped()) + "\n")
            return
        for record in past.records(history, position, directory_of(model) if model else ""):
            out.write(json_text(record.dumped()) + "\n")


def one_record(history: History, model: str, key: str, position: int) -> past.Past:
    """One record as it was. Raises NotInHistory where it was not there."""
    path = path_of(model, key, history)
    content = history.content(path, position)
    if content is None:
        raise NotInHistory(f"{model} {key} was not there at position {position}")
    model, pk = identify(path, history.record(path).key)
    return past.Past(path, model, pk, content)


@click.command()
@MODEL
@KEY
@data_dir
def path(model: str, key: str, data_dir: Path | None) -> None:
    """Print where the record lies: in DATA_DIR, and in the git repository."""
    try:
        with opened(data_dir) as history:
            found = path_of(model, key, history)
    except NotInHistory:
        found = path_of(model, key)
    say(f"{found}\n{path_in_git(found)}")
