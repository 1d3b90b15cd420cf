"""Private nodes keep their address and their data through stop, kill and restart, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import kombu
import psycopg
import pymysql
import pytest
import redis
from sqlalchemy.engine import make_url

from tests.conftest import StartPostgresNode, StartRabbitNode
from tests.support.discovery import Unavailable
from tests.support.nodes.base import wait_until
from tests.support.nodes.mariadb import MariaNode
from tests.support.nodes.redis import RedisNode
from tests.support.probes import libpq_url, mysql_arguments


@pytest.mark.slow
def test_rabbitmq_survives_a_kill_with_its_messages(private_rabbitmq: StartRabbitNode, unique: str) -> None:
    node = private_rabbitmq(config=["heartbeat = 17"])
    url = node.url
    with kombu.Connection(url) as connection:
        durable_queue(connection, unique).declare()
    node.restart()  # see RabbitNode: a queue made just before a kill may not come back
    with kombu.Connection(url) as connection:
        with connection.Producer() as producer:
            producer.publish("hello", routing_key=unique)
        wait_until(lambda: messages(connection, unique) == 1, 20, "no message")
    assert "17" in node.rabbitmqctl("eval", "application:get_env(rabbit, heartbeat).")
    node.kill()
    with pytest.raises(Unavailable):
        node.probe()
    node.start()
    assert node.url == url
    with kombu.Connection(url) as connection:
        wait_until(lambda: messages(connection, unique) == 1, 20, "the message is lost")


def durable_queue(connection: kombu.Connection, name: str) -> kombu.Queue:
    return kombu.Queue(name, channel=connection.default_channel, queue_arguments={"x-queue-type": "quorum"})


def messages(connection: kombu.Connection, name: str) -> int:
    return int(durable_queue(connection, name).queue_declare(passive=True).message_count)


def test_postgres_survives_a_kill_and_allows_prepared_transactions(private_postgres: StartPostgresNode) -> None:
    node = private_postgres(settings={"max_connections": "12"})
    with psycopg.connect(libpq_url(node.url), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (x int)")
        assert connection.execute("SHOW max_connections").fetchone() == ("12",)
        assert connection.execute("SHOW max_prepared_transactions").fetchone() == ("20",)
        node.kill()
    node.start()
    with psycopg.connect(libpq_url(node.url)) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_mariadb_keeps_its_address_when_restarted(private_mariadb: Callable[[], MariaNode]) -> None:
    node = private_mariadb()
    url = node.url
    node.restart()
    with pymysql.connect(**mysql_arguments(make_url(url))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_redis_is_empty_after_a_kill(private_redis: Callable[[], RedisNode], unique: str) -> None:
    node = private_redis()
    client = redis.Redis.from_url(node.url)
    client.set(unique, "x")
    node.kill()
    node.start()
    assert client.get(unique) is None
    client.close()


def test_a_paused_node_is_there_and_does_not_answer(private_redis: Callable[[], RedisNode]) -> None:
    node = private_redis()
    client = redis.Redis.from_url(node.url, socket_timeout=0.3)
    client.ping()
    node.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    node.resume()
    client.ping()
    client.close()


def test_a_destroyed_node_leaves_nothing(private_redis: Callable[[], RedisNode]) -> None:
    node = private_redis()
    node.destroy()
    assert not node.running
    assert not node.directory.exists()
