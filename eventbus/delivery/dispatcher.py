"""After the commit: one thread a process hands events to the broker, so that no writer ever waits for it.

A writer's thread only appends to a list, the inbox, which the dispatcher's thread sorts. Memory is bounded: what does
not fit stays in the outbox and is read back by id when there is room. What the broker confirmed is deleted from the
outbox, many rows at a time; what it refuses again and again is parked there and tried seldom. Rows that ended processes
left are looked for and delivered too.

Without an outbox (direct mode) the queue is all there is: what does not fit, or is refused too often, is lost, and
counted and logged as such.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, final

from eventbus.delivery import lifetime
from eventbus.delivery.stats import KEPT, Stats, Watcher
from eventbus.delivery.tempo import Tempo
from eventbus.delivery.working.courier import Courier
from eventbus.delivery.working.desk import Desk, Options
from eventbus.errors import FlushTimeout, counted
from eventbus.outbox import Entry, Store
from eventbus.process import forks
from eventbus.publishers.base import Publisher

_LOST: Final = "without an outbox they are lost"
_SOON: Final = 0.5

logger = logging.getLogger(__name__)


@final
class Dispatcher:
    """Takes over what was committed and answers for its delivery.

    `make_publisher` is called in the dispatcher's thread. `max_bytes` bounds the events held in memory, `max_rows` the
    outbox rows they belong to: Python's garbage collector stops all threads to walk over what it finds. `tries`: how
    often the broker may refuse an event before it is parked. `expects_rows`: whether what is handed over is committed
    for certain. `exit_timeout`: seconds the interpreter's exit may wait.
    Thread-safe; a fork begins with an empty dispatcher of its own.
    """

    def __init__(
        self,
        make_publisher: Callable[[], Publisher],
        *,
        max_bytes: int = 64 << 20,
        max_rows: int = 10_000,
        unroutable: Literal["keep", "drop"] = "keep",
        tries: int = 5,
        tempo: Tempo = Tempo(),
        exit_timeout: float = 10.0,
        expects_rows: bool = True,
        backoff_limit: float = 5.0,
    ) -> None:
        self._options = Options(
            make_publisher=make_publisher,
            max_bytes=max_bytes,
            max_rows=max_rows,
            unroutable=unroutable,
            tries=tries,
            tempo=tempo,
            expects_rows=expects_rows,
            backoff_limit=backoff_limit,
        )
        self._exit_timeout = exit_timeout
        self._watchers: list[Watcher] = []
        self._begin()
        lifetime.live(self)

    # for writers

    def submit(self, entries: Sequence[Entry]) -> None:
        """Take over what a transaction committed, in commit order. Never blocks on anything slow, never raises."""
        try:
            forks.notice()
            desk, courier = self._desk, self._courier
            with desk.lock:
                desk.intake.put(entries)
                courier.wake_if_idle()
            if courier.thread is None:
                self._start()
        except Exception:
            # The transaction is committed: an error here must not look like a failed commit.
            logger.exception("the dispatcher could not be started; the outbox has the events, if there is one")

    def nudge(self, store: Store) -> None:
        """Look for rows of this process that may be committed without having been submitted."""
        try:
            forks.notice()
            desk, courier = self._desk, self._courier
            with desk.lock:
                desk.accounts.of(store).look_soon(time.monotonic() + _SOON)
                courier.wake()
            if courier.thread is None:
                self._start()
        except Exception:
            logger.exception("the outbox will be looked at later")

    def look_after(self, store: Store) -> None:
        """Look for rows of ended processes there, though nobody here writes any."""
        forks.notice()
        with self._desk.lock:
            self._desk.accounts.of(store).kept = True
        self.nudge(store)

    def is_quiet(self, store: Store) -> bool:
        """Whether nothing is left in that outbox that this process could deliver, now or soon."""
        forks.notice()
        desk = self._desk
        with desk.lock:
            desk.intake.sort_in()
            quiet = desk.accounts.of(store).quiet
        desk.remarks.speak()
        return quiet

    def flush(self, timeout: float = 30.0) -> None:
        """Return when all that was submitted so far is confirmed by the broker, and gone from the outbox.

        Raises FlushTimeout when it is not after `timeout` seconds, or if some of it is parked, however long ago that
        was; of what was dropped it tells once.
        """
        forks.notice()
        desk, courier, deadline = self._desk, self._courier, time.monotonic() + timeout
        with desk.lock:
            desk.intake.sort_in()
            if desk.intake.open and courier.thread is None:
                self._start()
            courier.flushing += 1
            courier.wake()
            try:
                _await_confirms(desk, courier, timeout, deadline)
            finally:
                courier.flushing -= 1
            refused = desk.accounts.held_back + desk.counters.untold
            desk.counters.untold = 0
        desk.remarks.speak()
        if refused:
            fate = KEPT if desk.accounts else _LOST
            raise FlushTimeout(
                f"not taken by the broker: {counted(refused, 'event')} ({desk.outlet.last_error}); {fate}",
                pending=refused,
            )

    def close(self, timeout: float = 10.0) -> None:
        """Deliver what can be delivered within `timeout` seconds and end; the rest stays in the outbox.

        Where the broker is known to be down it does not wait for it, unless there is no outbox to wait in. Again:
        nothing happens.
        """
        forks.notice()
        desk, courier = self._desk, self._courier
        with desk.lock:
            if desk.intake.closed:
                return  # it had its time, and the exit of the interpreter does not ask for more
            thread = courier.thread
            desk.intake.sort_in()
            desk.intake.closed = True
            courier.deadline = time.monotonic() + timeout
            courier.wake()
        desk.remarks.speak()
        lifetime.die(self)
        if thread is None or thread is threading.current_thread():
            return
        thread.join(timeout + 1.0)
        with desk.lock:
            left, durable = desk.intake.events, desk.intake.is_durable
        if left:
            logger.log(
                logging.WARNING if durable else logging.ERROR,
                "closed with events that the broker does not have",
                extra={"events": left, "kept_in_outbox": durable},
            )

    def stats(self) -> Stats:
        """The figures of this process, consistent with each other."""
        forks.notice()
        desk = self._desk
        with desk.lock:
            stats = _figures(desk)
        desk.remarks.speak()
        return stats

    def watch(self, watcher: Watcher) -> None:
        """Tell this one of the figures, now and after batches, at most twice a second."""
        self._watchers.append(watcher)
        self._courier.watch = self._tell
        self._tell()

    def _tell(self) -> None:
        forks.notice()
        desk = self._desk
        with desk.lock:
            stats = _figures(desk)
            latencies = list(desk.latencies)
            desk.latencies.clear()
        for watcher in self._watchers:
            try:
                watcher(stats, latencies)
            except Exception:
                logger.exception("one who watches the figures failed")

    def forked(self) -> object:
        """In a child: forget the parent's events, its thread, and without a word its connections."""
        inherited = self._desk.forget()
        self._begin()
        return inherited

    def _begin(self) -> None:
        self._desk = Desk(self._options)
        self._courier = Courier(self._desk, beat=self._options.tempo.beat, watch=self._tell if self._watchers else None)

    def _start(self) -> None:
        desk, courier = self._desk, self._courier
        if desk.intake.closed:
            desk.remarks.speak()  # there is no thread to do it
        with desk.lock:
            started = courier.start()
        if started:
            lifetime.close_at_exit(self, self._exit_timeout)


def _await_confirms(desk: Desk, courier: Courier, timeout: float, deadline: float) -> None:
    """Under the lock, which is free while this waits."""
    target, since = desk.intake.last, time.monotonic()
    while not (confirmed := _is_confirmed(desk, target)) or not desk.accounts.settled_since(since):
        if desk.accounts.behind:
            target = desk.intake.last
        left = deadline - time.monotonic()
        if left <= 0 or courier.thread is None:
            if confirmed:
                return  # only the outbox lags behind, as its database cannot be reached
            raise _timeout(desk, timeout)
        courier.settled.wait(min(left, 0.5))


def _is_confirmed(desk: Desk, target: int) -> bool:
    oldest = next(iter(desk.intake.open), None)
    if oldest is not None and oldest <= target:
        return False
    return not desk.accounts.behind


def _timeout(desk: Desk, timeout: float) -> FlushTimeout:
    pending, error = desk.intake.events, desk.outlet.last_error
    because = f": {error}" if error else ""
    return FlushTimeout(f"not confirmed within {timeout:g} s: {counted(pending, 'event')}{because}", pending=pending)


def _figures(desk: Desk) -> Stats:
    intake, counters = desk.intake, desk.counters
    intake.sort_in()
    oldest = next(iter(intake.open.values()), None)
    return Stats(
        pending_events=intake.events,
        pending_rows=len(intake.open),
        pending_bytes=intake.bytes,
        waiting_in_outbox=desk.accounts.behind,
        oldest_seconds=0.0 if oldest is None else time.monotonic() - oldest,
        published=counters.published,
        retried=counters.retried,
        parked=desk.accounts.parked,
        dropped=counters.dropped,
        connected=desk.outlet.connected,
        last_error=desk.outlet.last_error,
    )
