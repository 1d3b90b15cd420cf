"""A MariaDB server with a data directory of its own."""

from __future__ import annotations

from collections.abc import Sequence

import pymysql

from tests.support import probes
from tests.support.nodes.base import Node, binary


class MariaNode(Node):
    """Root has no password."""

    kind = "mariadb"
    user = "mysql"

    def __init__(self) -> None:
        self._install = binary("mariadb-install-db", "mysql_install_db")
        self._server = binary("mariadbd", "mysqld")
        super().__init__()

    @property
    def url(self) -> str:
        """As root, over TCP."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}?charset=utf8mb4"

    def database_url(self, name: str) -> str:
        """The same, in a database."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{name}?charset=utf8mb4"

    def make_database(self, name: str) -> None:
        """Make an empty one."""
        with pymysql.connect(host="127.0.0.1", port=self.port, user="root") as admin, admin.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")

    def prepare(self) -> None:
        """Make the system tables."""
        self.give_directory_away()
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        self.run([self._install, "--no-defaults", f"--datadir={self.directory / 'data'}", *options], timeout=120)

    def command(self) -> Sequence[str]:
        """The server."""
        return [
            self._server,
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--socket={self.directory / 'mariadb.sock'}",
            f"--pid-file={self.directory / 'mariadb.pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
        ]

    def probe(self) -> str:
        """The version."""
        return probes.mariadb(self.url)
