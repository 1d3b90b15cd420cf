"""The proxy breaks the network in the way its mode says, and in no other."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.nodes.base import wait_until
from tests.support.tcp_proxy import Mode, TcpProxy


class Echo:
    """A server that answers every byte with the same byte, and remembers what it received."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._open: list[socket.socket] = []
        self.received = bytearray()
        self._thread.start()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._listener.getsockname()[1]}/vhost"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=10)
        self._listener.close()

    def _accept(self) -> None:
        workers = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            worker = threading.Thread(target=self._serve, args=(client,), daemon=True)
            worker.start()
            workers.append(worker)
        for worker in workers:
            worker.join(timeout=10)

    def _serve(self, client: socket.socket) -> None:
        with client:
            while True:
                try:
                    data = client.recv(65_536)
                    if not data:
                        return
                    self.received += data
                    client.sendall(data)
                except OSError:
                    return


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo, tcp_proxy: Callable[[str], TcpProxy]) -> TcpProxy:
    return tcp_proxy(echo.url)


@pytest.fixture
def connect(proxy: TcpProxy) -> Iterator[Callable[[], socket.socket]]:
    clients: list[socket.socket] = []

    def connect() -> socket.socket:
        clients.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


Connect = Callable[[], socket.socket]


def exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    answer = b""
    while len(answer) < len(data):
        answer += client.recv(65_536)
    return answer


def silent(client: socket.socket) -> bool:
    """Whether nothing comes for a while."""
    client.settimeout(0.2)
    try:
        return client.recv(1) is None
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)


def test_the_url_differs_in_host_and_port_only(proxy: TcpProxy) -> None:
    assert proxy.url == f"amqp://guest:guest@127.0.0.1:{proxy.port}/vhost"


def test_pass_lets_everything_through_in_order_and_whole(connect: Connect) -> None:
    data = bytes(range(256)) * 8_000  # more than every buffer on the way
    client = connect()
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    answer = b""
    while len(answer) < len(data):
        answer += client.recv(65_536)
    sender.join()
    assert answer == data


def test_pass_lets_the_end_through(connect: Connect) -> None:
    client = connect()
    assert exchange(client, b"a") == b"a"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def test_black_hole_holds_what_is_sent_and_pass_delivers_it(proxy: TcpProxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    assert exchange(client, b"a") == b"a"
    proxy.mode = Mode.BLACK_HOLE
    client.sendall(b"b")
    late = connect()  # the kernel completes the handshake, nobody answers
    late.sendall(b"c")
    assert silent(client)
    assert silent(late)
    assert echo.received == b"a"
    proxy.mode = Mode.PASS
    assert client.recv(1) == b"b"
    assert late.recv(1) == b"c"


def test_silent_accepts_and_swallows(proxy: TcpProxy, echo: Echo, connect: Connect) -> None:
    proxy.mode = Mode.SILENT
    client = connect()
    client.sendall(b"x" * 1_000_000)  # is read, so that the writer is not held up
    assert silent(client)
    assert echo.received == b""


def test_replies_lost_delivers_requests_only(proxy: TcpProxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    assert exchange(client, b"a") == b"a"
    proxy.mode = Mode.REPLIES_LOST
    client.sendall(b"b")
    wait_until(lambda: bytes(echo.received) == b"ab", 5, "the request did not arrive")
    assert silent(client)


@pytest.mark.parametrize("mode", [Mode.SILENT, Mode.REPLIES_LOST])
def test_a_connection_that_lost_bytes_does_not_go_on(proxy: TcpProxy, connect: Connect, mode: Mode) -> None:
    client = connect()
    assert exchange(client, b"a") == b"a"
    proxy.mode = mode
    proxy.mode = Mode.PASS
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert exchange(connect(), b"b") == b"b"


def test_refuse_resets_what_is_open_and_nobody_listens(proxy: TcpProxy, connect: Connect) -> None:
    client = connect()
    assert exchange(client, b"a") == b"a"
    proxy.mode = Mode.REFUSE
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect()
    proxy.mode = Mode.PASS
    assert exchange(connect(), b"b") == b"b"


def test_reset_accepts_and_resets(proxy: TcpProxy, connect: Connect) -> None:
    proxy.mode = Mode.RESET
    with pytest.raises(ConnectionResetError):  # it may come before connect() has returned
        connect().recv(1)


def test_cut_resets_what_is_open_and_lets_new_connections_through(proxy: TcpProxy, connect: Connect) -> None:
    client = connect()
    assert exchange(client, b"a") == b"a"
    assert proxy.open_connections == 1
    proxy.cut()
    assert proxy.open_connections == 0
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert exchange(connect(), b"b") == b"b"


def test_delay_holds_up_each_way(proxy: TcpProxy, connect: Connect) -> None:
    client = connect()
    proxy.delay = 0.1
    before = time.monotonic()
    assert exchange(client, b"a") == b"a"
    assert time.monotonic() - before >= 0.2


def test_a_server_that_is_away_resets_the_client(echo: Echo, tcp_proxy: Callable[[str], TcpProxy]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    proxy = tcp_proxy(f"redis://127.0.0.1:{port}/0")
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client,
    ):
        client.recv(1)
