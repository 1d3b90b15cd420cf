"""Tables that somebody else made, without models: each row comes back as it was, or is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from eventbus.dumpdata import Dumped, dumpdata
from eventbus.errors import SerializationError
from eventbus.loaddata import loaddata

Engines = Callable[[str], sa.Engine]


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(database_url)
    yield made
    made.dispose()


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for each in statements:
            connection.exec_driver_sql(each)


def rows(engine: sa.Engine, statement: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return sorted((tuple(row) for row in connection.execute(sa.text(statement))), key=repr)


def tables(engine: sa.Engine) -> sa.MetaData:
    found = sa.MetaData()
    found.reflect(engine)
    return found


def dump(engine: sa.Engine, path: Path, **options: Any) -> Dumped:
    stream = io.BytesIO()
    dumped = dumpdata(engine, stream, models=tables(engine), **options)
    path.write_bytes(stream.getvalue())
    return dumped


def only(engine: sa.Engine, dialect: str) -> None:
    if engine.dialect.name != dialect:
        pytest.skip(f"of {dialect} alone")


def test_names_with_the_marks_of_drivers(engine: sa.Engine, tmp_path: Path) -> None:
    table = sa.Table(
        "odd %s: 100%",
        sa.MetaData(),
        sa.Column("id %s", sa.Integer, primary_key=True),
        sa.Column("a:b", sa.String(20)),
        sa.Column("{p}", sa.Integer),
    )
    table.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(table.insert().values([(1, "x", 2), (2, None, None)]))
    dump(engine, tmp_path / "dump.json")
    for existing in ("update", "replace"):
        with engine.begin() as connection:
            connection.execute(table.delete().where(table.c["{p}"] == 2))
        loaddata(engine, [tmp_path / "dump.json"], models=tables(engine), existing=existing)  # type: ignore[arg-type]
        with engine.connect() as connection:
            assert connection.execute(sa.select(table).order_by(table.columns[0])).all() == [
                (1, "x", 2),
                (2, None, None),
            ]
    if engine.dialect.name != "mysql":
        return
    table.metadata.drop_all(engine)


def test_a_text_that_is_not_utf8_is_named(engine: sa.Engine, tmp_path: Path) -> None:
    only(engine, "sqlite")
    run(engine, "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)", "INSERT INTO t VALUES (1, 'ok')")
    run(engine, "INSERT INTO t VALUES (2, CAST(x'ff41' AS TEXT))")
    with pytest.raises(
        SerializationError, match="t/2: field 'a' holds what cannot be dumped: a text that is not UTF-8"
    ):
        dump(engine, tmp_path / "dump.json")
    dumped = dump(engine, tmp_path / "dump.json", skip_broken=True)
    assert (dumped.objects, len(dumped.broken)) == (1, 1)


def test_columns_of_types_that_sqlite_does_not_know(engine: sa.Engine, tmp_path: Path) -> None:
    only(engine, "sqlite")
    values = ["'text'", "'1.50'", "7", "1.5", "1e20", "NULL"]
    seen = "SELECT typeof(a), quote(a), typeof(b), quote(b) FROM t"
    run(engine, "CREATE TABLE t (id INTEGER PRIMARY KEY, a UUID, b MACADDR)")
    run(engine, *(f"INSERT INTO t (a, b) VALUES ({each}, {each})" for each in values))
    before = rows(engine, seen)
    dump(engine, tmp_path / "dump.json")
    run(engine, "DELETE FROM t")
    loaddata(engine, [tmp_path / "dump.json"], models=tables(engine))
    assert rows(engine, seen) == before


def test_an_object_that_has_a_name_twice_is_named(engine: sa.Engine, tmp_path: Path) -> None:
    only(engine, "postgresql")
    run(engine, "CREATE TABLE t (id int PRIMARY KEY, j json)", """INSERT INTO t VALUES (1, '{"a": 1, "a": 2}')""")
    with pytest.raises(SerializationError, match=r"t/1: field 'j' holds .* two values of the name 'a'"):
        dump(engine, tmp_path / "dump.json")


def test_a_null_of_json_in_an_array_is_named(engine: sa.Engine, tmp_path: Path) -> None:
    only(engine, "postgresql")
    run(engine, "CREATE TABLE t (id int PRIMARY KEY, j jsonb[])")
    run(engine, """INSERT INTO t VALUES (1, ARRAY[NULL, '{"a": null}']::jsonb[])""")
    dump(engine, tmp_path / "dump.json")
    loaddata(engine, [tmp_path / "dump.json"], models=tables(engine))
    assert rows(engine, "SELECT CAST(j AS text) FROM t") == [("""{NULL,"{\\"a\\": null}"}""",)]
    run(engine, """INSERT INTO t VALUES (2, '{"null"}')""")
    with pytest.raises(SerializationError, match=r"t/2: field 'j' holds .* JSON's null"):
        dump(engine, tmp_path / "dump.json")
