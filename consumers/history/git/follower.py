"""The git repository follows the history by position. The tip's trailers are the only note of how far it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from consumers.history.errors import GitFailed
from consumers.history.git.commits import Commit, Commits
from consumers.history.git.joining import Joining
from consumers.history.git.message import clean
from consumers.history.git.repository import NOTHING, Repository, Tip
from consumers.history.reading.history import History

EVERY: Final = 10_000
"""Commits after which what was made is published: the more in one pack, the smaller each."""
PAUSE: Final = 1.0
"""Seconds after which it is published while there is more to do."""
PACKS: Final = 10
"""More packs than these are joined; large ones do not count."""
_MANY_PACKS: Final = 100
"""With more packs than these making commits waits for joining packs."""
_GRAPH_PAUSE: Final = 24 * 3600.0

log = logging.getLogger(__name__)


class Writer(Protocol):
    """What makes git objects of commits. One object goes on from one tip; an error ends its use."""

    def expect(self, commits: Sequence[Commit]) -> None:
        """These come next: what they need can be read at once."""

    def commit(self, commit: Commit) -> None:
        """Add one behind the last."""

    def publish(self) -> None:
        """Make the branch lead to the last one; returns once no crash can lose it."""

    def let_go(self) -> None:
        """Hold no file of the repository open: some are gone. All that was added is published."""

    def close(self) -> None:
        """Let go of what is not published."""


def disagreement(repository: Repository, tip: Tip, history: History) -> str:
    """Why this history cannot go on from this commit; empty where it can."""
    if tip.identity != history.notes.identity:
        return "was made of another history"
    if repository.erasures != history.erasures:
        return "may hold what was erased since"
    transaction = history.at(tip.position)
    if tip.position > history.notes.position or (transaction and clean(transaction.id) != tip.transaction):
        return "has commits that the history does not have, which is an older backup then"
    return ""


class Follower:
    """Makes commits of what is in the history and not in the repository. `write` makes the writer for a tip."""

    def __init__(
        self,
        repository: Repository,
        write: Callable[[Repository, str], Writer],
        omit: frozenset[str] = frozenset(),
    ) -> None:
        self._repository = repository
        self._write = write
        self._omit = omit
        self._writer: Writer | None = None
        self._position = 0
        self._next_graph = 0.0
        self._joining = Joining(repository)

    def close(self) -> None:
        """End the writer, and a join of packs that is not done: the next one begins it anew."""
        self._joining.stop()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def follow(self, history: History, stop: threading.Event | None = None) -> int:
        """Publish what the history has, or until `stop` what there is time for; tell how many commits it were."""
        writer = self._begin(history)
        made, published, last = 0, 0, time.monotonic()
        for commits in Commits(history, self._position, self._omit):
            writer.expect(commits)
            for commit in commits:
                writer.commit(commit)
                self._position = commit.position
                made += 1
                if made - published >= EVERY or time.monotonic() - last >= PAUSE:
                    writer.publish()
                    self._join()
                    published, last = made, time.monotonic()
                    if stop is not None and stop.is_set():
                        return made
        if made > published:
            writer.publish()
        self._join()
        return made

    def _join(self) -> None:
        """Have packs joined beside us where there are many."""
        packs = self._joining.small()
        if self._joining.end(wait=packs > _MANY_PACKS):
            assert self._writer is not None
            self._writer.let_go()
        elif packs > PACKS:
            self._joining.begin()

    def _begin(self, history: History) -> Writer:
        if self._writer is not None:
            return self._writer
        tip = self._repository.tip()
        if tip == NOTHING:
            self._repository.note_erasures(history.erasures)
        elif wrong := disagreement(self._repository, tip, history):
            raise GitFailed(f"{self._repository.path} {wrong}: make it anew with `eventbus history git --fresh`")
        self._position = tip.position
        self._writer = self._write(self._repository, tip.id)
        return self._writer

    def tend(self) -> None:
        """What is done once a day."""
        now = time.monotonic()
        if now >= self._next_graph:
            self._next_graph = now + _GRAPH_PAUSE
            if self._repository.tip() != NOTHING:
                self._repository.write_graph()
