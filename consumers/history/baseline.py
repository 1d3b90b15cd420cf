"""What the records were when the journal began: the history of a mirror that ran without one, or ran on without it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from consumers.history.assembly.fact import Fact
from consumers.history.assembly.transaction import Sealed
from consumers.history.journal.reader import Entry, JournalReader
from consumers.json_mirror.disk import documents
from consumers.json_mirror.state import Record

PART: Final = 5_000
"""Records of a part: a baseline of a million records is 200 parts, so that nobody has to hold it in memory."""


def slices(journal: JournalReader, entry: Entry) -> Iterator[Sealed]:
    """The records of the state as one transaction in parts, without those that have events behind this row.

    What these were before is in their first event, as far as anybody knows it.
    """
    with journal.still() as state:
        told = journal.records_after(entry.id)
        size = sum(figures.live for figures in state.figures())
        id = f"baseline-{state.identity}-{entry.id}"
        time = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        seen = 0
        for part, records in enumerate(state.records(chunk=PART), 1):
            facts = [
                _fact(record, record.document, id, size, time)
                for record in records
                if record.document is not None and record.path not in told
            ]
            if facts:
                yield Sealed(id, part, size, len(facts), seen, max(fact.version for fact in facts), facts)
                seen += len(facts)


def _fact(record: Record, document: bytes, transaction: str, size: int, time: str) -> Fact:
    read = documents.decode(document)
    return Fact(
        record=record.path,
        model=read.model,
        pk=read.pk,
        version=record.version,
        op="r",
        fields=read.fields,
        stub=read.stub,
        changed=frozenset(),
        whole=True,
        transaction=transaction,
        size=size,
        author=None,
        time=time,
        trace=None,
        notes=None,
    )
