"""A TCP proxy whose network can be broken on purpose."""

from __future__ import annotations

import contextlib
import enum
import queue
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from tests.support.nodes.base import free_port, wait_until

_CHUNK = 65_536
_MAX_BUFFERED = 4 * _CHUNK  # bytes a direction holds before it stops reading: back pressure as on a real path
_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671, "postgresql": 5432, "mysql": 3306, "redis": 6379}


class Mode(enum.Enum):
    """What the network does. A change has happened when the assignment to `TcpProxy.mode` returns."""

    PASS = "pass"
    """Everything goes through."""
    BLACK_HOLE = "black hole"
    """Nothing moves: connections stay open, writes fill the buffers, then block. PASS delivers what was held up."""
    SILENT = "silent"
    """Connections are accepted, what is sent is swallowed, nothing comes back. Leaving this mode resets them."""
    REPLIES_LOST = "replies lost"
    """What is sent arrives; no answer ever does. Leaving this mode resets the connections."""
    REFUSE = "refuse"
    """Nobody listens; open connections are reset."""
    RESET = "reset"
    """Connections are accepted and reset at once; open ones are reset."""


_CUTS = frozenset({Mode.REFUSE, Mode.RESET})
_SPOILS = frozenset({Mode.SILENT, Mode.REPLIES_LOST})


@dataclass(slots=True)
class _Pipe:
    """One direction of one connection: chunks with the time from which they may go on."""

    source: socket.socket
    target: socket.socket
    upward: bool
    chunks: deque[tuple[float, bytes]] = field(default_factory=deque)
    size: int = 0
    ended: bool = False  # the source has said its last
    closed: bool = False  # and the target was told

    def read(self, delay: float, *, swallow: bool) -> None:
        """Take what has arrived. OSError when the source is broken."""
        data = self.source.recv(_CHUNK)
        if not data:
            self.ended = True
        elif not swallow:
            self.chunks.append((time.monotonic() + delay, data))
            self.size += len(data)

    def write(self) -> None:
        """Pass on what is due. OSError when the target is broken."""
        _, data = self.chunks.popleft()
        try:
            sent = self.target.send(data)
        except BlockingIOError:
            sent = 0
        self.size -= sent
        if sent < len(data):
            self.chunks.appendleft((0.0, data[sent:]))

    def finish(self) -> None:
        """Pass on the end, once everything before it is through."""
        if self.ended and not self.chunks and not self.closed:
            self.closed = True
            self.target.shutdown(socket.SHUT_WR)


class _Link:
    """One client connection and the connection to the server that was made for it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sockets = (client, server)
        self.pipes = (_Pipe(client, server, upward=True), _Pipe(server, client, upward=False))

    @property
    def done(self) -> bool:
        return all(pipe.closed for pipe in self.pipes)

    def close(self) -> None:
        for end in self.sockets:
            end.close()

    def reset(self) -> None:
        for end in self.sockets:
            _reset(end)


class TcpProxy:
    """Stands before the server of `target_url`, on a free port of 127.0.0.1; a context manager.

    `delay` is what each chunk is held up in mode PASS, in seconds and each way. One thread owns all sockets and does
    what the others ask of it, so nothing is half done when a method returns.
    """

    def __init__(self, target_url: str) -> None:
        parts = urlsplit(target_url)
        port = parts.port or _DEFAULT_PORTS[parts.scheme.partition("+")[0]]
        self._target = (parts.hostname or "127.0.0.1", port)
        self.port = free_port()
        credentials, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}"))
        """The target's URL, by way of this proxy."""
        self.delay = 0.0
        self.accepted = 0
        """Connections accepted so far."""
        self._mode = Mode.PASS
        self._links: list[_Link] = []
        self._listener: socket.socket | None = None
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waker, self._wakeful = socket.socketpair()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._order(self._close)
        self._thread.join(timeout=10)
        self._waker.close()
        self._wakeful.close()

    @property
    def mode(self) -> Mode:
        """What the network does now."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._order(lambda: self._change(mode))

    @property
    def open_connections(self) -> int:
        """Connections that are open at this moment."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every open connection once; new ones follow the mode."""
        self._order(self._cut)

    def wait_for_connections(self, count: int = 1, timeout: float = 10) -> None:
        """Return once this many were accepted since the start."""
        wait_until(lambda: self.accepted >= count, timeout, f"{count} connections did not come")

    def _order(self, order: Callable[[], None]) -> None:
        """Have the thread do this, and wait until it is done."""
        done = threading.Event()
        self._orders.put(order)
        self._orders.put(done.set)
        self._waker.send(b"!")
        if not done.wait(timeout=10):
            raise TimeoutError("the proxy's thread does not answer")

    def _run(self) -> None:
        while not self._closing:
            readers, writers, timeout = self._interests()
            readable, writable, _ = select.select(readers, writers, [], timeout)
            if self._listener in readable:
                self._accept()
            for link in list(self._links):
                self._serve(link, readable, writable)
            if self._wakeful in readable:
                self._wakeful.recv(_CHUNK)
            while not self._orders.empty():
                self._orders.get()()

    def _interests(self) -> tuple[list[socket.socket], list[socket.socket], float | None]:
        """What to wait for: sockets to read, sockets to write, and seconds until the next chunk is due."""
        if self._mode is Mode.BLACK_HOLE:
            return [self._wakeful], [], None
        now = time.monotonic()
        pipes = [pipe for link in self._links for pipe in link.pipes]
        readers = [pipe.source for pipe in pipes if not pipe.ended and pipe.size < _MAX_BUFFERED]
        due = [(pipe.chunks[0][0], pipe.target) for pipe in pipes if pipe.chunks]
        writers = [target for when, target in due if when <= now]
        pauses = [when - now for when, _ in due if when > now]
        listening = [self._listener] if self._listener is not None else []
        return [*readers, *listening, self._wakeful], writers, min(pauses, default=None)

    def _serve(self, link: _Link, readable: list[socket.socket], writable: list[socket.socket]) -> None:
        try:
            for pipe in link.pipes:
                if pipe.source in readable:
                    pipe.read(self.delay, swallow=self._swallows(pipe))
                if pipe.target in writable:
                    pipe.write()
                pipe.finish()
        except OSError:
            self._links.remove(link)
            link.reset()
            return
        if link.done:
            self._links.remove(link)
            link.close()

    def _swallows(self, pipe: _Pipe) -> bool:
        return self._mode is Mode.SILENT or (self._mode is Mode.REPLIES_LOST and not pipe.upward)

    def _accept(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        self.accepted += 1
        if self._mode is Mode.RESET:
            _reset(client)
            return
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            _reset(client)
            return
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append(_Link(client, server))

    def _change(self, mode: Mode) -> None:
        if mode in _CUTS or (self._mode in _SPOILS and mode is not self._mode):
            self._cut()
        self._mode = mode
        if mode is Mode.REFUSE:
            self._deafen()
        else:
            self._listen()

    def _close(self) -> None:
        self._closing = True
        self._deafen()
        self._cut()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)

    def _deafen(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _cut(self) -> None:
        while self._links:
            self._links.pop().reset()


def _reset(end: socket.socket) -> None:
    """Close with RST instead of FIN."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
