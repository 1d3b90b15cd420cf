"""Servers in Docker, through testcontainers, for machines without the server programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType

import docker
from testcontainers.core.container import DockerContainer

from tests.support.discovery import Unavailable
from tests.support.nodes.base import wait_until

START_TIMEOUT = 120  # seconds, once the image is there


@dataclass(frozen=True, slots=True)
class Image:
    """What to run, and the URL of what runs (`{address}` is host:port)."""

    name: str
    port: int
    url: str
    environment: Mapping[str, str] = field(default_factory=dict)


IMAGES: Mapping[str, Image] = MappingProxyType(
    {
        "rabbitmq": Image("rabbitmq:4", 5672, "amqp://guest:guest@{address}//"),
        "postgres": Image(
            "postgres:17",
            5432,
            "postgresql+psycopg://postgres@{address}/postgres",
            {"POSTGRES_HOST_AUTH_METHOD": "trust"},
        ),
        "mariadb": Image(
            "mariadb:11",
            3306,
            "mysql+pymysql://root@{address}?charset=utf8mb4",
            {"MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": "1"},
        ),
        "redis": Image("redis:7", 6379, "redis://{address}/0"),
    }
)


def start(kind: str, probe: Callable[[str], str], stack: ExitStack) -> str:
    """URL of a new container that answers; `stack` removes it. Raises Unavailable, within seconds without an engine."""
    _require_engine()
    image = IMAGES[kind]
    container = DockerContainer(image.name).with_exposed_ports(image.port)
    for name, value in image.environment.items():
        container = container.with_env(name, value)
    try:
        container.start()
    except Exception as error:  # whatever Docker cannot do ends in a skip that says so
        raise Unavailable(f"Docker could not run {image.name}: {error}") from error
    stack.callback(container.stop)
    address = f"{container.get_container_host_ip()}:{container.get_exposed_port(image.port)}"
    url = image.url.format(address=address)
    try:
        wait_until(lambda: _answers(probe, url), START_TIMEOUT, f"{image.name} did not answer")
    except TimeoutError as error:
        raise Unavailable(str(error)) from error
    return url


def _require_engine() -> None:
    """A Docker client without an engine is common, so ask the engine itself."""
    try:
        client = docker.from_env(timeout=2)
        try:
            client.ping()
        finally:
            client.close()
    except Exception as error:  # docker and requests raise half a dozen kinds here
        raise Unavailable(f"Docker does not answer ({type(error).__name__})") from error


def _answers(probe: Callable[[str], str], url: str) -> bool:
    try:
        probe(url)
    except Unavailable:
        return False
    return True
