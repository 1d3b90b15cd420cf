"""Is the history whole? Chains decode, the newest is what the mirror has, the tree is what the records give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from consumers.history.errors import HistoryDamaged
from consumers.history.git.follower import disagreement
from consumers.history.git.layout import README, path_of
from consumers.history.git.repository import NOTHING, Repository
from consumers.history.journal.reader import decode as read_event
from consumers.history.reading import past
from consumers.history.reading.history import History
from consumers.history.store import chain
from consumers.history.store.content import decode_file, identify
from consumers.json_mirror.disk import documents
from consumers.json_mirror.state import Reader

_CHUNK: Final = 1_000


def check(history: History) -> Iterator[str]:
    """What is wrong in the file: pages, chains, numbers."""
    # The quick one does not see an index that leads to other rows than its table.
    for (answer,) in history.query("PRAGMA integrity_check(10)"):
        if answer != "ok":
            yield f"{history.path}: {answer}"
    (count, last) = history.query("SELECT count(*), coalesce(max(position), 0) FROM tx")[0]
    position, pruned = history.notes.position, bool(history.notes.horizon)
    if last > position or (last < position and not pruned):
        yield f"the last position is {last}, the note says {position}"
    if not pruned and count != last:
        yield f"{last} positions, but {count} transactions"
    for (number,) in history.rows("SELECT position FROM tx ORDER BY position"):
        yield from _told(_wrong_transaction, history, number)
    for (number,) in history.rows("SELECT id AS number FROM record ORDER BY id"):
        yield from _told(_wrong_record, history, number)
    for (number,) in history.rows("SELECT id AS number FROM waiting"):
        yield from _told(_wrong_event, history, number)
    for (number,) in history.rows(
        "SELECT DISTINCT position FROM change WHERE position NOT IN (SELECT position FROM tx)"
    ):
        yield f"position {number} has changes and no transaction"
    for (number,) in history.rows("SELECT DISTINCT record FROM change WHERE record NOT IN (SELECT id FROM record)"):
        yield f"record number {number} has changes and no row"


def _told(look: Callable[[History, int], str], history: History, number: int) -> Iterator[str]:
    """What is wrong with one thing, so that the next is looked at as well."""
    try:
        found = look(history, number)
    except HistoryDamaged as error:
        found = str(error)
    if found:
        yield found


def _wrong_transaction(history: History, position: int) -> str:
    return "" if history.at(position) else f"position {position} cannot be found by its number"


def _wrong_event(history: History, number: int) -> str:
    (body,) = history.known("SELECT body FROM waiting WHERE id = ?", number, what=f"event {number}")
    return "" if read_event(body) else f"the event {number} that waits for its transaction cannot be read"


def _wrong_record(history: History, number: int) -> str:
    query = "SELECT path, version, key, document FROM record WHERE id = ?"
    path, version, key, document = history.known(query, number, what=f"record number {number}")
    identify(path, key)
    file = decode_file(path, document)
    versions = history.versions(path)
    for each in versions:
        _ = each.step.changed, each.step.strangers
    if not versions:
        return f"{path}: no change tells of it"
    if versions[0].step.version != version:
        return f"{path}: the newest is {version}, its last change {versions[0].step.version}"
    if file is not None and file.version != version:
        return f"{path}: the newest document is not of version {version}"
    return ""


def compare(history: History, state: Reader) -> Iterator[str]:
    """Where the newest is not what the mirror has. What the historian has not taken over yet is no difference."""
    waiting = bool(state.events(int(history.notes.journal), 1))
    for records in state.records():
        for record in records:
            stored = history.stored(record.path)
            if stored is None:
                if record.document is not None and not waiting:
                    yield f"{record.path}: not in the history"
            elif stored.document != record.document and not waiting and stored.version <= record.version:
                yield f"{record.path}: the history has version {stored.version}, the mirror {record.version}"


def compare_git(history: History, repository: Repository, omit: frozenset[str]) -> Iterator[str]:
    """Where the tree of the newest commit is not what the records give, and what git says of its own files."""
    tip = repository.tip()
    if tip == NOTHING:
        yield f"{repository.path} has no commit"
        return
    if wrong := disagreement(repository, tip, history):
        yield f"{repository.path} {wrong}"
        return
    yield from _fsck(repository)
    expected = {} if omit else {path_of(each.path): each for each in past.records(history, tip.position)}
    found = dict(_tree(repository, tip.id))
    if omit:
        return
    ids = repository.hashes(
        documents.encode(
            each.model, each.pk, version_at(history, each.path, tip.position), each.content.fields, each.content.stub
        )
        for each in expected.values()
    )
    for path, id in zip(expected, ids, strict=True):
        if found.pop(path, None) != id:
            yield f"{path}: not what the history gives"
    found.pop(README, None)
    for path in found:
        yield f"{path}: not in the history"


def version_at(history: History, path: str, position: int) -> int:
    """The version the record had when the log had this length."""
    record = history.record(path)
    found = chain.at_position(record.content, history.steps(path, record.id), position)
    return found.step.version if found else record.version


def _fsck(repository: Repository) -> Iterator[str]:
    said = repository.run("fsck", "--full", "--no-dangling", check=False, both=True)
    for line in said.splitlines():
        if line and not line.startswith(("Checking", "notice")):
            yield f"git: {line}"


def _tree(repository: Repository, commit: str) -> Iterator[tuple[str, str]]:
    for line in repository.run("ls-tree", "-r", "-z", commit).split("\0"):
        if line:
            head, _, path = line.partition("\t")
            yield path, head.split()[2]
