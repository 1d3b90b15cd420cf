"""Which server a test runs against: the first of an ordered list of ways that gives one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

KINDS = ("rabbitmq", "postgres", "mariadb", "redis")
"""Every service a test may ask for; also the names of the markers."""


class Unavailable(Exception):
    """One way gave no server; the text says why."""


class NotFound(Exception):
    """No way gave a server; the text lists every way with its reason."""

    def __init__(self, kind: str, reasons: Sequence[str]) -> None:
        self.kind = kind
        super().__init__(f"no {kind} server: " + "; ".join(reasons))


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answered. `origin` is the way it was found, in words that fit the summary."""

    kind: str
    url: str
    version: str
    origin: str

    @property
    def address(self) -> str:
        """`host:port`, never a password."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def __str__(self) -> str:
        return f"{self.origin} {self.version} at {self.address}"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to a server: `find` returns its URL or raises Unavailable. A `final` way is not followed by another."""

    origin: str
    find: Callable[[], str]
    final: bool = False


def environment_variable(kind: str) -> str:
    """The variable that names the server of this kind: `EVENTBUS_TEST_RABBITMQ_URL`."""
    return f"EVENTBUS_TEST_{kind.upper()}_URL"


def ways(
    kind: str,
    env: Mapping[str, str],
    *,
    local: str,
    node: Callable[[], str],
    container: Callable[[], str],
) -> list[Way]:
    """The order for every kind: environment, running local server, private node, Docker.

    A URL from the environment is somebody's decision: when it does not answer, nothing else is tried.
    """
    named = env.get(environment_variable(kind))
    if named:
        return [Way(f"server named by {environment_variable(kind)},", lambda: named, final=True)]
    return [
        Way("local server", lambda: local),
        Way("private node", node),
        Way("Docker container", container),
    ]


def discover(kind: str, candidates: Sequence[Way], probe: Callable[[str], str]) -> Server:
    """The first server that answers `probe`, which returns its version. Raises NotFound with every reason."""
    reasons: list[str] = []
    for way in candidates:
        try:
            url = way.find()
            return Server(kind, url, probe(url), way.origin)
        except Unavailable as error:
            reasons.append(f"{way.origin.rstrip(',')}: {_one_line(error)}")
        if way.final:
            break
    raise NotFound(kind, reasons)


def _one_line(error: Exception) -> str:
    """At most 200 characters, without the password of any URL."""
    text = re.sub(r"(://[^/\s:@]*:)[^\s@]*@", r"\1***@", " ".join(str(error).split()))
    return text if len(text) <= 200 else f"{text[:197]}..."
