"""What a start does before the first event: make files and state agree again, whatever ended the last run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from consumers.base.progress import Progress
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.errors import StateDamaged
from consumers.json_mirror.state import State
from consumers.json_mirror.state.layout import BESIDE
from consumers.json_mirror.upkeep.comparison import Fault, Finding, Repaired, compare, examine, repair
from eventbus.errors import counted
from eventbus.redaction import shown

log = logging.getLogger(__name__)


def recover(state: State, files: Files) -> None:
    """Bring up to date what the last run may have left behind: the files of its last second or so, not all.

    A state without records in a directory full of them was lost, and is made again; so is a directory of files that is
    not there any more. Where such a repair was cut short, everything is compared. Returns once all of this is on the
    disk.
    """
    swept = files.sweep()
    if swept:
        log.info("removed %s", counted(swept, "unfinished file"), extra={"files": swept})
    pending = state.pending()
    blocked: list[str] = []
    if pending:
        found = repair(_examine(state, files, pending), state, files)
        blocked += found.blocked
        files.sync_all()
        log.info(
            "looked at %s of the last batches, %d repaired",
            counted(len(pending), "file"),
            found.total(),
            extra={"files": len(pending), "repaired": found.total()},
        )
    if state.half_mended:
        log.warning("a repair was cut short: files and state are compared from the beginning")
        blocked += rebuild(state, files).blocked
    if not state.figures() and _any_file(files):
        log.warning("the state was lost: it is made again from the files, which know of no deletions")
        blocked += rebuild(state, files).blocked
    if lost := _lost_directories(state, files):
        log.warning(
            "%s written again from the state, as they were lost: %s",
            counted(len(lost), "directory"),
            shown(", ".join(lost)),
            extra={"directories": lost},
        )
        with state.mending():
            for directory in lost:
                blocked += repair(_all_missing(state, directory), state, files).blocked
    state.settle(state.last_batch, set(blocked))


def rebuild(state: State, files: Files) -> Repaired:
    """Compare everything, repair everything, show how far it has come; tell what was found."""
    files.sweep()
    progress = Progress("compared")
    with state.mending():
        found = repair(compare(state, files, progress), state, files)
    state.settle(state.last_batch, found.blocked)
    progress.end()
    return found


def open_or_renew(path: Path) -> State:
    """The state at `path`. One that is damaged is moved aside, and an empty one takes its place."""
    with suppress(StateDamaged):
        state = State(path)
        try:
            state.check()
        except StateDamaged:
            state.close()
            raise
        return state
    suffix = f".damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    log.warning("the state is damaged: moved aside to %s", path.name + suffix, extra={"to": path.name + suffix})
    for beside in BESIDE:
        with suppress(FileNotFoundError):
            path.with_name(path.name + beside).rename(path.with_name(path.name + suffix + beside))
    return State(path)


def _examine(state: State, files: Files, paths: Iterable[str]) -> Iterator[Finding]:
    files.begin()
    for path in paths:
        directory, _, filename = path.rpartition("/")
        record = state.get(directory, filename)
        fault = record and examine(record, files)
        if fault:
            yield Finding(fault, directory, filename)


def _any_file(files: Files) -> bool:
    return any(True for directory in files.directories() for _ in files.filenames(directory))


def _lost_directories(state: State, files: Files) -> list[str]:
    there = set(files.directories())
    return [figures.directory for figures in state.figures() if figures.live and figures.directory not in there]


def _all_missing(state: State, directory: str) -> Iterator[Finding]:
    for records in state.records(directory=directory):
        for record in records:
            yield Finding(Fault.MISSING, directory, record.filename)
