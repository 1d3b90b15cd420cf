"""What came, and what the mirror shows, held against what the database says was committed."""

from __future__ import annotations

import json
import re
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Engine, select

from eventbus.events.envelope import Event
from tests.faults.chaos.models import GUESSED, TABLES, truth

Record = tuple[str, tuple[Any, ...]]
"""Entity and key."""
Row = Mapping[str, Any]
_TRACE = re.compile(r"^Traceback .*\n(?:(?: .*)?\n)*(?:\S.*\n)", re.MULTILINE)


class Change(NamedTuple):
    """What one transaction made of a row; None is none.

    `guessed`: an upsert on MariaDB was among it. It may meet a row that it did not foresee, or none where it foresaw
    one; then it is published as creation for update, or the other way round (docs/capture.md, "What is not promised").
    """

    before: Row | None
    after: Row | None
    guessed: bool


@dataclass(slots=True)
class Verdict:
    """What the checker found. Whatever is listed is told with the record."""

    committed: int = 0
    received: int = 0
    duplicates: int = 0
    kills: int = 0
    cuts: int = 0
    server_faults: Counts[str] = field(default_factory=Counts)
    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    overtaken: list[str] = field(default_factory=list)
    changed_duplicates: list[str] = field(default_factory=list)
    wrong_values: list[str] = field(default_factory=list)
    wrong_operations: list[str] = field(default_factory=list)
    wrong_files: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    left_in_outbox: int = 0

    @property
    def faults(self) -> dict[str, list[str]]:
        names = ("lost", "unexpected", "disordered", "changed_duplicates", "wrong_values", "wrong_operations")
        names = (*names, "overtaken", "wrong_files", "crashes")
        return {name: found for name in names if (found := getattr(self, name))}

    @property
    def good(self) -> bool:
        """Whether every promise was kept, and there was something to keep."""
        return self.committed > 0 and not self.faults and not self.left_in_outbox

    def __str__(self) -> str:
        servers = ", ".join(f"{what} {count}" for what, count in sorted(self.server_faults.items())) or "none"
        return (
            f"committed {self.committed}, received {self.received} ({self.duplicates} duplicates with equal id, "
            f"version and bytes), killed {self.kills}, cut {self.cuts}, servers: {servers}; "
            f"LOST {len(self.lost)}, UNEXPECTED {len(self.unexpected)}, DISORDERED {len(self.disordered)}, "
            f"OVERTAKEN {len(self.overtaken)}, "
            f"CHANGED DUPLICATES {len(self.changed_duplicates)}, WRONG VALUES {len(self.wrong_values)}, "
            f"WRONG OPERATIONS {len(self.wrong_operations)}, WRONG FILES {len(self.wrong_files)}, "
            f"CRASHES {len(self.crashes)}, LEFT {self.left_in_outbox}"
        )


def check(engine: Engine, received: Sequence[tuple[Event, bytes]], verdict: Verdict, *, in_order: bool = False) -> None:
    """Compare what came with what the database says was committed; `in_order`: a record's events came in order."""
    committed = committed_changes(engine)
    verdict.committed = sum(map(len, committed.values()))
    verdict.received = len(received)
    found: dict[Record, list[Event]] = defaultdict(list)
    by_id: dict[str, bytes] = {}
    for event, body in received:
        if event.id in by_id:
            verdict.duplicates += 1
            if by_id[event.id] != body:
                verdict.changed_duplicates.append(event.id)
            continue
        by_id[event.id] = body
        found[event.entity, _key(event.pk)].append(event)
    if in_order:
        verdict.overtaken = [str(record) for record, events in found.items() if events != sorted(events, key=_version)]
    for record in sorted({*committed, *found}, key=str):
        _check_record(record, committed.get(record, []), sorted(found[record], key=_version), verdict)


def _version(event: Event) -> int:
    return event.version


def committed_changes(engine: Engine) -> dict[Record, list[Change]]:
    """The net changes of each record, one a unit of work, in commit order."""
    with engine.connect() as connection:
        noted = connection.execute(select(truth).order_by(truth.c.id)).all()
    by_record: dict[Record, list[Any]] = defaultdict(list)
    for row in noted:
        by_record[row.entity, tuple(json.loads(row.pk))].append(row)
    return {record: list(_net(rows)) for record, rows in by_record.items()}


def _net(rows: Iterable[Any]) -> Iterator[Change]:
    before: Row | None = None
    for _, states in groupby(rows, key=lambda row: row.tx):
        rows_of_it = [None if row.state is None else json.loads(row.state) for row in states]
        after = rows_of_it[-1]
        if after != before:
            yield Change(before, after, any(str(_mark(row)).endswith(GUESSED) for row in rows_of_it))
        before = after


def _key(pk: Any) -> tuple[Any, ...]:
    return tuple(pk) if isinstance(pk, list) else (pk,)


def _mark(row: Row | None) -> Any:
    """What tells this state from others of the record."""
    return None if row is None else row.get("mark", "there")


def _check_record(record: Record, changes: Sequence[Change], events: Sequence[Event], verdict: Verdict) -> None:
    wanted, got = [_mark(change.after) for change in changes], [_mark(event.after) for event in events]
    lost, unexpected = Counts(wanted) - Counts(got), Counts(got) - Counts(wanted)
    verdict.lost += [f"{record}: {mark}" for mark in lost.elements()]
    verdict.unexpected += [f"{record}: {mark}" for mark in unexpected.elements()]
    if lost or unexpected:
        return
    if wanted != got:
        verdict.disordered.append(f"{record}: {got} in place of {wanted}")
        return
    for change, event in zip(changes, events, strict=True):
        _check_values(record, change, event, verdict)


def _check_values(record: Record, change: Change, event: Event, verdict: Verdict) -> None:
    operation = "d" if change.after is None else "c" if change.before is None else "u"
    if event.op != operation and not (change.guessed and {event.op, operation} == {"c", "u"}):
        verdict.wrong_operations.append(f"{record} {_mark(change.after)}: {event.op} in place of {operation}")
    if event.after is None or change.after is None:
        return
    vouched = change.after if event.whole else event.written
    for name in vouched:
        if event.after.get(name) != change.after[name]:
            verdict.wrong_values.append(
                f"{record} {_mark(change.after)} {event.op}: {name} {event.after.get(name)!r}, "
                f"the row has {change.after[name]!r}"
            )


def check_files(engine: Engine, directory: Path, verdict: Verdict) -> None:
    """Compare the mirror's files with the tables."""
    shown = dict(_files(directory))
    rows = dict(_rows(engine))
    for record in sorted({*shown, *rows}, key=str):
        if shown.get(record) != rows.get(record):
            verdict.wrong_files.append(f"{record}: file {shown.get(record)}, row {rows.get(record)}")


def check_log(log: Path, verdict: Verdict) -> None:
    """No process ends with an error of its own."""
    traces = _TRACE.findall(log.read_text(errors="replace"))
    verdict.crashes = [trace.strip().splitlines()[-1] for trace in traces]


def _files(directory: Path) -> Iterator[tuple[Record, Row]]:
    for path in directory.glob("[!.]*/*/*.json"):
        document = orjson.loads(path.read_bytes())
        yield (document["model"].partition(".")[2], _key(document["pk"])), document["fields"]


def _rows(engine: Engine) -> Iterator[tuple[Record, Row]]:
    with engine.connect() as connection:
        for table in TABLES:
            for row in connection.execute(select(table)):
                yield (table.name, tuple(getattr(row, key.name) for key in table.primary_key)), dict(row._mapping)
