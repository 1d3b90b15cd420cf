"""The mirror's handler: a batch of events → the state, in one durable commit → cache and files → acknowledged.

What it answers rests on the order of these steps. Before the commit nothing is promised. After it no crash loses the
batch: a start finds in the state which files it has to look at. Deliveries are answered `DONE` only when their files
are written as well, so that a full disk holds the queue instead of letting files fall behind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, final

from consumers.base import DONE, Delivery, Observer, Outcome
from consumers.base.progress import Progress
from consumers.json_mirror import intake
from consumers.json_mirror.cache.feed import Feed
from consumers.json_mirror.disk.files import OBSTACLES, Files
from consumers.json_mirror.errors import BeyondBounds, DirectoryGone, StateDamaged, StateUnavailable
from consumers.json_mirror.heartbeat import HELD, Heartbeat
from consumers.json_mirror.state import Change, State
from consumers.json_mirror.upkeep.comparison import MAX_BLOCKED
from consumers.json_mirror.upkeep.syncing import Syncer
from eventbus.errors import counted
from eventbus.monitoring.figures import LATENCIES

_OBSTACLE_PAUSE: Final = 10.0
_PRUNE_PAUSE: Final = 60.0
_TRIM_PAUSE: Final = 0.5

log = logging.getLogger(__name__)


class _File(NamedTuple):
    """What a file should be, and whether it was there before."""

    directory: str
    filename: str
    document: bytes | None
    existed: bool


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
        tombstone_age: float = 0,
        fatal: Callable[[Exception], None] = lambda _: None,
        guard: Callable[[], None] = lambda: None,
        watch: Callable[[], str] = lambda: "",
    ) -> None:
        self._state = state
        self._files = files
        self._heartbeat = heartbeat
        self._idle = idle
        self._is_idle = False
        self._feed = feed
        self._progress = progress
        self._tombstone_age = tombstone_age
        self._fatal = fatal
        self._guard = guard
        self._watch = watch
        self._syncer = Syncer(files.sync_all)
        self._failures = 0
        self._batch = self._settled = state.last_batch
        self._unwritten: dict[str, _File | None] = {}  # None: as it stands in the state
        # By path alone: what the file should be stands in the state. Some may be left from the last run.
        self._blocked = dict.fromkeys(state.pending())
        self._next_try = self._next_prune = self._next_trim = 0.0
        self._troubles: dict[str, str] = {}
        self._ages: Any = None
        self.applied = 0

    def served(self, registry: Any) -> None:
        """The figures that the mirror adds to those of any consumer."""
        from prometheus_client import Gauge, Histogram  # noqa: PLC0415  an optional package

        self._ages = Histogram(
            "eventbus_mirror_commit_to_file_seconds",
            "From a commit to its file, of the first event in each batch, by the clocks of both sides.",
            registry=registry,
            buckets=LATENCIES,
        )
        trouble = Gauge("eventbus_mirror_troubles", "Troubles the mirror waits for; 0: all is well.", registry=registry)
        trouble.set_function(lambda: len(list(self._all_troubles())))

    # --- the handler --------------------------------------------------------------------------------------------

    def __call__(self, batch: Sequence[Delivery]) -> list[Outcome]:
        """Take in the batch; DONE only for what no crash can lose and whose file is up to date."""
        self._is_idle = False
        changes, outcomes = intake.read(batch, self._state, self._tombstone_age)
        try:
            self._take_in(batch, changes, outcomes)
            self._write_files()
        except (StateUnavailable, OSError) as error:
            log.warning(
                "disk trouble, the queue is held with %s: %s",
                counted(len(batch), "delivery"),
                _reason(error),
                extra={"reason": _reason(error), "deliveries": len(batch)},
            )
            self._troubles["disk"] = f"{HELD} {counted(len(batch), 'delivery')}: {_reason(error)}"
            return intake.retry(outcomes, f"disk: {_reason(error)}")
        except (StateDamaged, DirectoryGone) as error:
            self._fatal(error)
            return intake.retry(outcomes, str(error))
        self._troubles.pop("disk", None)
        if self._ages is not None:
            self._ages.observe(_age(batch[0].event.time))
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
        if self._syncer.failures != self._failures:
            self._write_pending_again()
        # While files are blocked, only `_settle` may take notes off: it keeps theirs.
        settled = 0 if self._blocked else self._syncer.synced
        number, written = self._state.apply(changes, settled, events)
        self._settled = max(self._settled, settled)
        self._batch = number or self._batch
        self.applied += len(written)
        for directory, filename, _, document, existed in written:
            path = f"{directory}/{filename}"
            earlier = self._unwritten.get(path)
            self._unwritten[path] = _File(directory, filename, document, existed or earlier is not None)
            self._blocked.pop(path, None)
        if self._feed:
            self._feed.offer(written)

    def _write_files(self) -> None:
        if not self._unwritten:
            return
        self._files.begin()
        for path, file in list(self._unwritten.items()):
            self._write_file(path, file or self._as_it_should_be(path))
            del self._unwritten[path]
        self._syncer.written(self._batch, self._failures)

    def _write_file(self, path: str, file: _File | None) -> None:
        obstacle = self._put(file)
        if obstacle is None:
            return
        if len(self._blocked) >= MAX_BLOCKED:
            raise obstacle
        log.error(
            "something foreign stands in the place of %s: %s",
            path,
            obstacle.strerror,
            extra={"path": path, "reason": obstacle.strerror},
        )
        self._blocked[path] = None

    def _as_it_should_be(self, path: str) -> _File | None:
        directory, _, filename = path.rpartition("/")
        record = self._state.get(directory, filename)
        if record is None or record.sound is False:
            return None  # --verify tells of what is damaged
        return _File(directory, filename, record.document, existed=True)

    def _put(self, file: _File | None) -> OSError | None:
        """Write the file; an obstacle in its place is returned, any other trouble raised."""
        if file is None:
            return None  # a tombstone that was forgotten meanwhile
        try:
            self._files.put(file.directory, file.filename, file.document, existed=file.existed)
        except OSError as error:
            # The call may have known the file by a descriptor or a temporary name.
            error.filename, error.filename2 = f"{file.directory}/{file.filename}", None
            if error.errno not in OBSTACLES:
                raise
            return error
        return None

    def _write_pending_again(self) -> None:
        failures = self._syncer.failures
        for path in self._state.pending():
            self._unwritten.setdefault(path, None)
        self._failures = failures

    def connected(self) -> None:
        """Part of what `--status` tells."""
        self._troubles.pop("broker", None)

    def disconnected(self, reason: str) -> None:
        """Part of what `--status` tells."""
        self._troubles["broker"] = reason

    # --- between batches ----------------------------------------------------------------------------------------

    def turned(self) -> None:
        """Beat, and see to what is left over: nothing here is urgent, nothing here may raise."""
        if self._heartbeat:
            self._heartbeat.beat("; ".join(self._all_troubles()))
        self._note_idle()
        if self._progress:
            self._progress.show(self.applied)
        now = time.monotonic()
        self._troubles["history"] = self._watch()
        try:
            self._guard()
            self._settle()
            if self._blocked and now >= self._next_try:
                self._next_try = now + _OBSTACLE_PAUSE
                self._unblock()
            if now >= self._next_trim:
                self._next_trim = now + _TRIM_PAUSE
                self._state.trim_journal()
            if self._tombstone_age and now >= self._next_prune:
                pruned = self._state.prune(self._tombstone_age)
                self._next_prune = now + (0 if pruned else _PRUNE_PAUSE)
        except (StateUnavailable, OSError) as error:
            log.warning("housekeeping put off: %s", _reason(error), extra={"reason": _reason(error)})
        except (StateDamaged, DirectoryGone) as error:
            self._fatal(error)

    def caught_up(self) -> None:
        """Part of what `--status` tells."""
        self._is_idle = True

    def _note_idle(self) -> None:
        if self._idle and self._is_idle:
            self._idle.beat()

    def _all_troubles(self) -> Iterator[str]:
        yield from filter(None, self._troubles.values())
        if self._blocked:
            yield f"something foreign stands in the place of {counted(len(self._blocked), 'file')}"
        if self._feed and self._feed.trouble:
            yield self._feed.trouble

    def _settle(self) -> None:
        """Note in the state what has reached the disk since the last batch."""
        if self._syncer.failures != self._failures:
            self._write_pending_again()
            self._write_files()
        synced = self._syncer.synced
        if synced > self._settled:
            self._state.settle(synced, self._blocked)
            self._settled = synced

    def _unblock(self) -> None:
        self._files.begin()
        free = [path for path in self._blocked if self._put(self._as_it_should_be(path)) is None]
        if free:
            # Their batches may be settled already: nothing else waits for these files to reach the disk.
            self._files.sync_all()
        for path in free:
            del self._blocked[path]
        if free:
            self._state.settle(self._settled, self._blocked)

    def close(self) -> None:
        """Flush the files to the disk and note it, so that the next start has nothing to look at."""
        self._note_idle()
        self._syncer.close()
        if self._progress:
            self._progress.show(self.applied)
            self._progress.end()
        try:
            self._settle()
        except (StateUnavailable, StateDamaged, DirectoryGone, OSError) as error:
            log.warning(
                "not settled, the next start looks at the last files: %s",
                _reason(error),
                extra={"reason": _reason(error)},
            )


def _age(time_text: str) -> float:
    try:
        return max(0.0, time.time() - datetime.fromisoformat(time_text).timestamp())
    except ValueError:
        return 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)
