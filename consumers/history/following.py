"""The two processes of the history: the historian, and the follower that makes git of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from consumers.base.companion import Companion
from consumers.history.errors import HistoryUnavailable
from consumers.history.git.follower import Follower
from consumers.history.git.packs import PackWriter
from consumers.history.git.repository import Repository
from consumers.history.historian import Historian
from consumers.history.journal.reader import JournalReader
from consumers.history.reading.history import History
from consumers.history.settings import HistorySettings
from consumers.history.store.archive import Archive
from consumers.history.upkeep import erasing, pruning
from consumers.json_mirror.disk.lock import Lock
from consumers.json_mirror.errors import StateUnavailable

MODULE: Final = "consumers.history"
LOOK: Final = 0.2
"""Seconds between two looks at what may have come."""
_AGAIN: Final = 1.0
_DAY: Final = 24 * 3600.0

log = logging.getLogger(__name__)


def lock(settings: HistorySettings) -> Lock:
    """Only one process writes the history. Raises DirectoryLocked."""
    return Lock(settings.private_dir / "history.lock", "historian")


def lock_git(settings: HistorySettings) -> Lock:
    """Only one process writes the repository. Raises DirectoryLocked."""
    return Lock(settings.private_dir / "git.lock", "git follower")


def keep(settings: HistorySettings, stop: threading.Event, alone: threading.Event) -> None:
    """Take the journal over until `stop`, or, once `alone`, until nothing more can be done.

    Where git is asked for, its follower is started and watched; it has ended when this returns. Raises what only a
    person can mend.
    """
    with ExitStack() as stack:
        git = _companion(settings)
        # Nobody's end is awaited with the lock: a mirror that was started again has a historian of its own.
        stack.callback(git.close, hurry=stop)
        stack.enter_context(lock(settings))
        while not _done(settings, stop, alone, git):
            stop.wait(_AGAIN)


def _companion(settings: HistorySettings) -> Companion:
    arguments = ["follow-git", "--data-dir", str(settings.data_dir)]
    return Companion("git follower", MODULE, arguments)


def _done(settings: HistorySettings, stop: threading.Event, alone: threading.Event, git: Companion) -> bool:
    """Whether all is done; False where the disk does not play along now."""
    try:
        with JournalReader(settings.state_file) as journal:
            if gone := erasing.erase_again(settings.history_file, journal.state.floors()):
                told = {"event": "erased_again", "records": gone}
                log.warning("this history is older than an erasure: erased again", extra=told)
            with Archive(settings.history_file) as archive:
                _take(Historian(journal, archive, settings.tempo), journal, stop, alone, _tended(settings, git))
    except (StateUnavailable, HistoryUnavailable) as error:
        log.warning("the history waits", extra={"reason": str(error)})
        return stop.is_set() or alone.is_set()
    return stop.is_set() or alone.is_set()


def _tended(settings: HistorySettings, git: Companion) -> Callable[[], None]:
    """What is done beside, about once a second: look after git, and once a day forget what is too old."""
    next_prune = 0.0

    def tend() -> None:
        nonlocal next_prune
        if settings.kind == "git":
            git.check()
        if settings.days and time.monotonic() >= next_prune:
            next_prune = time.monotonic() + _DAY
            done = pruning.prune(settings.history_file, int((time.time() - settings.days * _DAY) * 10**6))
            log.info("forgot %d versions", done.versions, extra={"event": "pruned", "versions": done.versions})
            for why in done.left:
                log.warning("nothing of a record was forgotten: %s", why, extra={"reason": why})

    return tend


def _take(
    historian: Historian,
    journal: JournalReader,
    stop: threading.Event,
    alone: threading.Event,
    tend: Callable[[], None],
) -> None:
    end = next_tend = 0.0
    while not stop.is_set():
        now = time.time()
        is_behind = historian.step(now)
        # Also while much is waiting: git then works beside the historian, not after it.
        if not is_behind or time.monotonic() >= next_tend:
            next_tend = time.monotonic() + _AGAIN
            tend()
        if is_behind:
            continue
        if journal.replaced():
            return
        if alone.is_set():
            end = end or now + historian.settling
            if now >= end:
                return
        stop.wait(LOOK)


def follow_git(settings: HistorySettings, stop: threading.Event, alone: threading.Event) -> None:
    """Make commits of the history until `stop`, or, once `alone`, until it has them all. Raises GitFailed."""
    repository = Repository(settings.repository)
    with lock_git(settings):
        repository.prepare()
        while not stop.is_set():
            follower = Follower(repository, PackWriter, settings.omit)
            try:
                _follow(follower, settings, stop, alone)
                return
            except HistoryUnavailable as error:
                log.debug("git waits for the history", extra={"reason": str(error)})
                if alone.is_set():
                    return
            finally:
                follower.close()
            stop.wait(_AGAIN)


def _follow(follower: Follower, settings: HistorySettings, stop: threading.Event, alone: threading.Event) -> None:
    with History(settings.history_file) as history:
        while not stop.is_set():
            last = alone.is_set()
            made = follower.follow(history, stop)
            if not made:
                if last:
                    return
                follower.tend()
                stop.wait(LOOK)
