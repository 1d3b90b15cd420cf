"""What can happen between a consumer and its broker, in our own words, and what to do about it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from amqp.exceptions import AccessRefused, AMQPError
from kombu.exceptions import KombuError

from eventbus.errors import ConfigurationError, EventBusError
from eventbus.redaction import redact

BROKER_ERRORS: Final = (
    AMQPError,
    KombuError,
    OSError,
    struct.error,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What the drivers raise where the peer is gone, silent or talks nonsense: besides their own errors those of py-amqp's
parser, and AttributeError from a connection that was closed under them."""

_HOPELESS: Final = {
    402: "correct the file name in EVENTBUS_URL",
    403: "ask the broker's administrator for access, or correct user and password in EVENTBUS_URL",
    406: "a queue or exchange of this name exists with other arguments: let a consumer empty it and delete "
    "it (rabbitmqctl delete_queue NAME), or choose another name with EVENTBUS_QUEUE or EVENTBUS_EXCHANGE",
    503: "the broker does not know this kind of exchange: rabbitmq-plugins enable rabbitmq_consistent_hash_exchange",
    530: "correct the virtual host in EVENTBUS_URL, or have it made: rabbitmqctl add_vhost NAME",
    540: "this broker lacks what is asked for. RabbitMQ has quorum queues with dead letters from 3.10 on; shards need "
    "its plugin rabbitmq_consistent_hash_exchange, and do not work on the embedded broker",
}
"""Reply codes that no second try turns into success, and what to do about each."""


class Lost(EventBusError):
    """The connection is of no more use. All that was not acknowledged comes again on the next one."""

    _what = "broker lost: "

    @property
    def told(self) -> str:
        """The whole sentence, for logs and screens."""
        return f"{self._what}{self}"


class Unreachable(Lost):
    """No connection came about, so nothing was lost with it. The message names the broker."""

    _what = "the broker cannot be reached: "


class Taken(Lost):
    """Another consumer has the queue; it may have given it up by the next try."""

    _what = ""


class NotTaken(Lost):
    """The broker is there, but did not take a letter."""

    _what = ""


class Blocked(NotTaken):
    """The broker takes nothing from publishers for a while; what it has got already it will take in later."""


class Refused(Lost):
    """The broker is there, but this login may not do what is asked; somebody has to permit it."""

    _what = ""


class Stalled(Lost):
    """The broker is there, and messages wait, but it hands none of them over."""

    _what = ""


class NoQueue(Lost):
    """The broker is there, but what is asked of has no queue; somebody has to make it."""

    _what = ""


@contextmanager
def talking() -> Iterator[None]:
    """Around each exchange with the broker: a driver's error becomes Lost."""
    try:
        yield
    except BROKER_ERRORS as error:
        raise Lost(describe(error)) from error


@contextmanager
def needing(permission: str) -> Iterator[None]:
    """Around what needs a permission: a refusal becomes ConfigurationError that names it."""
    try:
        yield
    except AccessRefused as error:
        raise ConfigurationError(lacking(permission, error)) from error


def lacking(permission: str, error: BaseException) -> str:
    """What to say where a login lacks `permission`, as `write on exchange eventbus.dlx`."""
    return (
        f"the broker login lacks the permission to {permission} ({describe(error)}). What to do: ask the broker's "
        "administrator for it (rabbitmqctl set_permissions; docs/security.md lists what each command needs)"
    )


@contextmanager
def setting_up() -> Iterator[None]:
    """Around connecting and declaring: what cannot get better by itself becomes ConfigurationError, the rest Lost."""
    try:
        yield
    except BROKER_ERRORS as error:
        advice = _HOPELESS.get(getattr(error, "reply_code", None) or 0)
        if advice is not None:
            raise ConfigurationError(f"{describe(error).rstrip('.')}. What to do: {advice}") from error
        raise Lost(describe(error)) from error


def describe(error: BaseException) -> str:
    """One line, without passwords: `PreconditionFailed: Queue.declare: (406) …`."""
    text = " ".join(str(error).split())
    return redact(f"{type(error).__name__}: {text}" if text else type(error).__name__)
