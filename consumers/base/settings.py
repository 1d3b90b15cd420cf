"""What a consumer needs to know, read from the environment once, by entry points only."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, unquote

from consumers import trust
from consumers.base.binding_syntax import fault_of_binding
from consumers.base.complaints import Complaints
from eventbus.errors import ConfigurationError
from eventbus.events import naming, signing
from eventbus.events.envelope import seal
from eventbus.events.reading import Limits
from eventbus.redaction import redact_url, shown
from eventbus.settings import DEFAULT_URL, reading_environment
from eventbus.transports.mirror_queue import DELIVERY_LIMIT

DEFAULT_BODY: Final = 1 << 20
DEFAULT_VERSION_AHEAD: Final = 24 * 3600.0
_KIND: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VERSION_BYTES: Final = len(seal(b"{}", 1)) - len(b"{}")


def limits_for(body: int) -> Limits:
    """Limits that let through what a service may send whose EVENTBUS_MAX_EVENT_BYTES is `body`.

    A service measures an event before it has its version, so that comes on top. Who allows larger bodies allows more
    values in them.
    """
    usual = Limits()
    return Limits(
        body=body + _VERSION_BYTES, containers=max(usual.containers, body // 20), values=max(usual.values, body // 4)
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` equal parts of all records; `index` counts from 0, as the pods of a StatefulSet do."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count <= 1024:
            raise ConfigurationError(f"EVENTBUS_SHARD is {self}: write index/count, from 0/2 on")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`0/2` is the first of two. Raises ConfigurationError."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise ConfigurationError(f"EVENTBUS_SHARD is {text!r}: write index/count, for example 0/2 and 1/2")
        return cls(int(index), int(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """Immutable; use `dataclasses.replace` to vary one. Sizes are bytes, times are seconds.

    `prefetch` is how many deliveries may be unacknowledged; a batch is at most half of them, so that the broker sends
    the next half while the first is handled, and reading stops at `batch_bytes`, whatever the prefetch allows: that
    bounds memory. `delivery_limit` is how often the broker hands a message over before it takes it for one that kills
    its consumers; RabbitMQ's own 20 is soon used up by the innocent neighbours of a restart loop, as every message in
    flight counts one. `patience` is how long the broker may leave a question unanswered before it counts as lost.
    """

    url: str = DEFAULT_URL
    exchange: str = naming.DEFAULT_EXCHANGE
    queue: str = naming.DEFAULT_QUEUE
    bindings: tuple[str, ...] = ("#",)
    prefetch: int = 1000
    batch_bytes: int = 8 << 20
    limits: Limits = field(default_factory=lambda: limits_for(DEFAULT_BODY))
    delivery_limit: int = DELIVERY_LIMIT
    heartbeat: int = 20
    patience: float = 10.0
    drain_patience: float = 30.0
    insecure_tls: bool = False
    shard: Shard | None = None
    hmac_keys: tuple[signing.Key, ...] = ()
    trusted_users: Mapping[str, frozenset[str]] = field(default_factory=dict)
    kind: str = "consumer"
    """What the consumer is; its queue is refused to consumers of another kind. `json-mirror` is the mirror."""
    max_version_ahead: float = DEFAULT_VERSION_AHEAD
    """Seconds that an event's version may be ahead of this machine's clock; 0 is no bound."""
    http: str = ""
    """Where probes and figures are served, as `127.0.0.1:9102`; nowhere where it is empty."""

    def __post_init__(self) -> None:
        wrong = Complaints()
        if not self.queue or not self.exchange:
            wrong.add("EVENTBUS_QUEUE and EVENTBUS_EXCHANGE need a name each")
        if not _KIND.fullmatch(self.kind):
            wrong.add(f"kind={self.kind!r}: use a-z, 0-9, _ and -, 64 characters at most")
        if not 1 <= self.prefetch <= 65_535:
            wrong.add(f"EVENTBUS_PREFETCH is {self.prefetch}: use 1 to 65535")
        if self.heartbeat < 5:
            wrong.add(f"EVENTBUS_HEARTBEAT is {self.heartbeat}: below 5 s a busy network looks dead")
        if not self.bindings:
            wrong.add("EVENTBUS_BINDINGS is empty: # takes everything, crm.# what the service crm says")
        for binding in self.bindings:
            if fault := fault_of_binding(binding):
                wrong.add(f"EVENTBUS_BINDINGS: {shown(binding, 80)} can never match: {fault}")
        if self.max_version_ahead < 0:
            wrong.add(f"EVENTBUS_MAX_VERSION_AHEAD is {self.max_version_ahead}: use 0 (no bound) or more seconds")
        wrong.tell()

    def demand_own_queue(self) -> None:
        """Raise ConfigurationError where the queue is the mirror's and this is another consumer: one would eat what
        the other should have.
        """
        if self.queue == naming.DEFAULT_QUEUE != self.kind:
            raise ConfigurationError(
                f"EVENTBUS_QUEUE is {naming.DEFAULT_QUEUE}, the mirror's: give your consumer a queue of its own name, "
                "for example EVENTBUS_QUEUE=search-index; it gets its own copy of every event"
            )

    @property
    def queue_name(self) -> str:
        """The queue that is consumed: the named one, or this shard's part of it (`json-mirror.0`)."""
        return f"{self.queue}.{self.shard.index}" if self.shard else self.queue

    @property
    def max_batch(self) -> int:
        """Deliveries in one call of the handler."""
        return max(1, self.prefetch // 2)

    @property
    def own_user(self) -> str:
        """The login this consumer uses, if it stands in the URL (RabbitMQ's default otherwise)."""
        login = self.url.partition("://")[2].rpartition("@")[0].partition(":")[0]
        return unquote(login) or "guest"

    @property
    def validated_user(self) -> str | None:
        """The login that the broker vouches for in `user_id`; None at a broker without logins."""
        return self.own_user if self.url.lower().startswith("amqp") else None

    @property
    def broker_file(self) -> Path | None:
        """The embedded broker's file, with its whole path; None where the broker is another."""
        scheme, slashes, path = self.url.partition(":///")
        return Path(os.path.realpath(unquote(path))) if slashes and path and scheme.lower() == "sqlite" else None

    @property
    def broker(self) -> str:
        """The broker as logs name it: without password, and a file in the working directory by its whole path."""
        file = self.broker_file
        return f"sqlite:///{quote(str(file))}" if file else redact_url(self.url)

    def __repr__(self) -> str:
        return f"ConsumerSettings(url={redact_url(self.url)!r}, exchange={self.exchange!r}, queue={self.queue_name!r})"

    @classmethod
    def from_env(cls) -> Self:
        """Read `EVENTBUS_*`. Raises ConfigurationError that names every wrong variable at once."""
        wrong = Complaints()
        values: dict[str, Any] = {}
        with wrong.taken(), reading_environment("EVENTBUS_") as env:
            values = {
                "url": env.str("URL", DEFAULT_URL),
                "exchange": env.str("EXCHANGE", naming.DEFAULT_EXCHANGE),
                "queue": env.str("QUEUE", naming.DEFAULT_QUEUE),
                "bindings": tuple(env.str("BINDINGS", "#").replace(",", " ").split()),
                "prefetch": env.int("PREFETCH", 1000),
                "limits": env.int("MAX_BODY_BYTES", DEFAULT_BODY),
                "delivery_limit": env.int("DELIVERY_LIMIT", DELIVERY_LIMIT),
                "heartbeat": env.int("HEARTBEAT", 20),
                "insecure_tls": env.bool("INSECURE_TLS", False),
                "max_version_ahead": env.float("MAX_VERSION_AHEAD", DEFAULT_VERSION_AHEAD),
                "shard": env.str("SHARD", ""),
                "hmac_keys": env.str("HMAC_KEYS", ""),
                "trusted_users": env.str("TRUSTED_USERS", ""),
                "http": env.str("HTTP", ""),
            }
        given = _parsed(values, wrong)
        with wrong.taken():
            made = cls(**given)
        wrong.tell()
        return made


_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "limits": limits_for,
    "shard": Shard.parse,
    "hmac_keys": signing.parse_keys,
    "trusted_users": trust.parse_users,
}


_NUMBERS: Final = ("prefetch", "limits", "delivery_limit", "heartbeat", "max_version_ahead")


def _parsed(values: Mapping[str, Any], wrong: Complaints) -> dict[str, Any]:
    """What was given and could be read. A default stands for the rest: nothing is complained of twice."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        parse = _PARSERS.get(name)
        if value is None or (parse and value == "") or (name in _NUMBERS and not isinstance(value, int | float)):
            continue
        with wrong.taken():
            given[name] = parse(value) if parse else value
    return given
