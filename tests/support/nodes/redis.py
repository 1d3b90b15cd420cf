"""A Redis server of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support import probes
from tests.support.nodes.base import Node, binary


class RedisNode(Node):
    """Keeps nothing on disk, as Debian's default does not keep an append-only file either: a kill empties it."""

    kind = "redis"

    def __init__(self, *arguments: str | Path) -> None:
        """`arguments` go to the server: `--tls-port`, `"6380"`."""
        self._server = binary("redis-server")
        super().__init__()
        self._arguments = arguments

    @property
    def url(self) -> str:
        """Database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        """The server."""
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        return [self._server, *where, "--save", "", "--appendonly", "no", *map(str, self._arguments)]

    def probe(self) -> str:
        """The version."""
        return probes.redis_server(self.url)
