"""A consumer from start to end: one session after another, until it is told to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, final

from consumers.base.broker.amqp_inbox import AmqpInbox
from consumers.base.broker.inbox import Inbox
from consumers.base.broker.line import is_amqp
from consumers.base.broker.sender import Sender
from consumers.base.broker.virtual_inbox import VirtualInbox
from consumers.base.errors import Lost, Stalled
from consumers.base.monitoring import watched
from consumers.base.observer import Observer
from consumers.base.reading.screen import Screen
from consumers.base.settings import ConsumerSettings
from consumers.base.working.dead_letter_box import DeadLetterBox
from consumers.base.working.session import FIRST_RETRY, LONGEST_RETRY, Parts, Session, Stop
from consumers.base.working.worklist import Handler, Worklist
from eventbus.backoff import Backoff
from eventbus.errors import BrokerUnavailable, ConfigurationError, counted
from eventbus.process.stopping import stop_on_signals

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 2

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 30.0
_STEADY: Final = 10.0
"""Seconds a connection must have lasted before a new one is tried without the pauses of the failures before."""

OpenInbox = Callable[[ConsumerSettings], Inbox]

logger = logging.getLogger(__name__)


def run(
    settings: ConsumerSettings | Callable[[], ConsumerSettings],
    handler: Handler,
    *,
    drain: bool = False,
    stop: Stop | None = None,
    observer: Observer | None = None,
) -> int:
    """Consume until told to stop; with `drain`, until the queue is empty and everything settled. Returns an exit code.

    `settings` may also be what makes them, `ConsumerSettings.from_env`: then a wrong variable is an exit code as well.
    0: stopped or drained. 1: `drain` could not reach the broker, or another consumer had the queue, for longer than
    `settings.drain_patience`. 2: this can never work (settings, permissions, a queue with other arguments); the log
    says what to do. Without `stop`, SIGTERM and SIGINT end the consumer once the batch at hand is settled. Without
    `drain` a broker that is away is waited for, for ever, and in any case a handler that answers Retry is. What the
    handler raises does not come out of here, except what is no `Exception`.
    """
    with nullcontext(stop) if stop is not None else stop_on_signals() as until:
        try:
            known = settings if isinstance(settings, ConsumerSettings) else settings()
            known.demand_own_queue()
            with watched(known.http, observer or Observer()) as watching:
                Runner(known, handler, until, drain=drain, observer=watching).run()
        except ConfigurationError as error:
            logger.error("cannot consume: %s", error)  # noqa: TRY400  the text says what to do; a traceback hides it
            return EXIT_CONFIGURATION
        except BrokerUnavailable as error:
            logger.error("gave up: %s", error)  # noqa: TRY400
            return EXIT_FAILED
    return EXIT_OK


@final
class Runner:
    """Opens a session, and another with a growing pause between whenever the broker is lost."""

    def __init__(
        self,
        settings: ConsumerSettings,
        handler: Handler,
        stop: Stop,
        *,
        drain: bool = False,
        observer: Observer | None = None,
        open_inbox: OpenInbox | None = None,
    ) -> None:
        self._settings = settings
        self._handler = handler
        self._stop = stop
        self._drain = drain
        self._observer = observer or Observer()
        self._open_inbox: OpenInbox = open_inbox or (AmqpInbox if is_amqp(settings.url) else VirtualInbox)
        self._screen = Screen.of(settings)
        self._sender = Sender(settings)
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._working_at = time.monotonic()
        self._work = Worklist(handler, [])

    def run(self) -> None:
        """Return once stopped or drained.

        Raises ConfigurationError where the broker will never serve this consumer, BrokerUnavailable where `drain` could
        not reach it, or have the queue for itself, for too long.
        """
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                try:
                    return self._session()
                except Lost as error:
                    self._recover(error, started)
                    self._outwait()
        finally:
            self._sender.close()

    def _session(self) -> None:
        inbox = self._open_inbox(self._settings)
        try:
            session = Session(inbox, self._parts())
            self._observer.connected()
            try:
                session.run(drain=self._drain)
            finally:
                self._work = session.work
                self._working_at = max(self._working_at, session.progress_at)
                session.close()
            inbox.close()
        finally:
            inbox.drop()

    def _parts(self) -> Parts:
        # A new box each time: what the old one held comes again.
        box = DeadLetterBox(self._settings, self._sender, self._observer)
        return Parts(self._settings, self._handler, self._screen, box, self._observer, self._stop)

    def _recover(self, error: Lost, started: float) -> None:
        now = time.monotonic()
        if now - started > _STEADY:
            self._backoff.reset()
        stalled = isinstance(error, Stalled) or now - self._working_at > self._settings.drain_patience
        if self._drain and stalled:
            raise BrokerUnavailable(error.told) from error
        pause = self._backoff.next()
        logger.warning("%s; next try in %.1f s", error.told, pause, extra={"pause": round(pause, 3)})
        self._observer.disconnected(error.told)
        self._sleep(pause)

    def _outwait(self) -> None:
        """Connect only once the handler can take what it could not when the connection broke.

        Each connection uses up one of a message's deliveries, and RabbitMQ ends one that holds messages for 30 minutes:
        a disk that is full over a long week-end would send good messages to the dead letters.
        """
        backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        while self._work.pending and not self._stop.is_set():
            waiting = len(self._work.pending)
            turn = self._work.turn()
            self._working_at = time.monotonic()
            if len(self._work.pending) < waiting:
                return  # it works again; all of them come again
            pause = backoff.next()
            logger.warning(
                "not connected, %s wait for %.1f s: %s",
                counted(waiting, "delivery"),
                pause,
                turn.waiting,
                extra={"deliveries": waiting, "pause": round(pause, 3)},
            )
            self._observer.waiting(str(turn.waiting), pause)
            self._sleep(pause)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stop.wait(min(left, 1.0)):
            self._observer.turned()
