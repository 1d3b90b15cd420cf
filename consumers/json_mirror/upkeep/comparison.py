"""Files and state held against each other: what `--verify` reports, and what `--rebuild` and `--repair` put right.

Both sides carry versions, so both can be the one to believe: the newer version wins. A file whose record the state does
not know is taken in (the state was lost, or restored from a backup); a file that is missing, broken or older is written
again. What is not a document of the mirror, or does not belong under its name, is foreign: reported, never touched.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple

from consumers.base.progress import Progress
from consumers.json_mirror.disk import documents
from consumers.json_mirror.disk.documents import Document
from consumers.json_mirror.disk.files import MAX_BLOCKED, OBSTACLES, Files, is_possible
from consumers.json_mirror.errors import DirectoryUnusable
from consumers.json_mirror.state import Change, Record, State
from eventbus.redaction import shown

_CHUNK: Final = 500
_SLICE: Final = 1 << 20
_TOLD: Final = 20
_CONFIRMATION: Final = 0.05

log = logging.getLogger(__name__)


class Fault(StrEnum):
    """How a file differs from the state."""

    MISSING = "missing"
    BROKEN = "broken"
    DIFFERENT = "different"
    LEFT_OVER = "left over"
    NEWER = "newer than the state"
    UNKNOWN = "unknown to the state"
    FOREIGN = "foreign"
    SPOILT = "damaged in the state"
    LOST = "damaged in the state, and no good file"


HARMLESS: Final = frozenset({Fault.FOREIGN})

REMEDIES: Final = {
    Fault.MISSING: "written again",
    Fault.BROKEN: "written again",
    Fault.DIFFERENT: "written again",
    Fault.LEFT_OVER: "removed",
    Fault.NEWER: "taken into the state",
    Fault.UNKNOWN: "taken into the state",
    Fault.FOREIGN: "left alone",
    Fault.SPOILT: "taken from the file",
    Fault.LOST: "forgotten; a snapshot by its service brings it back",
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
    if finding.fault is Fault.FOREIGN:
        return files.exists(finding.directory, finding.filename)
    record = state.get(finding.directory, finding.filename)
    if record is None:
        return files.exists(finding.directory, finding.filename)
    if examine(record, files) is None:
        return False
    time.sleep(_CONFIRMATION)
    return True


def examine(record: Record, files: Files) -> Fault | None:
    """How the record's file differs from it; None where it does not."""
    content = files.read(record.directory, record.filename, len(record.document or b""))
    if record.sound is not False and content == record.document:
        return None
    if not is_trustworthy(record):
        return Fault.LOST if files.document(record.directory, record.filename) is None else Fault.SPOILT
    if content is None:
        return Fault.MISSING
    found = files.document(record.directory, record.filename)
    if found is not None and found.version > record.version:
        return Fault.NEWER
    if record.document is None:
        return Fault.LEFT_OVER if found is not None else Fault.FOREIGN
    return Fault.DIFFERENT if found is not None else Fault.BROKEN


def is_trustworthy(record: Record) -> bool:
    """Whether it may be put over a file: it is what was written, and the document of this file."""
    if record.sound is False or record.document is None:
        return record.sound is not False
    try:
        found = documents.decode(record.document)
    except ValueError:
        return False
    return (found.directory, found.filename, found.version) == (record.directory, record.filename, record.version)


def _unknown_files(state: State, files: Files, directory: str, progress: Progress | None) -> Iterator[Finding]:
    names = files.filenames(directory)
    while chunk := list(islice(names, _CHUNK)):
        known = state.versions(directory, list(filter(is_possible, chunk))) if is_possible(directory) else {}
        unknown = [filename for filename in chunk if filename not in known]
        for filename in unknown:
            ours = is_possible(directory + filename) and files.document(directory, filename) is not None
            yield Finding(Fault.UNKNOWN if ours else Fault.FOREIGN, directory, filename)
        if progress:
            progress.add(len(unknown))


class Repaired(Counter[Fault]):
    """How often each fault was found. `blocked`: paths in whose place something foreign stands, such as a directory."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked: list[str] = []


def repair(findings: Iterable[Finding], state: State, files: Files) -> Repaired:
    """Put right what can be; count what was found. What was written is on the disk when this returns."""
    found = Repaired()
    remaining = iter(findings)
    while chunk := list(islice(remaining, _CHUNK)):
        found.update(finding.fault for finding in chunk)
        found.blocked += _repair(chunk, state, files)
        if len(found.blocked) > MAX_BLOCKED:
            raise DirectoryUnusable(
                f"something foreign stands in the place of more than {MAX_BLOCKED:,} files, such as "
                f"{shown(found.blocked[0], 1000)}: remove it"
            )
    for path in found.blocked[:_TOLD]:
        log.error("something foreign stands in the place of %s", shown(path, 1000), extra={"path": path})
    if found:
        files.sync_all()
    return found


def _repair(findings: Sequence[Finding], state: State, files: Files) -> Iterator[str]:
    """A chunk, so that files to be taken into the state are few commits."""
    _take_in((where for fault, *where in findings if fault in (Fault.NEWER, Fault.UNKNOWN)), state, files)
    _take_back([where for fault, *where in findings if fault in (Fault.SPOILT, Fault.LOST)], state, files)
    for finding in findings:
        record = None if finding.fault is Fault.FOREIGN else state.get(finding.directory, finding.filename)
        if record is not None and is_trustworthy(record) and not _put(record, files):
            yield finding.path


def _take_back(places: Sequence[Sequence[str]], state: State, files: Files) -> None:
    """What is damaged in the state comes from its file, however old that is; without one it is forgotten."""
    for place in places:
        document = files.document(*place)
        state.replace([place], [] if document is None else [_adopt(document)])


def _take_in(places: Iterable[Sequence[str]], state: State, files: Files) -> None:
    changes: list[Change] = []
    size = 0
    for directory, filename in places:
        document = files.document(directory, filename)
        if document is not None:
            changes.append(_adopt(document))
            size += len(documents.encode(*document))
        if size > _SLICE:
            state.apply(changes)
            changes, size = [], 0
    state.apply(changes)


def _put(record: Record, files: Files) -> bool:
    """Make the file what the state says; False where something foreign stands in its place."""
    if files.read(record.directory, record.filename, len(record.document or b"")) == record.document:
        return True
    try:
        files.put(record.directory, record.filename, record.document)
    except OSError as error:
        if error.errno not in OBSTACLES:
            raise
        return False
    return True


def _adopt(document: Document) -> Change:
    return Change(
        document.directory,
        document.filename,
        document.model,
        document.pk,
        document.version,
        document.fields,
        stub=document.stub,
    )
