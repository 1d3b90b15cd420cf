"""Databases that live as long as a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pymysql
from sqlalchemy.engine import make_url

from tests.support.probes import libpq_url, mysql_arguments


@contextmanager
def fresh_database(kind: str, server_url: Callable[[], str], name: str, directory: Path) -> Iterator[str]:
    """An empty database of this name: "postgres" or "mariadb", on the server at that URL, or "sqlite", in a file."""
    if kind == "sqlite":
        yield f"sqlite:///{directory / 'database.sqlite3'}"
    else:
        fresh = {"postgres": fresh_postgres, "mariadb": fresh_mariadb}[kind]
        with fresh(server_url(), name) as url:
            yield url


@contextmanager
def fresh_postgres(server_url: str, name: str) -> Iterator[str]:
    """An empty database of this name; dropped at the end, with whoever is still connected thrown out."""
    with psycopg.connect(libpq_url(server_url), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    try:
        yield _database(server_url, name)
    finally:
        with psycopg.connect(libpq_url(server_url), autocommit=True) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def fresh_mariadb(server_url: str, name: str) -> Iterator[str]:
    """An empty utf8mb4 database of this name; dropped at the end, its connections killed first."""
    _mariadb(server_url, f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
    try:
        yield _database(server_url, name)
    finally:
        _kill_connections(server_url, name)
        _mariadb(server_url, f"DROP DATABASE IF EXISTS `{name}`")


def _database(server_url: str, name: str) -> str:
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def _mariadb(server_url: str, statement: str) -> None:
    with pymysql.connect(**mysql_arguments(make_url(server_url)), autocommit=True) as admin, admin.cursor() as cursor:
        cursor.execute(statement)


def _kill_connections(server_url: str, name: str) -> None:
    """A forgotten transaction holds a metadata lock that DROP DATABASE would wait for."""
    with pymysql.connect(**mysql_arguments(make_url(server_url)), autocommit=True) as admin, admin.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (name,))
        for (connection_id,) in cursor.fetchall():
            with suppress(pymysql.err.OperationalError):  # it may be gone already
                cursor.execute(f"KILL {int(connection_id)}")
