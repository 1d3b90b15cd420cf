"""Three RabbitMQ nodes that are one broker: a quorum queue lives while two of them do."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from tests.support.nodes.base import free_port
from tests.support.nodes.rabbitmq import RabbitNode

SIZE = 3


class _Member(RabbitNode):
    """One of them; all share port mapper and cookie, and look for each other when they start."""

    def __init__(self, cookie: str, epmd_port: int, names: Sequence[str]) -> None:
        nodes = [f"cluster_formation.classic_config.nodes.{number} = {name}" for number, name in enumerate(names, 1)]
        super().__init__(["cluster_formation.peer_discovery_backend = classic_config", *nodes])
        self._cookie = cookie
        self._epmd_port = epmd_port

    def prepare(self) -> None:
        super().prepare()
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)


class RabbitCluster:
    """A context manager; `members[0]` is the one to talk to."""

    def __init__(self) -> None:
        cookie, port = secrets.token_hex(10).upper(), free_port()
        names = [f"eventbus-{secrets.token_hex(4)}@localhost" for _ in range(SIZE)]
        self.members = [_Member(cookie, port, names) for _ in names]
        for member, name in zip(self.members, names, strict=True):
            member.name = name
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        return self.members[0].url

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def lose_majority(self) -> None:
        """Two of three are gone, as a crash does it."""
        for member in self.members[1:]:
            member.kill()

    def regain_majority(self) -> None:
        for member in self.members[1:]:
            member.start()
