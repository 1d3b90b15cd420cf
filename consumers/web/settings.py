"""What the pages need to know, read from the environment once, by their command only."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self

from consumers.base import ConsumerSettings
from consumers.base.complaints import Complaints
from consumers.history.settings import HistorySettings
from consumers.json_mirror.settings import MirrorSettings
from eventbus.errors import ConfigurationError
from eventbus.settings import reading_environment

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8089
_SHORTEST_TOKEN: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Immutable. Bound to this machine, the pages need no login. Bound to anything else they need one of two things.

    `token`: whoever shows it may look. `proxy_header`: the name of a header in which a proxy in front says who looks,
    and which nobody but the proxy can send. `hosts`: names under which the pages are reached, besides the address.
    `database`: where a service keeps its outbox, whose parked rows are then shown.
    """

    mirror: MirrorSettings = field(default_factory=MirrorSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    hosts: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    proxy_header: str = ""
    allow_writes: bool = False
    database: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        wrong = Complaints()
        if not 0 <= self.port <= 65535:
            wrong.add(f"EVENTBUS_WEB_PORT is {self.port}: use 0 to 65535")
        if self.token and len(self.token) < _SHORTEST_TOKEN:
            wrong.add(f"EVENTBUS_WEB_TOKEN is too short: use at least {_SHORTEST_TOKEN} characters")
        if not self.is_local and not self.token and not self.proxy_header:
            wrong.add(
                f"{self.host} is not this machine alone: set EVENTBUS_WEB_TOKEN (or EVENTBUS_WEB_TOKEN_FILE), or name "
                "the header in which a proxy says who looks (EVENTBUS_WEB_PROXY_HEADER)"
            )
        wrong.tell()

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine can reach the pages."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def data_dir(self) -> Path:
        """The mirror's directory."""
        return self.mirror.data_dir

    @property
    def consumer(self) -> ConsumerSettings:
        """The broker and the mirror's queue."""
        return self.mirror.consumer

    @classmethod
    def from_env(cls, **given: Any) -> Self:
        """Read `EVENTBUS_WEB_*` and what the mirror reads; `given` wins. Raises ConfigurationError."""
        wrong = Complaints()
        values: dict[str, Any] = {}
        with wrong.taken():
            values["mirror"] = MirrorSettings.from_env()
        with wrong.taken():
            values["history"] = HistorySettings.from_env()
        with wrong.taken(), reading_environment() as env:
            values |= {
                "host": env.str("EVENTBUS_WEB_HOST", DEFAULT_HOST),
                "port": env.int("EVENTBUS_WEB_PORT", DEFAULT_PORT),
                "hosts": tuple(env.str("EVENTBUS_WEB_HOSTS", "").replace(",", " ").split()),
                "token": env.str("EVENTBUS_WEB_TOKEN", ""),
                "proxy_header": env.str("EVENTBUS_WEB_PROXY_HEADER", ""),
                "database": env.str("DATABASE_URL", ""),
            }
        wrong.tell()
        return cls(**{**values, **{name: value for name, value in given.items() if value is not None}})


def require_mirror(settings: WebSettings) -> None:
    """Raise ConfigurationError where no mirror has run."""
    if not settings.mirror.state_file.exists():
        raise ConfigurationError(
            f"no mirror has run in {settings.data_dir}: start `eventbus mirror` first, or say DATA_DIR"
        )
