"""Files and state held against each other: what `--verify` reports, and what `--rebuild` and `--repair` put right.

Both sides carry versions, so both can be the one to believe: the newer version wins. A file whose record the state does
not know is taken in (the state was lost, or restored from a backup); a file that is missing, broken or older is written
again. What is not a document of the mirror, or does not belong under its name, is foreign: reported, never touched.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple

from consumers.base.progress import Progress
from consumers.json_mirror.disk import documents
from consumers.json_mirror.disk.documents import Document
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.state import Change, Record, State

_CHUNK: Final = 500
_CONFIRMATION: Final = 0.05


class Fault(StrEnum):
    """How a file differs from the state."""

    MISSING = "missing"
    BROKEN = "broken"
    DIFFERENT = "different"
    LEFT_OVER = "left over"
    NEWER = "newer than the state"
    UNKNOWN = "unknown to the state"
    FOREIGN = "foreign"


HARMLESS: Final = frozenset({Fault.FOREIGN})

REMEDIES: Final = {
    Fault.MISSING: "written again",
    Fault.BROKEN: "written again",
    Fault.DIFFERENT: "written again",
    Fault.LEFT_OVER: "removed",
    Fault.NEWER: "taken into the state",
    Fault.UNKNOWN: "taken into the state",
    Fault.FOREIGN: "left alone",
}
"""What `repair` does about each."""


class Finding(NamedTuple):
    """One file that is not as the state has it."""

    fault: Fault
    directory: str
    filename: str

    @property
    def path(self) -> str:
        """Relative to DATA_DIR."""
        return f"{self.directory}/{self.filename}"


def compare(state: State, files: Files, progress: Progress | None = None) -> Iterator[Finding]:
    """Every file that differs. Memory stays flat, whatever the number of records."""
    files.begin()
    for records in state.records(_CHUNK):
        for record in records:
            fault = examine(record, files)
            if fault is not None:
                yield Finding(fault, record.directory, record.filename)
        if progress:
            progress.add(len(records))
    for directory in files.directories():
        yield from _unknown_files(state, files, directory, progress)


def confirm(findings: Iterable[Finding], state: State, files: Files, *, tries: int = 5) -> Iterator[Finding]:
    """Those findings that are still true a moment later: files follow a running mirror's state by milliseconds."""
    for finding in findings:
        if all(_still(finding, state, files) for _ in range(tries)):
            yield finding


def _still(finding: Finding, state: State, files: Files) -> bool:
    record = state.get(finding.directory, finding.filename)
    if record is None:
        return files.read(finding.directory, finding.filename) is not None
    if examine(record, files) is None:
        return False
    time.sleep(_CONFIRMATION)
    return True


def examine(record: Record, files: Files) -> Fault | None:
    """How the record's file differs from it; None where it does not."""
    content = files.read(record.directory, record.filename)
    if content == record.document:
        return None
    if content is None:
        return Fault.MISSING
    found = files.document(record.directory, record.filename)
    if found is not None and found.version > record.version:
        return Fault.NEWER
    if record.document is None:
        return Fault.LEFT_OVER if found is not None else Fault.FOREIGN
    return Fault.DIFFERENT if found is not None else Fault.BROKEN


def _unknown_files(state: State, files: Files, directory: str, progress: Progress | None) -> Iterator[Finding]:
    names = files.filenames(directory)
    while chunk := list(islice(names, _CHUNK)):
        known = state.versions(directory, chunk)
        unknown = [filename for filename in chunk if filename not in known]
        for filename in unknown:
            ours = files.document(directory, filename) is not None
            yield Finding(Fault.UNKNOWN if ours else Fault.FOREIGN, directory, filename)
        if progress:
            progress.add(len(unknown))


def repair(findings: Iterable[Finding], state: State, files: Files) -> Counter[Fault]:
    """Put right what can be; count what was found. What was written is on the disk when this returns."""
    found: Counter[Fault] = Counter()
    remaining = iter(findings)
    while chunk := list(islice(remaining, _CHUNK)):
        found.update(finding.fault for finding in chunk)
        _repair(chunk, state, files)
    if found:
        files.sync_all()
    return found


def _repair(findings: Sequence[Finding], state: State, files: Files) -> None:
    """A chunk, so that all files to be taken into the state are one commit."""
    unknown = [files.document(*where) for fault, *where in findings if fault in (Fault.NEWER, Fault.UNKNOWN)]
    state.apply([_adopt(document) for document in unknown if document is not None])
    for fault, directory, filename in findings:
        record = None if fault is Fault.FOREIGN else state.get(directory, filename)
        if record is not None and files.read(directory, filename) != record.document:
            files.put(directory, filename, record.document)


def _adopt(document: Document) -> Change:
    content = documents.encode(*document)
    return Change(document.directory, document.filename, document.version, content)
