"""Settings of the service side, read from the environment once, by entry points only.

Each setting `NAME` may also come from a mounted secret: `NAME_FILE` is the path of a file that holds the value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from environs import EnvError, EnvValidationError, FileAwareEnv

from eventbus.environment import warn_of_unknown
from eventbus.errors import ConfigurationError
from eventbus.events import naming
from eventbus.redaction import redact_url

DEFAULT_URL: Final = "sqlite:///eventbus-broker.sqlite3"
"""Our own transport on one SQLite file in the working directory: the whole chain without a broker."""
DEFAULT_SERVICE: Final = "app"


@dataclass(frozen=True, slots=True)
class Settings:
    """What `install()` needs to know. Immutable; use `dataclasses.replace` to vary one.

    Sizes are bytes, times are seconds.
    """

    url: str = DEFAULT_URL
    service: str = DEFAULT_SERVICE
    exchange: str = naming.DEFAULT_EXCHANGE
    queue: str = naming.DEFAULT_QUEUE
    max_event_bytes: int = 1 << 20
    max_pending_bytes: int = 64 << 20
    unroutable: Literal["keep", "drop"] = "keep"
    ordering: Literal["fast", "strict"] = "fast"
    delivery: Literal["thread", "relay"] = "thread"
    wire: Literal["single", "batch"] = "single"
    """`batch`: events of one transaction and routing key share messages. For whoever publishes: service or relay."""
    insecure_tls: bool = False
    send_user: bool = False
    """Put the broker login into each message, for consumers that check who speaks (EVENTBUS_TRUSTED_USERS there)."""
    hmac_keys: str = ""
    """`id:secret` pairs; the first signs each message (see `eventbus.events.signing`)."""

    def __post_init__(self) -> None:
        wrong = list(self._wrong())
        if wrong:
            raise ConfigurationError("; ".join(wrong))

    def _wrong(self) -> Iterator[str]:
        if not self.service:
            yield "EVENTBUS_SERVICE is empty: name the service whose records are published, e.g. crm"
        if not self.exchange:
            yield "EVENTBUS_EXCHANGE is empty: leave it out for eventbus, or name an exchange"
        if not self.queue:
            yield "EVENTBUS_QUEUE is empty: leave it out for json-mirror, or name the mirror's queue"
        if self.unroutable not in ("keep", "drop"):
            yield f"EVENTBUS_UNROUTABLE is {self.unroutable!r}: use keep or drop"
        if self.ordering not in ("fast", "strict"):
            yield f"EVENTBUS_ORDERING is {self.ordering!r}: use fast or strict"
        if self.delivery not in ("thread", "relay"):
            yield f"EVENTBUS_DELIVERY is {self.delivery!r}: use thread or relay"
        if self.wire not in ("single", "batch"):
            yield f"EVENTBUS_WIRE is {self.wire!r}: use single or batch"
        if self.max_event_bytes < 1024:
            yield f"EVENTBUS_MAX_EVENT_BYTES is {self.max_event_bytes}: at least 1024"
        if self.max_pending_bytes < self.max_event_bytes:
            yield f"EVENTBUS_MAX_PENDING_BYTES is {self.max_pending_bytes}: no less than EVENTBUS_MAX_EVENT_BYTES"

    @property
    def by_relay(self) -> bool:
        """Whether the service only writes, and `eventbus relay` publishes."""
        return self.delivery == "relay" or self.ordering == "strict"

    @property
    def source(self) -> str:
        """CloudEvents `source`: the quoted service name as a path."""
        return f"/{naming.quote(self.service)}"

    def __repr__(self) -> str:
        url = redact_url(self.url)
        return f"Settings({url=}, service={self.service!r}, exchange={self.exchange!r}, queue={self.queue!r})"

    @classmethod
    def from_env(cls) -> Settings:
        """Read `EVENTBUS_*`. Raises ConfigurationError that names every wrong variable at once."""
        default = cls()
        with reading_environment("EVENTBUS_") as env:
            values: dict[str, Any] = {
                "url": env.str("URL", default.url),
                "service": env.str("SERVICE", default.service),
                "exchange": env.str("EXCHANGE", default.exchange),
                "queue": env.str("QUEUE", default.queue),
                "max_event_bytes": env.int("MAX_EVENT_BYTES", default.max_event_bytes),
                "max_pending_bytes": env.int("MAX_PENDING_BYTES", default.max_pending_bytes),
                "unroutable": env.str("UNROUTABLE", default.unroutable),
                "ordering": env.str("ORDERING", default.ordering),
                "delivery": env.str("DELIVERY", default.delivery),
                "wire": env.str("WIRE", default.wire),
                "insecure_tls": env.bool("INSECURE_TLS", default.insecure_tls),
                "send_user": env.bool("SEND_USER", default.send_user),
                "hmac_keys": env.str("HMAC_KEYS", default.hmac_keys),
            }
            # What could not be read is None or still text, and told of beside what is wrong with the others.
            return cls(
                **{name: value for name, value in values.items() if isinstance(value, type(getattr(default, name)))}
            )


class reading_environment:  # noqa: N801 - a context manager that reads as a function
    """`with reading_environment(prefix) as env`: typed look-ups; one ConfigurationError at the end for all errors."""

    def __init__(self, prefix: str = "") -> None:
        self._env = FileAwareEnv(eager=False, prefix=prefix, strip_whitespace=True)

    def __enter__(self) -> FileAwareEnv:
        warn_of_unknown(os.environ)
        return self._env

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, ValueError | EnvError | ConfigurationError):
            return
        texts = [*self._unreadable(), *([] if error is None else [_told(error)])]
        if texts:
            raise ConfigurationError("; ".join(texts)) from error

    def _unreadable(self) -> list[str]:
        try:
            self._env.seal()
        except EnvValidationError as wrong:
            by_name: Any = wrong.error_messages
            return [f"{name}: {' '.join(said).removesuffix('.')}" for name, said in by_name.items()]
        return []


def _told(error: BaseException) -> str:
    """What went wrong; of a mounted secret also where it should have been."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return f"{str(error).removesuffix('.')}: {cause.filename}: {cause.strerror}"
    return str(error)
