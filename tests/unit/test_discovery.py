"""The order in which a test's server is looked for."""

from __future__ import annotations

import pytest

from tests.support.discovery import NotFound, Server, Unavailable, discover, environment_variable, ways

URLS = {"local": "amqp://local:5672//", "node": "amqp://node:20001//", "container": "amqp://container:32768//"}
NAMED = "amqp://user:secret@named.example:5671//"


class World:
    """Servers that answer, and a record of what was tried."""

    def __init__(self, *alive: str, installed: bool = True, engine: bool = True) -> None:
        self.alive = alive
        self.installed = installed
        self.engine = engine
        self.tried: list[str] = []

    def probe(self, url: str) -> str:
        self.tried.append(url)
        if url not in self.alive:
            raise Unavailable(f"cannot reach {url}")
        return "3.10.8"

    def node(self) -> str:
        if not self.installed:
            raise Unavailable("rabbitmq-server is not installed")
        return URLS["node"]

    def container(self) -> str:
        if not self.engine:
            raise Unavailable("Docker does not answer")
        return URLS["container"]

    def find(self, **env: str) -> Server:
        candidates = ways("rabbitmq", env, local=URLS["local"], node=self.node, container=self.container)
        return discover("rabbitmq", candidates, self.probe)


def test_a_named_server_comes_before_all_others() -> None:
    world = World(NAMED, *URLS.values())
    found = world.find(EVENTBUS_TEST_RABBITMQ_URL=NAMED)
    assert found.url == NAMED
    assert world.tried == [NAMED]


def test_nothing_replaces_a_named_server_that_does_not_answer() -> None:
    world = World(*URLS.values())
    with pytest.raises(NotFound, match="EVENTBUS_TEST_RABBITMQ_URL"):
        world.find(EVENTBUS_TEST_RABBITMQ_URL=NAMED)
    assert world.tried == [NAMED]


@pytest.mark.parametrize(
    ("alive", "origin", "tried"),
    [
        (("local", "node", "container"), "local server", ["local"]),
        (("node", "container"), "private node", ["local", "node"]),
        (("container",), "Docker container", ["local", "node", "container"]),
    ],
)
def test_a_running_server_then_a_private_node_then_docker(alive: list[str], origin: str, tried: list[str]) -> None:
    world = World(*(URLS[name] for name in alive))
    assert world.find().origin == origin
    assert world.tried == [URLS[name] for name in tried]


def test_when_nothing_is_there_every_reason_is_given() -> None:
    with pytest.raises(NotFound) as caught:
        World(installed=False, engine=False).find()
    text = str(caught.value)
    assert text.startswith("no rabbitmq server: local server: cannot reach amqp://local:5672//; private node:")
    assert "rabbitmq-server is not installed" in text
    assert text.endswith("Docker container: Docker does not answer")


def test_no_password_shows_in_summary_or_reasons() -> None:
    server = World(NAMED).find(EVENTBUS_TEST_RABBITMQ_URL=NAMED)
    assert str(server) == "server named by EVENTBUS_TEST_RABBITMQ_URL, 3.10.8 at named.example:5671"
    with pytest.raises(NotFound) as caught:
        World().find(EVENTBUS_TEST_RABBITMQ_URL=NAMED)
    assert "secret" not in str(caught.value)


def test_each_kind_has_its_variable() -> None:
    assert environment_variable("postgres") == "EVENTBUS_TEST_POSTGRES_URL"
