"""Does a server answer, and which version is it? Each probe gives up within a few seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import kombu
import psycopg
import pymysql
import redis
from sqlalchemy.engine import URL, make_url

from tests.support.discovery import Unavailable

TIMEOUT = 3  # seconds for one connection attempt


def rabbitmq(url: str) -> str:
    """Version of the broker at this AMQP URL; logs in."""
    connection = kombu.Connection(url, connect_timeout=TIMEOUT, transport_options={"max_retries": 0})
    try:
        connection.connect()
        return str(connection.connection.server_properties["version"])
    except (OSError, *connection.connection_errors) as error:
        raise Unavailable(str(error) or type(error).__name__) from error
    finally:
        connection.release()


def postgres(url: str) -> str:
    """Version of the PostgreSQL server at this SQLAlchemy URL; may create databases there."""
    try:
        with psycopg.connect(libpq_url(url), connect_timeout=TIMEOUT) as connection:
            row = connection.execute(
                "SELECT current_setting('server_version'), rolcreatedb OR rolsuper"
                " FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
    except psycopg.Error as error:
        raise Unavailable(str(error)) from error
    if row is None or not row[1]:
        raise Unavailable("the user may not create databases")
    return str(row[0]).split()[0]


def mariadb(url: str) -> str:
    """Version of the MariaDB server at this SQLAlchemy URL."""
    try:
        with (
            pymysql.connect(**mysql_arguments(make_url(url)), connect_timeout=TIMEOUT) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT version()")
            row = cursor.fetchone()
    except (OSError, pymysql.Error) as error:
        raise Unavailable(str(error)) from error
    return str(row[0] if row else "?").split("-")[0]


def redis_server(url: str) -> str:
    """Version of the Redis server at this URL."""
    client = redis.Redis.from_url(url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT)
    try:
        return str(client.info("server")["redis_version"])
    except redis.RedisError as error:
        raise Unavailable(str(error)) from error
    finally:
        client.close()


def libpq_url(url: str) -> str:
    """A SQLAlchemy PostgreSQL URL as libpq understands it: without the driver."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def mysql_arguments(url: URL) -> dict[str, Any]:
    """PyMySQL's connection arguments for a SQLAlchemy URL; no database is selected when the URL names none."""
    arguments: dict[str, Any] = {
        "host": url.host or "127.0.0.1",
        "port": url.port or 3306,
        "user": url.username or "root",
        "password": str(url.password or ""),
    }
    return arguments | ({"database": url.database} if url.database else {})


PROBES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"rabbitmq": rabbitmq, "postgres": postgres, "mariadb": mariadb, "redis": redis_server}
)
