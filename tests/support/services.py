"""The servers of one test session: each is looked for at the first test that needs it, and once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType

from tests.support import containers
from tests.support.discovery import KINDS, NotFound, Server, discover, ways
from tests.support.nodes.base import Node
from tests.support.nodes.mariadb import MariaNode
from tests.support.nodes.postgres import PostgresNode
from tests.support.nodes.rabbitmq import RabbitNode
from tests.support.nodes.redis import RedisNode
from tests.support.probes import PROBES

LOCAL: Mapping[str, str] = MappingProxyType(
    {
        "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//",
        "postgres": "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
        "mariadb": "mysql+pymysql://root@127.0.0.1:3306?charset=utf8mb4",
        "redis": "redis://127.0.0.1:6379/0",
    }
)
"""Where a server listens that somebody installed and left as it is."""

_NODES: Mapping[str, Callable[[], Node]] = MappingProxyType(
    {"rabbitmq": RabbitNode, "postgres": PostgresNode, "mariadb": MariaNode, "redis": RedisNode}
)


class Services:
    """Finds servers, remembers what it found and what it did not, and at `close` ends what it started."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = os.environ if env is None else env
        self._stack = ExitStack()
        self._found: dict[str, Server | NotFound] = {}

    def need(self, kind: str) -> Server:
        """The server of this kind. Raises NotFound, at once from the second time on."""
        if kind not in self._found:
            self._found[kind] = self._look_for(kind)
        result = self._found[kind]
        if isinstance(result, NotFound):
            raise result
        return result

    def found(self) -> dict[str, Server | NotFound]:
        """What was looked for so far, in the order of KINDS."""
        return {kind: self._found[kind] for kind in KINDS if kind in self._found}

    def close(self) -> None:
        """End the private nodes and containers."""
        self._stack.close()

    def _look_for(self, kind: str) -> Server | NotFound:
        candidates = ways(
            kind,
            self._env,
            local=LOCAL[kind],
            node=lambda: self._stack.enter_context(_NODES[kind]()).url,
            container=lambda: containers.start(kind, PROBES[kind], self._stack),
        )
        try:
            return discover(kind, candidates, PROBES[kind])
        except NotFound as error:
            return error
