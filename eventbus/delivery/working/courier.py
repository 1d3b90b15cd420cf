"""The dispatcher's thread: sleeps until something is due, and how it begins and ends."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final, final

from eventbus.delivery.outboxes.account import Account
from eventbus.delivery.working.desk import Desk
from eventbus.delivery.working.intake import Job
from eventbus.delivery.working.pulse import Pulse

_LINGER: Final = 0.001
_LINGER_LONG: Final = 0.02
"""Seconds that the thread waits for more to send together: after one commit, and while there are many.

Each turn costs the application processor time, whatever it sends: at 1,000 commits a second 20 ms take half of what
5 ms do, and at 800 the whole way keeps up, whose p99 is below 100 ms then and not 400 (`benchmarks.chain latency`).
"""
_MANY: Final = 600
"""Commits a second."""
_WATCHED: Final = 0.5
"""Seconds between two times that those who watch are told."""

logger = logging.getLogger("eventbus.delivery.dispatcher")


@final
class Courier:
    """Works at the desk.

    `settled` is notified when something was dealt with, for those that are `flushing`. `deadline`: when to give up,
    once the intake is closed. `watch` is called after some turns, at most twice a second, and once things are quiet.
    """

    def __init__(self, desk: Desk, *, beat: float, watch: Callable[[], None] | None = None) -> None:
        self.desk = desk
        self.watch = watch
        self.settled = threading.Condition(desk.lock)
        self.flushing = 0
        self.deadline = 0.0
        self.thread: threading.Thread | None = None
        self._wake = threading.Condition(desk.lock)
        self._beat = beat
        self._pulse: Pulse | None = None
        self._idle = False
        self._counted = (0, 0.0)
        self._told_at = 0.0
        self._news = False

    # for others, under the lock

    def wake(self) -> None:
        """Something is due now."""
        self._wake.notify()

    def wake_if_idle(self) -> None:
        """Something has come in."""
        if self._idle:
            self._idle = False
            self._wake.notify()

    def start(self) -> bool:
        """Start the thread, if there is none; whether it was. Raises RuntimeError where the interpreter shuts down."""
        if self.thread is not None or self.desk.intake.closed:
            return False
        self.thread = threading.Thread(target=self._run, name="eventbus-dispatcher", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:
            # The outbox keeps what came this late.
            self.thread = None
            raise
        return True

    # the thread

    def _run(self) -> None:
        try:
            while (jobs := self._next()) is not None:
                try:
                    self._turn(jobs)
                except BaseException as error:
                    self.desk.keep(jobs, error)
                    if not isinstance(error, Exception):
                        raise  # the next commit starts another thread
                    logger.exception("the dispatcher stumbled and goes on")
                with self.desk.lock:
                    if self.flushing:
                        self.settled.notify_all()
        finally:
            self._leave()

    def _turn(self, jobs: list[Job]) -> None:
        self._show_life()
        self.desk.remarks.speak()
        if jobs:
            self._news = True
            self.desk.send(jobs)
        self.desk.look_after(flushing=self.flushing > 0)
        if time.monotonic() >= self._told_at + _WATCHED:
            self._tell()

    def _tell(self) -> None:
        if self._news and self.watch is not None:
            self._told_at, self._news = time.monotonic(), False
            self.watch()

    def _next(self) -> list[Job] | None:
        """Jobs to send, or an empty list when something else is due, or None when it is over. Sleeps until then."""
        desk, intake = self.desk, self.desk.intake
        with desk.lock:
            while True:
                intake.sort_in()
                at = time.monotonic()
                intake.wake_delayed(at)
                if intake.closed and self._is_over(at):
                    return None
                if intake.waiting and at >= desk.outlet.retry_at:
                    return intake.take()
                due = min(desk.due(at), self.deadline) if intake.closed else desk.due(at)
                if self._news and self.watch is not None:
                    due = min(due, self._told_at + _WATCHED)
                if due <= at or desk.remarks:
                    return []
                self._sleep(due - at)
                if self.flushing:
                    intake.sort_in()
                    return intake.take() if time.monotonic() >= desk.outlet.retry_at else []

    def _sleep(self, seconds: float) -> None:
        # While the broker is down nobody needs to wake us for one event more.
        self._idle = not self.desk.intake.waiting
        woken = self._wake.wait(seconds)
        self._idle = False
        if woken and not self.flushing and not self.desk.intake.closed:
            # The writer has just committed: let it go on, and take what others commit meanwhile too.
            self._wake.wait(self._linger())

    def _linger(self) -> float:
        """How long to wait for what others commit."""
        (before, since), self._counted = self._counted, (self.desk.intake.commits, time.monotonic())
        commits, at = self._counted
        return _LINGER_LONG if commits - before > _MANY * (at - since) else _LINGER

    def _is_over(self, at: float) -> bool:
        if at >= self.deadline or not self.desk.intake.open:
            return True
        return self.desk.outlet.is_down and self.desk.intake.is_durable

    # life

    def _show_life(self) -> None:
        """From the first row on; whatever this thread waits for then."""
        if self._pulse is not None or not self.desk.accounts or self.desk.intake.closed:
            return
        self._pulse = Pulse(self._alive, self._beat)
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
            self._pulse.start()

    def _alive(self) -> list[Account] | None:
        """The accounts, while there is a thread that looks after them."""
        thread = self.thread
        if thread is None or not thread.is_alive():
            return None
        with self.desk.lock:
            self.desk.intake.sort_in()
            return list(self.desk.accounts)

    def _leave(self) -> None:
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        try:
            for account in self.desk.accounts:
                account.leave()
            self.desk.outlet.close()
        except Exception:
            logger.exception("the dispatcher has not ended in order")
        finally:
            with self.desk.lock:
                self.thread = None
                self.desk.intake.sort_in()
                self.settled.notify_all()
        self._tell()
        self.desk.remarks.speak()
