"""The mirror's handler: a batch of events → the state, in one durable commit → cache and files → acknowledged.

What it answers rests on the order of these steps. Before the commit nothing is promised. After it no crash loses the
batch: a start finds in the state which files it has to look at. Deliveries are answered `DONE` only when their files
are written as well, so that a full disk holds the queue instead of letting files fall behind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, final

from consumers.base import DONE, Delivery, Observer, Outcome
from consumers.base.progress import Progress
from consumers.json_mirror.cache.feed import Feed
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.errors import BeyondBounds, DirectoryGone, StateDamaged, StateUnavailable
from consumers.json_mirror.handling import intake
from consumers.json_mirror.handling.standing import Standing
from consumers.json_mirror.handling.unwritten import Unwritten
from consumers.json_mirror.heartbeat import HELD, Heartbeat
from consumers.json_mirror.lateness import Lateness
from consumers.json_mirror.state import Change, State
from eventbus.errors import counted

_OBSTACLE_PAUSE: Final = 10.0
_PRUNE_PAUSE: Final = 60.0
_TRIM_PAUSE: Final = 0.5

log = logging.getLogger(__name__)


@final
class Mirror(Observer):
    """Called with batches by `consumers.base`, in one thread; the same thread calls the observer's moments.

    `fatal` is called with the error that makes going on senseless: the caller then ends the consumer. `guard` is called
    about once a second and may raise such an error; `watch` is called as often, and tells what is wrong with the
    history, if anything. Tombstones older than `tombstone_age` seconds are forgotten; 0 keeps them for ever.
    """

    def __init__(
        self,
        state: State,
        files: Files,
        *,
        heartbeat: Heartbeat | None = None,
        idle: Heartbeat | None = None,
        feed: Feed | None = None,
        progress: Progress | None = None,
        lateness: Lateness | None = None,
        tombstone_age: float = 0,
        fatal: Callable[[Exception], None] = lambda _: None,
        guard: Callable[[], None] = lambda: None,
        watch: Callable[[], str] = lambda: "",
    ) -> None:
        self._state = state
        self._unwritten = Unwritten(state, files)
        self._standing = Standing(self._more_troubles, heartbeat, idle, progress, lateness)
        self._feed = feed
        self._tombstone_age = tombstone_age
        self._fatal = fatal
        self._guard = guard
        self._watch = watch
        self._next_try = self._next_prune = self._next_trim = 0.0

    @property
    def applied(self) -> int:
        """How many records this mirror has written."""
        return self._standing.applied

    def served(self, registry: Any) -> None:
        """The figures that the mirror adds to those of any consumer."""
        self._standing.served(registry)

    # --- the handler --------------------------------------------------------------------------------------------

    def __call__(self, batch: Sequence[Delivery]) -> list[Outcome]:
        """Take in the batch; DONE only for what no crash can lose and whose file is up to date."""
        self._standing.busy()
        changes, outcomes = intake.read(batch, self._state, self._tombstone_age)
        try:
            self._take_in(batch, changes, outcomes)
            self._unwritten.write()
        except (StateUnavailable, OSError) as error:
            log.warning(
                "disk trouble, the queue is held with %s: %s",
                counted(len(batch), "delivery"),
                _reason(error),
                extra={"reason": _reason(error), "deliveries": len(batch)},
            )
            self._standing.trouble("disk", f"{HELD} {counted(len(batch), 'delivery')}: {_reason(error)}")
            return intake.retry(outcomes, f"disk: {_reason(error)}")
        except (StateDamaged, DirectoryGone) as error:
            self._fatal(error)
            return intake.retry(outcomes, str(error))
        self._standing.trouble("disk", "")
        self._standing.written(batch)
        return outcomes

    def _take_in(self, batch: Sequence[Delivery], changes: list[Change], outcomes: list[Outcome]) -> None:
        while True:
            try:
                return self._apply(changes, self._events(batch, outcomes))
            except BeyondBounds as error:
                changes = intake.without(error.refused, changes, outcomes)

    def _events(self, batch: Sequence[Delivery], outcomes: Sequence[Outcome]) -> Sequence[bytes]:
        """What goes into the journal, if one is kept: the bodies of what is taken in."""
        if self._state.journal is None:
            return ()
        return [each.body for each, outcome in zip(batch, outcomes, strict=True) if outcome is DONE]

    def _apply(self, changes: Sequence[Change], events: Sequence[bytes]) -> None:
        settled = self._unwritten.settled()
        batch, written = self._state.apply(changes, settled, events)
        self._unwritten.add(batch, written, settled)
        self._standing.applied += len(written)
        if self._feed:
            self._feed.offer(written)

    # --- between batches ----------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Part of what `--status` tells."""
        self._standing.trouble("broker", "")

    def disconnected(self, reason: str) -> None:
        """Part of what `--status` tells."""
        self._standing.trouble("broker", reason)

    def caught_up(self) -> None:
        """Part of what `--status` tells."""
        self._standing.caught_up()

    def turned(self) -> None:
        """Beat, and see to what is left over: nothing here is urgent, nothing here may raise."""
        self._standing.beat()
        self._standing.trouble("history", self._watch())
        try:
            self._guard()
            self._unwritten.settle()
            self._keep_house(time.monotonic())
        except (StateUnavailable, OSError) as error:
            log.warning("housekeeping put off: %s", _reason(error), extra={"reason": _reason(error)})
        except (StateDamaged, DirectoryGone) as error:
            self._fatal(error)

    def _keep_house(self, now: float) -> None:
        if self._unwritten.blocked and now >= self._next_try:
            self._next_try = now + _OBSTACLE_PAUSE
            self._unwritten.unblock()
        if now >= self._next_trim:
            self._next_trim = now + _TRIM_PAUSE
            self._state.trim_journal()
        if self._tombstone_age and now >= self._next_prune:
            pruned = self._state.prune(self._tombstone_age)
            self._next_prune = now + (0 if pruned else _PRUNE_PAUSE)

    def _more_troubles(self) -> Iterator[str]:
        """What is wrong as long as it is."""
        if self._unwritten.blocked:
            yield f"something foreign stands in the place of {counted(self._unwritten.blocked, 'file')}"
        if self._feed and self._feed.trouble:
            yield self._feed.trouble

    def close(self) -> None:
        """Flush the files to the disk and note it, so that the next start has nothing to look at."""
        self._standing.end()
        self._unwritten.sync()
        try:
            self._unwritten.settle()
        except (StateUnavailable, StateDamaged, DirectoryGone, OSError) as error:
            log.warning(
                "not settled, the next start looks at the last files: %s",
                _reason(error),
                extra={"reason": _reason(error)},
            )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)
