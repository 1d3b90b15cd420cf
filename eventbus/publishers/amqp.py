"""Publishing to RabbitMQ with pipelined confirms.

Messages go out in writes of some 64 KiB, up to a window of them unconfirmed, each `mandatory` and persistent. The
broker answers by delivery tag: `basic.ack` or `basic.nack`, one or many at once, and `basic.return` before the ack of a
message that no queue takes. What it has said stands in a `Flight`, message by message, so that no confirm is ever
credited to another message. After an error the connection is thrown away together with all it still owed.

A new connection proves itself with one message: a broker that blocks, or takes and never confirms, then holds one
message of ours for each connection, not a window of them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Final, final

from amqp.exceptions import (
    AccessRefused,
    AMQPError,
    Blocked,
    ContentTooLarge,
    FrameError,
    FrameSyntaxError,
    NotAllowed,
    PreconditionFailed,
    RecoverableConnectionError,
    UnexpectedFrame,
)

from eventbus import transports
from eventbus.errors import BrokerUnavailable, ExchangeRefused
from eventbus.events.envelope import Message
from eventbus.events.signing import Key
from eventbus.process import failpoints
from eventbus.publishers.base import Outcome, Publisher
from eventbus.publishers.flight import Flight
from eventbus.publishers.headers import headers_for
from eventbus.publishers.link import DEFAULT_TIMEOUTS, LOST, Link, Sender, Timeouts
from eventbus.redaction import redact, redact_url

WINDOW_MESSAGES: Final = 2_000
"""Messages that may be unconfirmed at a time."""
WINDOW_BYTES: Final = 4 << 20
"""Bytes that may be unconfirmed at a time; a single message may exceed it."""
_WRITE_BYTES: Final = 64 << 10
_BEAT: Final = 1.0
"""Seconds between two looks at the heartbeat while waiting."""

_COMPLAINTS: Final = {
    Outcome.UNROUTABLE: "no queue takes messages of routing key %s",
    Outcome.REFUSED: "messages of routing key %s are refused; is a queue full?",
}

logger = logging.getLogger(__name__)


@final
class AmqpPublisher(Publisher):
    """Publishes to a durable topic exchange over `amqp` or `amqps`; declares the exchange on each new connection.

    `send_user` puts the login into each message, for the broker to vouch for and consumers to check; it must be the
    name the broker knows the login by. With a `key` every message is signed (see `eventbus.events.signing`).
    Raises ConfigurationError at once for a URL that cannot be used or is unsafe (see `transports.tls`).
    """

    def __init__(
        self,
        url: str,
        *,
        exchange: str,
        service: str,
        send_user: bool = False,
        key: Key | None = None,
        insecure_tls: bool = False,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        transports.connection(url, insecure_tls=insecure_tls)  # not opened: what cannot be meant is an error here
        self._url = url
        self._insecure_tls = insecure_tls
        self._sender = Sender(exchange, service, send_user, headers_for(key))
        self._timeouts = timeouts
        self._link: Link | None = None
        self._process = os.getpid()
        self._careful = False
        self._told: set[Outcome] = set()

    def __repr__(self) -> str:
        state = "connected" if self._link else "not connected"
        return f"<AmqpPublisher {redact_url(self._url)} exchange={self._sender.exchange!r} {state}>"

    @property
    def blocked(self) -> bool:
        """Whether the broker asked publishers to stop (memory or disk alarm), as far as is known."""
        return self._link is not None and self._link.blocked

    def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """See `Publisher.publish`. The broker's silence is borne for `Timeouts.confirm` at a time.

        A message that makes the broker close the channel (too large for it, routing key forbidden) cannot be told from
        those beside it: the next call sends one message at a time, and then it is REFUSED.
        """
        self._leave_parent()
        flight = Flight(messages)
        try:
            if messages:
                _Delivery(self._link or self._open(), flight, self._timeouts.confirm, alone=self._careful).run()
        except LOST as error:
            raise self._lost(flight, error) from error
        except BaseException:
            self._drop()  # interrupted, with confirms outstanding
            raise
        self._careful = False
        return self._settled(flight)

    def tick(self) -> None:
        self._leave_parent()
        if self._link is None:
            return
        try:
            self._link.read()
            self._link.beat()
        except LOST as error:
            self._drop()
            logger.warning("the idle connection to the broker is lost: %s", _text(error))

    def close(self) -> None:
        self._leave_parent()
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def abandon(self) -> None:
        self._process = os.getpid()
        link, self._link = self._link, None
        if link is not None:
            link.abandon()

    def _leave_parent(self) -> None:
        """In a forked child, whose owner forgot to: never speak on the parent's socket."""
        if self._process != os.getpid():
            self.abandon()

    def _open(self) -> Link:
        self._link = Link(self._url, self._sender, self._timeouts, insecure_tls=self._insecure_tls)
        where = redact_url(self._url)
        logger.info(
            "connected to the broker %s, exchange %s",
            where,
            self._sender.exchange,
            extra={"url": where, "exchange": self._sender.exchange},
        )
        return self._link

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.drop()

    def _lost(self, flight: Flight, error: Exception) -> BrokerUnavailable:
        """The error for the caller; what can be learnt of single messages is in the flight by then."""
        if _blames_message(error):
            self._careful = True
            self._refuse_culprit(flight, error)
        if flight.open or not isinstance(error, Blocked):
            self._drop()
        where, reason = redact_url(self._url), redact(_text(error))
        if _blames_exchange(error):
            return ExchangeRefused(
                f"broker {where}: {reason}. What to do: delete the exchange {self._sender.exchange!r} and bind its "
                "queues anew, or choose another name with EVENTBUS_EXCHANGE",
                outcomes=flight.outcomes,
            )
        if isinstance(error, NotAllowed) or (isinstance(error, AccessRefused) and "Login" in str(error.reply_text)):
            reason = reason.rstrip(".") + ". What to do: check login, password and virtual host of EVENTBUS_URL"
        elif getattr(error, "reply_code", None) == 403:
            permission = "configure" if getattr(error, "method_name", "") == "Exchange.declare" else "write on"
            reason += f". What to do: let the login {permission} exchange {self._sender.exchange!r} (docs/security.md)"
        return BrokerUnavailable(f"broker {where}: {reason}", outcomes=flight.outcomes)

    def _refuse_culprit(self, flight: Flight, error: Exception) -> None:
        position = flight.sole()
        if position is not None:
            flight.refuse(position)
            logger.warning("the broker refuses a message: %s", _text(error), extra={"id": flight.messages[position].id})

    def _settled(self, flight: Flight) -> list[Outcome]:
        """All outcomes. Failures are logged when they begin, not again with every try."""
        outcomes = [outcome for outcome in flight.outcomes if outcome is not None]
        if outcomes.count(Outcome.CONFIRMED) == len(outcomes):
            self._told = set()
            return outcomes
        failed = {Outcome.UNROUTABLE, Outcome.REFUSED}.intersection(outcomes)
        for outcome in failed - self._told:
            first = flight.messages[outcomes.index(outcome)]
            logger.warning(
                _COMPLAINTS[outcome],
                first.routing_key,
                extra={"exchange": self._sender.exchange, "id": first.id, "count": outcomes.count(outcome)},
            )
        self._told = failed
        return outcomes


@final
class _Delivery:
    """One flight over one link: `run` returns when all of it is settled. `alone` lets one message fly at a time."""

    def __init__(self, link: Link, flight: Flight, patience: float, *, alone: bool) -> None:
        self._link = link
        self._flight = flight
        self._patience = patience
        self._alone = alone
        self._frames: list[bytes] = []
        self._positions: list[int] = []
        self._size = 0

    def run(self) -> None:
        link, flight, timestamp = self._link, self._flight, int(time.time())
        flight.board(link.published + 1)
        link.flight = flight
        publication, frames, positions = link.frames.publication, self._frames, self._positions
        most, room = self._room()
        for position, message in enumerate(flight.messages):
            try:
                publishing = publication(message, timestamp)
            except (ValueError, TypeError, AttributeError) as error:
                flight.refuse(position)
                logger.warning("a message does not fit AMQP: %s", error, extra={"id": message.id})
                continue
            size = len(publishing)
            if len(frames) >= most or self._size + size > room:
                self._make_room(size)
                most, room = self._room()
            frames.append(publishing)
            positions.append(position)
            self._size += size
            if self._size >= _WRITE_BYTES:
                self._write()
                most, room = self._room()
        self._write()
        self._await(0)
        link.flight = None

    @property
    def _window(self) -> int:
        return 1 if self._alone or not self._link.proven else WINDOW_MESSAGES

    def _room(self) -> tuple[int, int]:
        """How many messages and bytes may wait to be written."""
        return self._window - self._flight.open, WINDOW_BYTES - self._flight.open_bytes

    def _make_room(self, size: int) -> None:
        """Write what waits; return when one more message of this size fits the window."""
        self._write()
        most, room = self._room()
        if most <= 0 or size > room:
            # Half the window at once, so that what follows goes out in large writes again.
            self._await(self._window // 2, WINDOW_BYTES // 2)

    def _write(self) -> None:
        if not self._frames:
            return
        link = self._link
        link.read()  # the broker may have closed the channel, or asked us to stop
        if link.blocked:
            self._await_unblocked()
        self._flight.depart(self._positions, list(map(len, self._frames)))
        link.published += len(self._frames)
        data = b"".join(self._frames)
        self._frames.clear()
        self._positions.clear()
        self._size = 0
        link.write(data)
        failpoints.hit("after_publish")

    def _await(self, most: int, most_bytes: int = 0) -> None:
        """Return when no more than this is unconfirmed; raise when the broker confirms nothing for too long."""
        flight, patience = self._flight, self._patience
        deadline = time.monotonic() + patience
        while flight.open > most or flight.open_bytes > most_bytes > 0:
            before = flight.open
            self._listen(deadline)
            if flight.open < before:
                deadline = time.monotonic() + patience
            elif time.monotonic() >= deadline:
                raise self._silence(flight.open)

    def _await_unblocked(self) -> None:
        deadline = time.monotonic() + self._patience
        while self._link.blocked:
            self._listen(deadline)
            if time.monotonic() >= deadline:
                raise self._silence(self._flight.open)

    def _listen(self, deadline: float) -> None:
        if not self._link.read(min(_BEAT, max(0.0, deadline - time.monotonic()))):
            self._link.beat()

    def _silence(self, unconfirmed: int) -> AMQPError:
        since = f"for {self._patience:g} s, {unconfirmed} unconfirmed"
        if self._link.blocked:
            return Blocked(f"blocks publishers (memory or disk alarm) {since}")
        return RecoverableConnectionError(f"confirmed nothing {since}")


def _blames_message(error: Exception) -> bool:
    """Whether the broker hung up for the sake of one message, and not of exchange or login."""
    if isinstance(error, AccessRefused):
        return "access to topic '" in str(error.reply_text)
    if isinstance(error, FrameError | FrameSyntaxError | UnexpectedFrame):
        return getattr(error, "method_sig", None) is not None  # said by the broker, and not by ourselves of the broker
    return isinstance(error, PreconditionFailed | ContentTooLarge) and not _blames_exchange(error)


def _blames_exchange(error: Exception) -> bool:
    """Whether the exchange is there already, with another type or other arguments."""
    return isinstance(error, PreconditionFailed) and error.method_name == "Exchange.declare"


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
