"""A PostgreSQL server with a cluster of its own."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from tests.support import probes
from tests.support.nodes.base import Node, binary


class PostgresNode(Node):
    """`settings` are server settings; prepared transactions are on, which a stock server does not allow."""

    kind = "postgres"
    user = "postgres"
    graceful = signal.SIGINT  # "fast": does not wait for clients
    abrupt = signal.SIGQUIT  # "immediate": no checkpoint, recovery at the next start, and no orphaned backends

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._initdb = binary("initdb")
        self._server = binary("postgres")
        super().__init__()
        self._settings = {"max_prepared_transactions": "20"} | dict(settings or {})

    @property
    def url(self) -> str:
        """As the superuser, over TCP."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        """Make the cluster, as a user who is not root."""
        self.give_directory_away()
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        self.run([self._initdb, "-D", str(self.directory / "data"), *options])

    def command(self) -> Sequence[str]:
        """The postmaster."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
        } | self._settings
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._server, "-D", str(self.directory / "data"), *options]

    def probe(self) -> str:
        """The version."""
        return probes.postgres(self.url)
