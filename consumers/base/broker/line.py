"""Connections as consumers open them."""

from __future__ import annotations

import contextlib
from typing import Any, Final, final

from consumers.base.errors import BROKER_ERRORS, Lost, Unreachable, setting_up
from consumers.base.settings import ConsumerSettings
from eventbus import transports

_CONNECT_TIMEOUT: Final = 5.0
"""Seconds for one address of the broker's name."""


@final
class Line:
    """An open connection. `driver` is py-amqp's connection, or the virtual transport.

    Connecting is tried once. Raises ConfigurationError where trying again is of no use (URL, password, virtual host),
    else Unreachable.
    """

    def __init__(self, settings: ConsumerSettings, *, heartbeat: int = 0) -> None:
        try:
            with setting_up():
                self._kombu = transports.connection(
                    settings.url,
                    insecure_tls=settings.insecure_tls,
                    connect_timeout=_CONNECT_TIMEOUT,
                    heartbeat=heartbeat,
                    transport_options=_amqp_options(settings) if is_amqp(settings.url) else {},
                )
                # Not `connect()`: that tries again by itself.
                self.driver: Any = self._kombu.transport.establish_connection()
                if is_amqp(settings.url):
                    # py-amqp waits for answers without a limit of its own: a network that falls silent would hold us.
                    self.driver.sock.settimeout(settings.patience)
        except Lost as error:
            raise Unreachable(f"{settings.broker}: {error}") from error

    def channel(self) -> Any:
        """A new channel."""
        return self._kombu.transport.create_channel(self.driver)

    def drain(self, timeout: float) -> None:
        """Let one thing happen. Raises TimeoutError where nothing did."""
        self._kombu.transport.drain_events(self.driver, timeout=timeout)

    def close(self) -> None:
        """Hang up politely."""
        self._kombu.transport.close_connection(self.driver)

    def drop(self) -> None:
        """Hang up at once. Never raises."""
        with contextlib.suppress(*BROKER_ERRORS):
            if is_amqp(self._kombu.transport.driver_type):
                self.driver.collect()
            else:
                self.close()


def require_broker(settings: ConsumerSettings) -> None:
    """Raise Unreachable where the embedded broker has no file: connecting would make one, and find nothing in it."""
    if settings.broker_file is not None and not settings.broker_file.exists():
        raise Unreachable(f"{settings.broker}: there is no such file")


def is_amqp(scheme: str) -> bool:
    """Whether a URL is of a broker that speaks AMQP; else it is one of kombu's virtual transports."""
    return scheme.partition(":")[0] in ("amqp", "amqps")


def _amqp_options(settings: ConsumerSettings) -> dict[str, Any]:
    return {
        "write_timeout": settings.patience,
        "client_properties": {"connection_name": f"eventbus consumer of {settings.queue_name}"},
    }
