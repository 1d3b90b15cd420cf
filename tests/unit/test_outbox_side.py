"""Connections of our own: whatever a driver shows of its socket, a commit does not fail because of that."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from eventbus.outbox.side import _notice_silence


class Sockless:
    """As the raw connection of a driver that keeps its socket to itself."""


def as_pg8000(sock: socket.socket) -> Any:
    """Its `_sock` is a pair of buffered files, which has a `fileno` that raises."""
    files = io.BufferedRWPair(sock.makefile("rb", 0), sock.makefile("wb", 0))  # type: ignore[arg-type]
    return SimpleNamespace(_usock=sock, _sock=files)


KINDS: dict[str, tuple[Callable[[socket.socket], Any], bool]] = {
    "psycopg": (lambda sock: sock, True),
    "pymysql": (lambda sock: SimpleNamespace(_sock=sock), True),
    "pg8000": (as_pg8000, True),
    "files": (lambda sock: SimpleNamespace(_sock=as_pg8000(sock)._sock), False),
    "nothing": (lambda _: Sockless(), False),
    "closed": (lambda _: SimpleNamespace(_sock=None), False),
}


@pytest.fixture
def connected() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with client, accepted:
            yield client


@pytest.mark.parametrize("kind", KINDS)
def test_silence_is_noticed_where_the_driver_shows_its_socket(kind: str, connected: socket.socket) -> None:
    make, seen = KINDS[kind]
    record = SimpleNamespace(driver_connection=make(connected))
    _notice_silence(record, None)
    assert bool(connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is seen
