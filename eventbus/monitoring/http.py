"""`/livez`, `/readyz` and `/metrics` of one process, for Kubernetes and Prometheus."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple, final

from eventbus.errors import ConfigurationError

TEXT: Final = "text/plain; charset=utf-8"
_PATIENCE: Final = 5.0
"""Seconds that a client may take over a part of its request."""
MOST_CLIENTS: Final = 32
"""Connections at a time. Who comes when there are more is served, and the oldest is hung up on: a probe is answered
within milliseconds, and who holds a connection longer only costs threads and descriptors.
"""

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a page says."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


Page = Callable[[], Answer]
"""Makes the answer to one request. Called from any thread, at any moment; it must be quick."""


def verdict(trouble: str | None) -> Answer:
    """A probe's answer: 200 where there is no trouble, else 503 and a sentence that says which."""
    if trouble:
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{trouble}\n".encode())
    return Answer(HTTPStatus.OK, b"ok\n")


@contextmanager
def serving(address: str, pages: Mapping[str, Page]) -> Iterator[int]:
    """Answer `GET` of these paths from threads of their own meanwhile. Gives the port.

    `address` is EVENTBUS_HTTP: `127.0.0.1:9102`, `:9102` for all addresses, `[::1]:9102`; port 0 takes a free one.
    Raises ConfigurationError where it is none, or cannot be listened at.
    """
    host, port = parse_address(address)
    server = _listen(address, host, port, pages)
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="eventbus-http", daemon=True)
    thread.start()
    bound = server.server_address[1]
    logger.info("probes and figures at http://%s:%s%s", host or "*", bound, ", ".join(sorted(pages)))
    try:
        yield bound
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`. Raises ConfigurationError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"EVENTBUS_HTTP={address[:80]}: write host:port, as 127.0.0.1:9102")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _listen(address: str, host: str, port: int, pages: Mapping[str, Page]) -> _Server:
    try:
        return _Server(host, port, pages)
    except OSError as error:
        raise ConfigurationError(f"EVENTBUS_HTTP={address[:80]}: cannot listen there: {error.strerror}") from error


@final
class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        self.pages = pages
        self._clients: OrderedDict[int, socket.socket] = OrderedDict()
        self._guard = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, of which there are not too many."""
        with self._guard:
            self._clients[id(request)] = request
            surplus = [self._clients.popitem(last=False)[1] for _ in range(len(self._clients) - MOST_CLIENTS)]
        for oldest in surplus:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """At the end of its thread."""
        with self._guard:
            self._clients.pop(id(request), None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours; the server's own way is a traceback on standard error."""
        error = sys.exception()
        if isinstance(error, OSError):
            logger.debug("a client of the probes went away")
        else:
            logger.error("a request for a probe could not be answered", exc_info=error)


@final
class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE
    server_version = "eventbus"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the page of this path."""
        answer = self._answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815  the name is what http.server looks for

    def _answer(self) -> Answer:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            known = ", ".join(sorted(self.server.pages))
            return Answer(HTTPStatus.NOT_FOUND, f"there is {known}\n".encode())
        try:
            return page()
        except Exception:
            logger.exception("a page could not be made")
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"this page could not be made; the log says why\n")

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds: nothing is logged of them."""
