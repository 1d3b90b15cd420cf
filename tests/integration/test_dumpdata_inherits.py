"""Tables of PostgreSQL that others inherit from: each is dumped and loaded as its own rows, none of them twice.

So it is where no models are named, with a MetaData that the program reflected itself, and with mapped classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.declarative import DeferredReflection
from sqlalchemy.orm import DeclarativeBase

from eventbus.cli import disposing
from eventbus.comparison.difference import Tally
from eventbus.dumpdata import dumpdata
from eventbus.dumps.reflected import models_or_tables
from eventbus.loaddata import loaddata
from eventbus.snapshot import snapshot
from tests.support.comparing import chain

TABLES = ("city", "capital", "note", "remark")
MADE = (
    "CREATE TABLE city (id int PRIMARY KEY, name text)",
    "CREATE TABLE capital (state text, PRIMARY KEY (id)) INHERITS (city)",
    "CREATE TABLE note (words text)",
    "CREATE TABLE remark () INHERITS (note)",
    "CREATE TABLE day (at date, n int, PRIMARY KEY (at)) PARTITION BY RANGE (at)",
    "CREATE TABLE day_1 PARTITION OF day FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "INSERT INTO city VALUES (1, 'Ulm'), (2, 'Bonn')",
    "INSERT INTO capital VALUES (1, 'Mainz', 'RLP'), (3, 'Kiel', 'SH')",
    "INSERT INTO note VALUES ('a'), ('a')",
    "INSERT INTO remark VALUES ('a'), ('b')",
    "INSERT INTO day VALUES ('2026-02-03', 7)",
)


@pytest.fixture
def engine(postgres_db: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(postgres_db)
    run(made, *MADE)
    yield made
    made.dispose()


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for each in statements:
            connection.exec_driver_sql(each)


def content(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        own = [sorted(map(tuple, connection.exec_driver_sql(f"SELECT * FROM ONLY {name}"))) for name in TABLES]
        return [*own, list(map(tuple, connection.exec_driver_sql("SELECT n FROM day")))]


def dump(engine: sa.Engine, path: Path, *only: str) -> int:
    """How many records there are in it."""
    with reflected(engine) as (models, own), path.open("wb") as stream:
        return dumpdata(own, stream, models=models, only=only).objects


def replace(engine: sa.Engine, path: Path) -> None:
    with reflected(engine) as (models, own):
        loaddata(own, [path], models=models, existing="replace")


@contextmanager
def reflected(engine: sa.Engine) -> Iterator[tuple[list[Any], sa.Engine]]:
    """The tables as the commands have them where no models are named."""
    models, own = models_or_tables(None, engine.url.render_as_string(hide_password=False))
    with disposing(own):
        yield models, own


def of_the_program(engine: sa.Engine, *names: str) -> sa.MetaData:
    """As a program reflects its tables."""
    metadata = sa.MetaData()
    metadata.reflect(engine, only=names or (*TABLES, "day"))
    return metadata


def mapped(engine: sa.Engine) -> type[Any]:
    """A base whose classes a program has made of the two tables with keys."""

    class Base(DeferredReflection, DeclarativeBase):
        pass

    class City(Base):
        __tablename__ = "city"

    class Capital(Base):
        __tablename__ = "capital"

    Base.prepare(engine)
    return Base


@pytest.mark.parametrize("models_of", [of_the_program, mapped])
def test_each_table_has_its_own_rows_in_the_models_of_a_program(
    engine: sa.Engine, tmp_path: Path, models_of: Callable[[sa.Engine], Any]
) -> None:
    before, path, models = content(engine), tmp_path / "dump.json", models_of(engine)
    with path.open("wb") as stream:
        dumped = dumpdata(engine, stream, models=models).models
    assert (dumped["app.city"], dumped["app.capital"]) == (2, 2)
    run(engine, "UPDATE city SET name = 'changed'", "DELETE FROM ONLY city WHERE id = 2", "INSERT INTO city VALUES (9)")
    loaddata(engine, [path], models=models, existing="replace")
    assert content(engine) == before


def test_rows_of_children_that_the_models_do_not_have_are_those_of_the_parent(
    engine: sa.Engine, tmp_path: Path
) -> None:
    with (tmp_path / "dump.json").open("wb") as stream:
        assert dumpdata(engine, stream, models=of_the_program(engine, "note")).objects == 4


def test_a_comparison_and_a_snapshot_take_each_table_as_its_own_rows(engine: sa.Engine, tmp_path: Path) -> None:
    models, url = mapped(engine), engine.url.render_as_string(hide_password=False)
    with chain(url, tmp_path / "data", models=models) as made:
        assert snapshot(made.bus, engine, models=models).objects == 4
        made.deliver()
        assert made.compare() == (Tally(objects=4), [])
        run(engine, "DELETE FROM ONLY city WHERE id = 1")  # the capital with this key is no row of it
        tally, found = made.compare(heal=True)
        assert ([each.kind for each in found], tally.published) == (["extra"], 1)


def test_each_table_has_its_own_rows(engine: sa.Engine, tmp_path: Path) -> None:
    before, path = content(engine), tmp_path / "dump.json"
    assert dump(engine, path) == 9
    run(engine, "TRUNCATE city, note, day")
    replace(engine, path)
    assert content(engine) == before


def test_changes_reach_the_rows_of_that_table_alone(engine: sa.Engine, tmp_path: Path) -> None:
    before, path = content(engine), tmp_path / "dump.json"
    dump(engine, path)
    run(engine, "UPDATE city SET name = 'changed'", "DELETE FROM ONLY city WHERE id = 2", "INSERT INTO city VALUES (9)")
    run(engine, "INSERT INTO note VALUES ('more')", "DELETE FROM remark WHERE words = 'b'")
    replace(engine, path)
    assert content(engine) == before


def test_a_parent_alone_leaves_its_children_as_they_are(engine: sa.Engine, tmp_path: Path) -> None:
    before, path = content(engine), tmp_path / "dump.json"
    assert dump(engine, path, "city", "note") == 4
    run(engine, "UPDATE ONLY city SET name = 'changed'", "DELETE FROM ONLY note")
    replace(engine, path)
    assert content(engine) == before


def test_rows_of_a_child_in_another_schema_are_those_of_its_parent(engine: sa.Engine, tmp_path: Path) -> None:
    run(engine, "CREATE SCHEMA other", "CREATE TABLE other.far () INHERITS (note)")
    run(engine, "INSERT INTO other.far VALUES ('c')")
    assert dump(engine, tmp_path / "dump.json", "note") == 5
