"""Commits in the form that `git fast-import` reads."""

from __future__ import annotations

from typing import IO

from consumers.history.git.commits import Commit, Commits
from consumers.history.git.repository import REF
from consumers.history.reading.history import History


def encode(commit: Commit, parent: str = "") -> bytes:
    """One commit; `parent` where the stream does not have it."""
    author, made, committed = commit.signature
    parts = [
        b"commit %s\nauthor %s %d +0000\ncommitter eventbus <> %d +0000\ndata %d\n%s\n"
        % (REF.encode(), author, made, committed, len(commit.message), commit.message)
    ]
    if parent:
        parts.append(b"from %s\n" % parent.encode())
    for path, document in commit.files:
        if document is None:
            parts.append(b"D %s\n" % path.encode())
        else:
            parts.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(document), document))
    return b"".join(parts)


def write(out: IO[bytes], history: History, omit: frozenset[str]) -> None:
    """The whole history."""
    for commits in Commits(history, 0, omit):
        out.writelines(map(encode, commits))
    out.write(b"done\n")
