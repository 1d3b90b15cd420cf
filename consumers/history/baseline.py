"""What the records were when the journal began: the history of a mirror that ran without one, or ran on without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from consumers.history.assembly.fact import Fact
from consumers.history.assembly.transaction import Sealed
from consumers.history.journal.reader import Entry, JournalReader
from consumers.json_mirror.disk import documents
from consumers.json_mirror.errors import StateDamaged
from consumers.json_mirror.state import Record

PART: Final = 5_000
"""Records of a part: a baseline of a million records is 200 parts, so that nobody has to hold it in memory."""


def slices(journal: JournalReader, entry: Entry, held: Callable[[str], tuple[str, Any] | None]) -> Iterator[Sealed]:
    """The records of the state as one transaction in parts, without those that have events behind this row.

    What these were before is in their first event, as far as anybody knows it. Of deleted records those are told of
    which the history has nothing of it: `held` gives model and key of what it takes to be there.
    """
    with journal.still() as state:
        told = journal.records_after(entry.id)
        size = sum(figures.live for figures in state.figures())
        id = f"baseline-{state.identity}-{entry.id}"
        time = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        seen = 0
        for part, records in enumerate(state.records(chunk=PART), 1):
            found = (_fact(record, held, id, size, time) for record in records if record.path not in told)
            facts = [fact for fact in found if fact is not None]
            if facts:
                yield Sealed(id, part, size, len(facts), seen, max(fact.version for fact in facts), facts)
                seen += len(facts)


def _read(record: Record) -> documents.Document | None:
    try:
        if record.sound is not False:
            return None if record.document is None else documents.decode(record.document)
    except ValueError as error:
        raise _spoilt(record) from error
    raise _spoilt(record)


def _spoilt(record: Record) -> StateDamaged:
    return StateDamaged(f"{record.path}: its row in the state is spoilt; run the mirror with --verify --repair")


def _fact(
    record: Record, held: Callable[[str], tuple[str, Any] | None], transaction: str, size: int, time: str
) -> Fact | None:
    read = _read(record)
    identity = held(record.path) if read is None else (read.model, read.pk)
    if identity is None:
        return None
    model, pk = identity
    return Fact(
        record=record.path,
        model=model,
        pk=pk,
        version=record.version,
        op="d" if read is None else "r",
        fields=read and read.fields,
        stub=read and read.stub,
        changed=frozenset(),
        whole=True,
        transaction=transaction,
        size=size,
        author=None,
        time=time,
        trace=None,
        notes=None,
    )
