"""The server of the pages: uvicorn, which ends on SIGTERM and Ctrl-C as every command of eventbus does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket
from typing import Final, final

import click
import uvicorn

from consumers.web.app import make_app
from consumers.web.settings import WebSettings
from eventbus.errors import ConfigurationError

_PATIENCE: Final = 2
"""Seconds that viewers of live changes have when the server ends."""
_LONGEST_HEAD: Final = 16_384


def serve(settings: WebSettings) -> None:
    """Serve until told to stop. Raises ConfigurationError where nothing can listen there."""
    server = _Server(
        uvicorn.Config(
            make_app(settings),
            host=settings.host,
            port=settings.port,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=_LONGEST_HEAD,
            timeout_graceful_shutdown=_PATIENCE,
        )
    )
    try:
        server.run()
    except SystemExit as error:
        where = f"{settings.host}:{settings.port}"
        raise ConfigurationError(f"cannot listen at {where}: is it in use, or no address of this machine?") from error


@final
class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End in order, with exit code 0; uvicorn itself would raise the signal once more at its end."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Say where the pages are: port 0 is any that is free."""
        await super().startup(sockets)
        for server in self.servers:
            host, port, *_ = server.sockets[0].getsockname()
            name = f"[{host}]" if ":" in host else host
            click.echo(f"look at it: http://{name}:{port}", err=True)
