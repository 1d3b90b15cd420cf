"""What a commit says: who, when, and the trailers that lead back to the history. A pure function of the transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from consumers.history.errors import HistoryDamaged
from consumers.history.reading.transaction import Transaction
from consumers.history.store.content import identify

POSITION: Final = "Eventbus-Position"
HISTORY: Final = "Eventbus-History"
TRANSACTION: Final = "Eventbus-Transaction"
_NAMED: Final = 3
_NO_WORD: Final = re.compile(r"[^A-Za-z0-9]+")
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f<>%\u0085\u2028\u2029]")
_LISTED: Final = 20


class Signature(NamedTuple):
    """Author and times of a commit, in seconds since 1970."""

    author: bytes
    author_time: int
    committer_time: int


class Change(NamedTuple):
    """A record as the subject line names it; `changed` are the names of its changed fields, None for all of them."""

    path: str
    key: bytes | None
    op: str
    changed: frozenset[str] | None


def clean(text: str) -> str:
    """What breaks a line, or an author's name, is percent-encoded: nothing can forge a trailer."""
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text).strip()


def sign(transaction: Transaction, committed: int) -> Signature:
    """Whose commit it is. `committed` is the committer's time: dates there never fall, as `git log --since` needs.

    git knows no date before 1970.
    """
    service = clean(transaction.service) or "nobody"
    author = clean(transaction.author or "")
    name = f"{author} <{author}@{service}>" if author else f"{service} <{service}>"
    return Signature(name.encode("utf-8", "backslashreplace"), max(0, transaction.time // 10**6), max(0, committed))


def text(transaction: Transaction, changes: Sequence[Change], superseded: Iterable[str], identity: str) -> bytes:
    """The whole message."""
    lines = [_subject(transaction, changes), "", *_trailers(transaction, list(superseded), identity)]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _subject(transaction: Transaction, changes: Sequence[Change]) -> str:
    shown = ", ".join(_named(change) for change in changes[:_NAMED])
    more = f", {len(changes) - _NAMED:,} more" if len(changes) > _NAMED else ""
    return f"{transaction.service}: {shown}{more}"


def _named(change: Change) -> str:
    try:
        model, pk = identify(change.path, change.key)
    except HistoryDamaged:
        return clean(change.path)
    entity = model.partition(".")[2]
    key = pk if isinstance(pk, str) else ",".join(map(str, pk)) if isinstance(pk, list) else str(pk)
    return clean(f"{entity} {key} ({_deed(change)})")


def _deed(change: Change) -> str:
    match change.op:
        case "c":
            return "created"
        case "d":
            return "deleted"
        case "r":
            return "snapshot"
    names = sorted(change.changed or ())
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "updated"


def _trailers(transaction: Transaction, superseded: Sequence[str], identity: str) -> Iterable[str]:
    yield f"{TRANSACTION}: {clean(transaction.id)}"
    yield f"Eventbus-Service: {clean(transaction.service)}"
    yield f"Eventbus-Version: {transaction.version:020d}"
    if transaction.trace:
        yield f"Eventbus-Trace: {clean(transaction.trace)}"
    for name, value in sorted(transaction.notes.items()):
        yield f"Note-{_NO_WORD.sub('-', name).title()}: {clean(str(value))}"
    if transaction.is_incomplete:
        yield f"Eventbus-Incomplete: {transaction.had + transaction.seen} of {transaction.size}"
    if transaction.part > 1:
        yield f"Eventbus-Part: {transaction.part}"
    if transaction.late:
        yield "Eventbus-Late: yes"
    for path in superseded[:_LISTED]:
        yield f"Eventbus-Superseded: {path}"
    if len(superseded) > _LISTED:
        yield f"Eventbus-Superseded: {len(superseded) - _LISTED} more"
    yield f"{HISTORY}: {identity}"
    yield f"{POSITION}: {transaction.position}"
