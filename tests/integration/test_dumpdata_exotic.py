"""What PostgreSQL and MariaDB have and no model says: each table comes back row by row, without models, or is refused.

Partitions, generated columns, GENERATED ALWAYS AS IDENTITY, domains, composite types, arrays of enums, types of
extensions, types that SQLAlchemy does not know, odd names; on MariaDB also the key 0, odd members, invisible columns,
zero dates, other character sets, versioned tables.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from eventbus.cli import disposing
from eventbus.dumpdata import dumpdata
from eventbus.dumps.reflected import models_or_tables
from eventbus.errors import SerializationError
from eventbus.loaddata import loaddata

POSTGRES = r"""
CREATE TYPE mood AS ENUM ('sad', 'it''s, "fine"', 'NULL', '');
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN email AS text CHECK (VALUE LIKE '_%@%');
CREATE TYPE addr AS (street text, no int, born date);
CREATE TYPE floatrange AS RANGE (subtype = float8);
CREATE TABLE gen (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2)
  STORED);
INSERT INTO gen (a) VALUES (1), (2), (NULL);
CREATE TABLE dom (id posint PRIMARY KEY, e email);
INSERT INTO dom VALUES (1, 'A@x'), (2, NULL);
CREATE TABLE comp (id int PRIMARY KEY, a addr, aa addr[]);
INSERT INTO comp VALUES (1, ROW('it''s, "x"', 3, '2020-01-01'), ARRAY[ROW('a', 1, NULL)::addr]), (2, NULL,
  NULL), (3, ROW(NULL, NULL, NULL), '{}');
CREATE TABLE moods (id int PRIMARY KEY, m mood, mm mood[]);
INSERT INTO moods VALUES (1, 'sad', '{sad}'), (2, '', ARRAY['it''s, "fine"', 'NULL', '', NULL]::mood[]);
CREATE TABLE xm (id int PRIMARY KEY, x xml);
INSERT INTO xm VALUES (1, '<a b="c">d &amp; e</a>'), (2, 'just text'), (3, NULL);
CREATE TABLE odd (id int PRIMARY KEY, tt tsquery, m macaddr8, ci cidr, pl pg_lsn, bx box, ln line, po polygon,
  jp jsonpath, nm name, ch "char", fr floatrange);
INSERT INTO odd VALUES (1, 'a & b', '08:00:2b:01:02:03:04:05', '192.168.0.0/16', '16/B374D848', '((1,2),(3,4))',
  '{1,2,3}', '((1,2),(3,4),(5,6))', '$.a[*]', 'nm', 'x', '[1.5,2.5)');
CREATE TABLE part (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY HASH (id);
CREATE TABLE part_1_0 PARTITION OF part_1 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE part_d PARTITION OF part DEFAULT;
INSERT INTO part VALUES (1, '2020-05-05', 'a'), (2, '2030-01-01', 'b');
CREATE TABLE "Wei rd" ("Id" int PRIMARY KEY, "select" text, "a""b" text, "%s" int, ":x" int, "pk" int, "model"
  text);
INSERT INTO "Wei rd" VALUES (1, 's', 'q', 5, 6, 7, 'm');
CREATE TABLE fine (g timestamp(0) PRIMARY KEY, h time(1), i interval(2), m float4);
INSERT INTO fine VALUES ('2020-01-01 10:00:01', '10:00:00.1', '1.25 s', 1e-45);
"""
EXTENSIONS = {
    "citext": "'Abc', '{A,b}'",
    "hstore": "'a=>1, b=>NULL, \"c d\"=>\"x\"', '{}'",
    "ltree": "'Top.Science', '{A.B,C}'",
}
MARIADB = (
    "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'",
    "CREATE TABLE gen (id int AUTO_INCREMENT PRIMARY KEY, a int, b int AS (a * 2) VIRTUAL, c int AS (a) PERSISTENT)",
    "INSERT INTO gen (id, a) VALUES (0, 1), (1, NULL), (-5, 3)",
    "CREATE TABLE enu (id int PRIMARY KEY, e ENUM('a', 'it''s', '', ',x'), s SET('p', 'q r', 'it''s'))",
    "INSERT INTO enu VALUES (1, 'a', 'p,q r'), (2, 'it''s', ''), (3, '', NULL), (4, ',x', 'it''s')",
    "CREATE TABLE inv (id int PRIMARY KEY, a int, h int INVISIBLE DEFAULT 4)",
    "INSERT INTO inv (id, a, h) VALUES (1, 2, 3)",
    "CREATE TABLE sv (id int PRIMARY KEY, v int) WITH SYSTEM VERSIONING",
    "INSERT INTO sv VALUES (1, 1)",
    "CREATE TABLE zf (id int(5) UNSIGNED ZEROFILL PRIMARY KEY, f float(7,3), d double(10,2), dc decimal(5,0))",
    "INSERT INTO zf VALUES (42, 1.5, 2.25, 7)",
    "CREATE TABLE l1 (id int PRIMARY KEY, t varchar(20) CHARACTER SET latin1, b varchar(10) CHARACTER SET binary)",
    "INSERT INTO l1 VALUES (1, 'é€', 'bin')",
    "CREATE TABLE geo (id int PRIMARY KEY, g geometry, m multipoint)",
    "INSERT INTO geo VALUES (1, ST_GeomFromText('POINT(1 2)', 4326), ST_GeomFromText('MULTIPOINT(1 1,2 2)'))",
    "CREATE TABLE par (id int, y int, PRIMARY KEY (id, y)) PARTITION BY HASH (y) PARTITIONS 3",
    "INSERT INTO par VALUES (1, 1999), (1, 2020)",
    "CREATE TABLE onup (id int PRIMARY KEY, ts timestamp DEFAULT now() ON UPDATE now(), ts6 timestamp(6) NULL)",
    "INSERT INTO onup VALUES (1, '2001-01-01 00:00:00', '2001-01-01 00:00:00.123456')",
    "CREATE TABLE bp (k varbinary(20) PRIMARY KEY, v blob, b binary(4), tx tinytext, bi bit(10) DEFAULT b'101')",
    "INSERT INTO bp VALUES (x'00ff', x'', x'01000000', 'x ', b'1111111111'), (x'00', NULL, NULL, NULL, NULL)",
    "CREATE TABLE big (id bigint unsigned PRIMARY KEY, n decimal(65,0))",
    f"INSERT INTO big VALUES (18446744073709551615, {'9' * 65})",
)
BROKEN = (
    "SET SESSION sql_mode = ''",
    "CREATE TABLE enu (id int PRIMARY KEY, v ENUM('a', 'b'))",
    "INSERT INTO enu VALUES (1, 'neither')",
    "CREATE TABLE day (id int PRIMARY KEY, v date)",
    "INSERT INTO day VALUES (1, '2020-00-10')",
    "CREATE TABLE zero (id int PRIMARY KEY, v datetime)",
    "INSERT INTO zero VALUES (1, '0000-00-00 00:00:00')",
)
Content = Callable[[sa.Connection, sa.Table], list[Any]]


@contextmanager
def made(url: str, statements: Iterable[str]) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url)
    with disposing(engine):
        with engine.begin() as connection:
            for each in statements:
                connection.exec_driver_sql(each.replace("%", "%%"))
        yield engine


@contextmanager
def reflected(url: str) -> Iterator[tuple[sa.MetaData, sa.Engine]]:
    (metadata,), engine = models_or_tables(None, url)
    with disposing(engine):
        yield metadata, engine


def as_rows(connection: sa.Connection, table: sa.Table) -> list[Any]:
    """PostgreSQL's own text of each row."""
    name = connection.dialect.identifier_preparer.format_table(table)
    return sorted(connection.exec_driver_sql(f"SELECT found::text FROM {name} found").scalars())


def as_bytes(connection: sa.Connection, table: sa.Table) -> list[Any]:
    """MariaDB's bytes of each value."""
    columns = ", ".join(f"HEX(`{column.name}`)" for column in table.columns)
    return sorted(map(str, connection.exec_driver_sql(f"SELECT {columns} FROM `{table.name}`")))


def comes_back(url: str, content: Content, path: Path) -> None:
    """All of it is dumped, deleted, loaded, and as it was; tables one by one, so that each shows what it lacks."""
    with reflected(url) as (metadata, engine):
        for table in metadata.sorted_tables:
            with engine.connect() as connection:
                before = content(connection, table)
            stream = io.BytesIO()
            assert not dumpdata(engine, stream, models=metadata, only=[table.name]).incomplete
            path.write_bytes(stream.getvalue())
            with engine.begin() as connection:
                connection.execute(sa.delete(table))
            assert loaddata(engine, [path], models=metadata).objects == len(before) > 0
            with engine.connect() as connection:
                assert content(connection, table) == before, table.name


def test_what_postgresql_has_comes_back(postgres_db: str, tmp_path: Path) -> None:
    with made(postgres_db, filter(None, POSTGRES.strip().split(";\n"))):
        comes_back(postgres_db, as_rows, tmp_path / "dump.json")


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_types_of_extensions_come_back(postgres_db: str, tmp_path: Path, extension: str) -> None:
    engine = sa.create_engine(postgres_db)
    with disposing(engine), engine.connect() as connection:
        there = connection.scalar(
            sa.text("SELECT count(*) FROM pg_available_extensions WHERE name = :n"), {"n": extension}
        )
    if not there:
        pytest.skip(f"this server has no {extension}")
    values = EXTENSIONS[extension]
    statements = (
        f"CREATE EXTENSION {extension}",
        f"CREATE TABLE ext (id int PRIMARY KEY, v {extension}, vv {extension}[])",
        f"INSERT INTO ext VALUES (1, {values}), (2, NULL, NULL)",
    )
    with made(postgres_db, statements):
        comes_back(postgres_db, as_rows, tmp_path / "dump.json")


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_what_mariadb_has_comes_back(database_url: str, tmp_path: Path) -> None:
    with made(database_url, MARIADB):
        comes_back(database_url, as_bytes, tmp_path / "dump.json")


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_what_mariadb_kept_without_checking_is_refused_by_name(database_url: str) -> None:
    with made(database_url, BROKEN), reflected(database_url) as (metadata, engine):
        for table in metadata.sorted_tables:
            with pytest.raises(SerializationError, match=f"{table.name}/1: field 'v'"):
                dumpdata(engine, io.BytesIO(), models=metadata, only=[table.name])
