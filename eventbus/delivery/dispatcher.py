"""After the commit: one thread a process hands events to the broker, so that no writer ever waits for it.

A writer's thread only appends to a list, the inbox, which the dispatcher's thread sorts. Memory is bounded: what does
not fit stays in the outbox and is read back by id when there is room. What the broker confirmed is deleted from the
outbox, many rows at a time; what it refuses again and again is parked there and tried seldom. Rows that ended processes
left are looked for and delivered too.

Without an outbox (direct mode) the queue is all there is: what does not fit, or is refused too often, is lost, and
counted and logged as such.
"""

from __future__ import annotations

import atexit
import contextlib
import heapq
import logging
import os
import random
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any, Final, Literal, final

from eventbus.backoff import Backoff
from eventbus.delivery.account import Account, Tempo
from eventbus.delivery.parcel import Parcel, deliver, insist
from eventbus.delivery.pulse import Pulse
from eventbus.errors import BrokerUnavailable, FlushTimeout, counted
from eventbus.events.envelope import Batch
from eventbus.outbox import Entry, Store
from eventbus.publishers.base import Outcome, Publisher
from eventbus.settings import redact

ROUND_EVENTS: Final = 1000
ROUND_BYTES: Final = 4 << 20
_INBOX: Final = 16
"""Rows that may wait for the dispatcher's thread to look at them; with one more the writer sees to them itself."""
_TICK: Final = 1.0
_LINGER = 0.001
_LOSS_LOG: Final = 10.0
_OVERHEAD: Final = 1000
"""Bytes that Python needs for a row beside its events; measured."""

KEPT: Final = "`eventbus-relay --parked list` shows what is kept in the outbox"
_LOST: Final = "without an outbox they are lost"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a service should watch. Counts since the dispatcher was made, but for those that say otherwise.

    `pending_events`, `pending_rows`, `pending_bytes`: committed and not confirmed, in memory now; `waiting_in_outbox`:
    whether more wait in the outbox, for want of memory. `oldest_seconds`: how long the oldest of them has waited here.
    `parked`: rows the broker did not take, now, as last counted. `dropped`: events given up (`unroutable="drop"`, or
    direct mode).
    """

    pending_events: int = 0
    pending_rows: int = 0
    pending_bytes: int = 0
    waiting_in_outbox: bool = False
    oldest_seconds: float = 0.0
    published: int = 0
    retried: int = 0
    parked: int = 0
    dropped: int = 0
    connected: bool = False
    last_error: str | None = None


class _Job(Parcel):
    """A parcel in the dispatcher's hands; `charge`: bytes of memory it is accounted for, 0 when it is settled."""

    __slots__ = ("account", "charge", "count", "number")

    account: Account | None
    charge: int
    count: int
    number: int


@dataclass(slots=True)
class _Counters:
    published: int = 0
    retried: int = 0
    dropped: int = 0
    given_up: int = 0


@dataclass(slots=True)
class _State:
    """All that a fork must begin anew."""

    inbox: list[Entry] = field(default_factory=list)
    queue: deque[_Job] = field(default_factory=deque)
    delayed: list[tuple[float, int, _Job]] = field(default_factory=list)
    open: dict[int, float] = field(default_factory=dict)
    accounts: dict[Store, Account] = field(default_factory=dict)
    bytes: int = 0
    events: int = 0
    number: int = 0
    thread: threading.Thread | None = None
    pulse: Pulse | None = None
    publisher: Publisher | None = None
    idle: bool = False
    flushing: int = 0
    closing: bool = False
    deadline: float = 0.0
    retry_at: float = 0.0
    connected: bool = False
    last_error: str | None = None


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
        self._make_publisher = make_publisher
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._unroutable = unroutable
        self._tries = tries
        self._tempo = tempo
        self._exit_timeout = exit_timeout
        self._expects_rows = expects_rows
        self._backoff_limit = backoff_limit
        self._reset()
        _dispatchers.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._state = _State()
        self._counters = _Counters()
        self._backoff = Backoff(first=0.1, limit=self._backoff_limit)
        self._tick_at = self._retire_at = 0.0
        self._suspects: dict[str, float] = {}
        self._loss_logged = 0.0
        self._remarks: deque[Callable[[], None]] = deque()

    # for writers

    def submit(self, entries: Sequence[Entry]) -> None:
        """Take over what a transaction committed, in commit order. Never blocks on anything slow, never raises."""
        try:
            state = self._state
            with self._lock:
                inbox = state.inbox
                inbox += entries
                if len(inbox) > _INBOX or len(entries) > 1 or state.closing:
                    self._sort_in(state)
                if state.idle:
                    state.idle = False
                    self._wake.notify()
            if state.thread is None:
                self._start()
        except Exception:
            # The transaction is committed: an error here must not look like a failed commit.
            logger.exception("the dispatcher could not be started; the outbox has the events, if there is one")

    def nudge(self, store: Store) -> None:
        """Look for rows of this process that may be committed without having been submitted."""
        try:
            with self._lock:
                self._account(store).look_soon(time.monotonic() + 0.5)
                self._wake.notify()
            if self._state.thread is None:
                self._start()
        except Exception:
            logger.exception("the outbox will be looked at later")

    def look_after(self, store: Store) -> None:
        """Look for rows of ended processes there, though nobody here writes any."""
        with self._lock:
            self._account(store).kept = True
        self.nudge(store)

    def is_quiet(self, store: Store) -> bool:
        """Whether nothing is left in that outbox that this process could deliver, now or soon."""
        with self._lock:
            self._sort_in(self._state)
            quiet = self._account(store).quiet
        self._speak()
        return quiet

    def flush(self, timeout: float = 30.0) -> None:
        """Return when all that was submitted so far is confirmed by the broker, and gone from the outbox.

        Raises FlushTimeout when it is not after `timeout` seconds, or as soon as some of it was parked or dropped.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            state, given_up = self._state, self._counters.given_up
            self._sort_in(state)
            if state.open and state.thread is None:
                self._start()
            target = state.number
            state.flushing += 1
            self._wake.notify()
            try:
                while not (confirmed := self._is_confirmed(state, target)) or not self._is_settled(state):
                    if any(account.behind for account in state.accounts.values()):
                        target = state.number
                    left = deadline - time.monotonic()
                    if (left <= 0 or state.thread is None) and confirmed:
                        break  # only the outbox lags behind, as its database cannot be reached
                    if left <= 0 or state.thread is None:
                        raise self._flush_timeout(state, timeout)
                    self._settled.wait(min(left, 0.5))
            finally:
                state.flushing -= 1
            refused = self._counters.given_up - given_up
        self._speak()
        if refused:
            fate = KEPT if state.accounts else _LOST
            raise FlushTimeout(
                f"not taken by the broker: {counted(refused, 'event')} ({state.last_error}); {fate}",
                pending=refused,
            )

    def close(self, timeout: float = 10.0) -> None:
        """Deliver what can be delivered within `timeout` seconds and end; the rest stays in the outbox.

        Where the broker is known to be down it does not wait for it, unless there is no outbox to wait in.
        """
        with self._lock:
            state = self._state
            thread = state.thread
            self._sort_in(state)
            state.closing = True
            state.deadline = time.monotonic() + timeout
            self._wake.notify()
        self._speak()
        _dispatchers.discard(self)
        if thread is None or thread is threading.current_thread():
            return
        thread.join(timeout + 1.0)
        with self._lock:
            left = state.events
        if left:
            durable = _is_durable(state)
            logger.log(
                logging.WARNING if durable else logging.ERROR,
                "closed with events that the broker does not have",
                extra={"events": left, "kept_in_outbox": durable},
            )

    def stats(self) -> Stats:
        """The figures of this process, consistent with each other."""
        with self._lock:
            stats = self._figures(self._state, self._counters)
        self._speak()
        return stats

    def _figures(self, state: _State, counters: _Counters) -> Stats:
        self._sort_in(state)
        oldest = next(iter(state.open.values()), None)
        return Stats(
            pending_events=state.events,
            pending_rows=len(state.open),
            pending_bytes=state.bytes,
            waiting_in_outbox=any(account.behind for account in state.accounts.values()),
            oldest_seconds=0.0 if oldest is None else time.monotonic() - oldest,
            published=counters.published,
            retried=counters.retried,
            parked=sum(account.parked for account in state.accounts.values()),
            dropped=counters.dropped,
            connected=state.connected,
            last_error=state.last_error,
        )

    def _sort_in(self, state: _State) -> None:
        """See to what writers have handed over."""
        if not state.inbox:
            return
        entries, state.inbox = deque(state.inbox), []
        try:
            while entries:
                try:
                    self._enter(state, *entries[0])
                except Exception as error:  # noqa: BLE001 - logged, as soon as the lock is free
                    text = "committed events could not be taken over; the outbox has them, if there is one"
                    self._remarks.append(partial(logger.error, text, exc_info=error))
                entries.popleft()
        finally:
            if entries:  # a signal's exception came between
                state.inbox = [*entries, *state.inbox]

    def _enter(self, state: _State, batch: Batch, store: Store | None) -> None:
        job = _Job.of_batch(batch)
        account = None if store is None else state.accounts.get(store) or self._account(store)
        if account is not None:
            if not batch.version:
                # The row was to go with a commit that has not come: whoever commits it, the outbox will show it.
                account.look_soon(time.monotonic() + 0.5)
                return
            if batch.version in account.known:
                return
            full = not self._fits(state, job) or len(state.open) >= self._max_rows
            if account.behind or state.closing or full or account.clogged:
                because = "memory is full" if full else "delivered rows cannot be deleted"
                self._leave_in_outbox(account, batch.version, "the dispatcher is closed" if state.closing else because)
                return
        elif state.closing:
            self._lose(len(job), "the dispatcher is closed")
            return
        elif not self._make_room(state, job):
            return
        self._admit(state, job, account)
        if account is not None:
            # Last, as a signal's exception may come between: a row that only was known would never be delivered.
            account.known[batch.version] = time.monotonic()

    def _leave_in_outbox(self, account: Account, row_id: int, because: str) -> None:
        if not account.behind:
            extra = {"outbox": repr(account.store)}
            self._remarks.append(partial(logger.warning, "%s, events wait in the outbox", because, extra=extra))
        account.leave_in_outbox(row_id)

    def _admit(self, state: _State, job: _Job, account: Account | None) -> None:
        """Into the queue first: what only was counted as open would be waited for in vain."""
        job.account, job.charge, job.count = account, job.size + _OVERHEAD, len(job)
        job.number = state.number = state.number + 1
        state.queue.append(job)
        state.open[job.number] = time.monotonic()
        state.bytes += job.charge
        state.events += job.count

    def _fits(self, state: _State, job: _Job) -> bool:
        return not state.bytes or state.bytes + job.size + _OVERHEAD <= self._max_bytes

    def _make_room(self, state: _State, job: _Job) -> bool:
        """Direct mode: the oldest events give way to newer ones."""
        while not self._fits(state, job):
            victim = next((each for each in state.queue if each.account is None), None)
            if victim is None:
                self._lose(len(job), "memory is full")
                return False
            state.queue.remove(victim)
            self._lose(len(victim), "memory is full")
            self._finish(state, victim)
        return True

    def _account(self, store: Store) -> Account:
        accounts = self._state.accounts
        if store not in accounts:
            accounts[store] = Account(store, self._lock, self._tempo)
            accounts[store].expects_rows = self._expects_rows
        return accounts[store]

    def _lose(self, events: int, reason: str) -> None:
        self._counters.dropped += events
        self._counters.given_up += events
        at = time.monotonic()
        if at - self._loss_logged > _LOSS_LOG or not self._loss_logged:
            self._loss_logged = at
            extra = {"dropped_so_far": self._counters.dropped}
            self._remarks.append(partial(logger.error, "events are lost: %s", reason, extra=extra))

    def _speak(self) -> None:
        """Log what was noted under the lock. A handler may be slow, or commit through a Session of ours."""
        while self._remarks:
            try:
                remark = self._remarks.popleft()
            except IndexError:  # another thread was faster
                return
            remark()

    def _is_confirmed(self, state: _State, target: int) -> bool:
        oldest = next(iter(state.open), None)
        if oldest is not None and oldest <= target:
            return False
        return not any(account.behind for account in state.accounts.values())

    def _is_settled(self, state: _State) -> bool:
        return all(account.settled for account in state.accounts.values())

    def _flush_timeout(self, state: _State, timeout: float) -> FlushTimeout:
        pending, because = state.events, f": {state.last_error}" if state.last_error else ""
        return FlushTimeout(
            f"not confirmed within {timeout:g} s: {counted(pending, 'event')}{because}", pending=pending
        )

    # the thread

    def _start(self) -> None:
        if self._state.closing:
            self._speak()  # there is no thread to do it
        with self._lock:
            state = self._state
            if state.thread is not None or state.closing:
                return
            thread = threading.Thread(target=self._run, args=(state,), name="eventbus-dispatcher", daemon=True)
            state.thread = thread
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is shutting down. The outbox keeps what came this late.
                state.thread = None
                raise
        _close_at_exit(self, self._exit_timeout)

    def _run(self, state: _State) -> None:
        try:
            while (jobs := self._next(state)) is not None:
                try:
                    self._show_life(state)
                    self._speak()
                    if jobs:
                        self._tidy(state)
                        self._send(state, jobs)
                    self._look_after_accounts(state)
                except BaseException as error:
                    self._put_back(state, [job for job in jobs if job.number in state.open])
                    self._stand_back(state, error)
                    if not isinstance(error, Exception):
                        raise  # the next commit starts another thread
                    logger.exception("the dispatcher stumbled and goes on")
                with self._lock:
                    if state.flushing:
                        self._settled.notify_all()
        finally:
            self._leave(state)

    def _show_life(self, state: _State) -> None:
        """From the first row on; whatever this thread waits for then."""
        if state.pulse is not None or not state.accounts or state.closing:
            return
        state.pulse = Pulse(lambda: self._alive(state), self._tempo.beat)
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
            state.pulse.start()

    def _tidy(self, state: _State) -> None:
        """A writer has just committed, and has not yet begun anew."""
        at = time.monotonic()
        for account in list(state.accounts.values()):
            account.tidy(at)

    def _alive(self, state: _State) -> list[Account] | None:
        """The accounts, while there is a thread that looks after them."""
        thread = state.thread
        if thread is None or not thread.is_alive():
            return None
        with self._lock:
            self._sort_in(state)
            return list(state.accounts.values())

    def _next(self, state: _State) -> list[_Job] | None:
        """Jobs to send, or an empty list when something else is due, or None when it is over. Sleeps until then."""
        with self._lock:
            while True:
                self._sort_in(state)
                at = time.monotonic()
                while state.delayed and state.delayed[0][0] <= at:
                    state.queue.appendleft(heapq.heappop(state.delayed)[2])
                if state.closing and self._is_over(state, at):
                    return None
                if state.queue and at >= state.retry_at:
                    return self._take(state)
                due = self._due(state, at)
                if due <= at or self._remarks:
                    return []
                # While the broker is down nobody needs to wake us for one event more.
                state.idle = not state.queue
                woken = self._wake.wait(due - at)
                state.idle = False
                if woken and not state.flushing and not state.closing:
                    # The writer has just committed: let it go on, and take what others commit meanwhile too.
                    self._wake.wait(_LINGER)
                if state.flushing:
                    self._sort_in(state)
                    return self._take(state) if state.queue and time.monotonic() >= state.retry_at else []

    def _take(self, state: _State) -> list[_Job]:
        jobs: list[_Job] = []
        events, size, queue = 0, 0, state.queue
        while queue and (not jobs or (events + len(queue[0]) <= ROUND_EVENTS and size + queue[0].size <= ROUND_BYTES)):
            job = queue.popleft()
            jobs.append(job)
            events += len(job)
            size += job.size
        return jobs

    def _due(self, state: _State, at: float) -> float:
        room = self._room(state) > 0
        times = [account.due(at, room=room) for account in state.accounts.values()]
        # Parked rows are tried when others would be.
        reachable = 0.0 if state.connected else state.retry_at
        times += [max(account.parked_due, reachable) for account in state.accounts.values()]
        times.append(self._tick_at if state.connected else at + 60.0)
        if state.queue:
            times.append(state.retry_at)
        if state.delayed:
            times.append(state.delayed[0][0])
        if state.closing:
            times.append(state.deadline)
        return min(times)

    def _room(self, state: _State) -> int:
        """Bytes that may be read back: none before half of the memory is free, so that it is done in long stretches."""
        half_empty = state.bytes <= self._max_bytes // 2 and len(state.open) <= self._max_rows // 2
        return self._max_bytes - state.bytes if half_empty else 0

    def _is_over(self, state: _State, at: float) -> bool:
        if at >= state.deadline or not state.open:
            return True
        return self._backoff.failures > 0 and not state.connected and _is_durable(state)

    def _send(self, state: _State, jobs: list[_Job]) -> None:
        try:
            publisher = state.publisher
            if publisher is None:
                publisher = state.publisher = self._make_publisher()
            deliver(publisher, jobs)
        except BrokerUnavailable as error:
            self._stand_back(state, error)
        else:
            self._came_through(state)
        self._sort_out(state, jobs)

    def _came_through(self, state: _State) -> None:
        if self._backoff.failures:
            logger.info("the broker can be reached again")
        self._backoff.reset()
        state.connected = True
        state.retry_at = 0.0
        self._tick_at = time.monotonic() + _TICK

    def _stand_back(self, state: _State, error: BaseException) -> None:
        first = not self._backoff.failures
        delay = self._backoff.next()
        state.connected = False
        state.last_error = redact(str(error) or type(error).__name__)
        state.retry_at = time.monotonic() + delay
        if first:
            trouble = getattr(error, "trouble", BrokerUnavailable.trouble)
            logger.warning("the broker %s, events wait: %s", trouble, state.last_error)

    def _sort_out(self, state: _State, jobs: list[_Job]) -> None:
        done: dict[Account, list[int]] = {}
        published = 0
        with self._lock:
            again = []
            for job in jobs:
                published += job.count - len(job)
                if not len(job):
                    self._finish(state, job)
                    if job.account is not None:
                        done.setdefault(job.account, []).append(job.version)
                else:
                    state.events -= job.count - len(job)
                    job.count = len(job)
                    (self._refused(state, job) if job.outcome is not None else again.append(job))
            self._put_back(state, again)
            self._counters.published += published
            for account, row_ids in done.items():
                account.delivered(row_ids)
        self._speak()

    def _finish(self, state: _State, job: _Job) -> None:
        state.open.pop(job.number, None)
        state.bytes -= job.charge
        state.events -= job.count
        job.charge = job.count = 0

    def _put_back(self, state: _State, jobs: list[_Job]) -> None:
        with self._lock:
            self._counters.retried += sum(len(job) for job in jobs)
            state.queue.extendleft(reversed(jobs))

    def _refused(self, state: _State, job: _Job) -> None:
        """The broker works and does not take this: later again, others first; in the end out of the way."""
        at, left = time.monotonic(), len(job)
        state.last_error = job.reason
        if job.outcome is Outcome.UNROUTABLE and self._unroutable == "drop":
            self._counters.dropped += left
        elif job.tries < self._tries and not self._is_suspect(job, at):
            self._counters.retried += left
            delay = min(0.1 * 2.0**job.tries, 5.0) * random.uniform(0.5, 1.0)  # noqa: S311
            heapq.heappush(state.delayed, (at + delay, job.number, job))
            return
        elif job.account is None:
            self._lose(left, job.reason)
        else:
            self._park(job, at)
            self._finish(state, job)
            return
        self._finish(state, job)
        if job.account is not None:
            job.account.delivered([job.version])

    def _is_suspect(self, job: _Job, at: float) -> bool:
        """Whether such events were given up a moment ago: then each of them is tried once, not again and again."""
        return at - self._suspects.get(job.reason, -1e9) < self._tempo.parked

    def _park(self, job: _Job, at: float) -> None:
        assert job.account is not None
        if not self._is_suspect(job, at):
            text, extra = "events are parked in the outbox: %s", {"row": job.version}
            self._remarks.append(partial(logger.warning, text, job.reason, extra=extra))
        if len(self._suspects) > 1000:
            self._suspects.clear()
        self._suspects[job.reason] = at
        self._counters.given_up += len(job)
        job.account.park(job)

    # between two rounds

    def _look_after_accounts(self, state: _State) -> None:
        at = time.monotonic()
        if state.connected and state.publisher is not None and at >= self._tick_at:
            state.publisher.tick()
            self._tick_at = at + _TICK
        self._retire(state, at)
        for account in list(state.accounts.values()):
            hurry = state.flushing > 0 and not state.queue
            take = partial(self._read_back, state, account)
            account.work(at, room=lambda: self._room(state), take=take, hurry=hurry)
            if state.connected or at >= state.retry_at:
                self._retry_parked(state, account, at)

    def _retire(self, state: _State, at: float) -> None:
        """Let go of databases whose engines the application has disposed of, once nothing is to be done there."""
        if at < self._retire_at:
            return
        self._retire_at = at + _TICK
        with self._lock:
            self._sort_in(state)
            retired = [store for store, account in state.accounts.items() if account.is_over]
            left = [state.accounts.pop(store) for store in retired]
        for account in left:
            account.leave()

    def _read_back(self, state: _State, account: Account, parcel: Parcel) -> None:
        self._admit(state, _Job.of_parcel(parcel), account)

    def _retry_parked(self, state: _State, account: Account, at: float) -> None:
        claimed = account.claim_parked(at)
        if not claimed:
            return
        before = sum(len(parcel) for _, parcel in claimed)
        if state.publisher is None:
            state.publisher = self._make_publisher()
        try:
            insist(state.publisher, [parcel for _, parcel in claimed])
        except BrokerUnavailable as error:
            self._stand_back(state, error)
        else:
            self._came_through(state)
        if any(not len(parcel) for _, parcel in claimed):
            self._suspects.clear()
        with self._lock:
            self._counters.published += before - sum(len(parcel) for _, parcel in claimed)
        account.settle_parked(claimed)

    def _leave(self, state: _State) -> None:
        if state.pulse is not None:
            state.pulse.close()
            state.pulse = None
        try:
            for account in list(state.accounts.values()):
                account.leave()
            if state.publisher is not None:
                state.publisher.close()
        except Exception:
            logger.exception("the dispatcher has not ended in order")
        finally:
            with self._lock:
                state.thread = None
                self._sort_in(state)
                self._settled.notify_all()
        self._speak()

    # processes

    def _forked(self) -> None:
        """In the child: forget the parent's events, its thread, and without a word its connections."""
        state = self._state
        if state.publisher is not None:
            state.publisher.abandon()
        _inherited.extend((state, [account.forget() for account in state.accounts.values()]))
        self._reset()


def _is_durable(state: _State) -> bool:
    """Whether all that waits is in an outbox too."""
    waiting = [*state.queue, *(job for _, _, job in state.delayed)]
    return all(job.account is not None for job in waiting)


def drain_on_sigterm() -> None:
    """Opt-in: let SIGTERM end this process as `sys.exit(143)` does, so that its dispatcher drains; main thread only.

    A handler that is there already is called instead, if it is a function: gunicorn, uvicorn and Celery end in order.
    """
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if callable(before):
            before(number, frame)
        else:
            sys.exit(128 + number)

    signal.signal(signal.SIGTERM, handle)


_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()
_inherited: list[object] = []
"""What a child process got from its parent and must not touch, not even by collecting it."""


def _close_at_exit(dispatcher: Dispatcher, timeout: float) -> None:
    reference = weakref.ref(dispatcher)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close(timeout)

    for util in _child_of():
        # A child of multiprocessing ends without running what atexit knows.
        util.Finalize(None, close, exitpriority=10)
    atexit.register(close)


def _child_of() -> Iterator[Any]:
    """The `util` of each multiprocessing, Python's and Celery's, that started this process."""
    multiprocessing, billiard = sys.modules.get("multiprocessing"), sys.modules.get("billiard.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        yield sys.modules.get("multiprocessing.util")
    if billiard is not None and billiard.current_process()._parent_pid is not None:
        yield sys.modules.get("billiard.util")


def _forget_parent() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher._forked()


os.register_at_fork(after_in_child=_forget_parent)
