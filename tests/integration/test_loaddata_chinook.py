"""A real database, dumped and loaded: the public Chinook sample, on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.automap import AutomapBase, automap_base

from eventbus import dumpdata, loaddata

CHINOOK = Path(__file__).parents[3] / "shared" / "data" / "chinook.sqlite"
ROWS = 15_607


@pytest.fixture(scope="module")
def chinook() -> Iterator[sa.Engine]:
    if not CHINOOK.exists():
        pytest.skip("the Chinook sample database is not beside the project")
    engine = sa.create_engine(f"sqlite:///file:{CHINOOK}?mode=ro&uri=true")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def models(chinook: sa.Engine) -> type[AutomapBase]:
    """Mapped by reflection, with types that every database has."""
    base = automap_base()
    sa.event.listen(base.metadata, "column_reflect", _generic_type)
    base.prepare(chinook)
    return base


def _generic_type(_inspector: object, _table: object, column: dict[str, Any]) -> None:
    column["type"] = column["type"].as_generic()


@pytest.fixture
def empty(database_url: str, models: type[AutomapBase]) -> Iterator[sa.Engine]:
    engine = sa.create_engine(database_url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    try:
        models.metadata.create_all(engine)
        yield engine
    finally:
        engine.dispose()


def _content(engine: sa.Engine, models: type[AutomapBase]) -> dict[str, list[sa.Row[tuple[object, ...]]]]:
    with engine.connect() as connection:
        return {
            table.name: list(connection.execute(sa.select(table).order_by(*table.primary_key)))
            for table in models.metadata.sorted_tables
        }


@pytest.mark.parametrize("name", ["dump.json", "dump.jsonl.gz"])
def test_all_tables_are_equal_after_dump_and_load(
    chinook: sa.Engine, empty: sa.Engine, models: type[AutomapBase], tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    with dumpdata.open_output(str(path)) as stream:
        dumpdata.dumpdata(chinook, stream, models=models, format="jsonl" if "jsonl" in name else "json")

    loaded = loaddata.loaddata(empty, [path], models=models)

    assert (loaded.objects, loaded.files) == (ROWS, 1)
    assert _content(empty, models) == _content(chinook, models)


def test_records_may_come_before_those_they_refer_to(
    chinook: sa.Engine, empty: sa.Engine, models: type[AutomapBase], tmp_path: Path
) -> None:
    path = tmp_path / "dump.jsonl"
    with path.open("wb") as stream:
        dumpdata.dumpdata(chinook, stream, models=models, format="jsonl")
    backwards = tmp_path / "backwards.jsonl"
    backwards.write_bytes(b"\n".join(reversed(path.read_bytes().splitlines())))

    loaddata.loaddata(empty, [backwards], models=models)

    assert _content(empty, models) == _content(chinook, models)


def test_the_next_row_of_the_application_gets_a_free_key(
    chinook: sa.Engine, empty: sa.Engine, models: type[AutomapBase], tmp_path: Path
) -> None:
    path = tmp_path / "dump.json"
    with path.open("wb") as stream:
        dumpdata.dumpdata(chinook, stream, models=models, only=["artist", "genre"])
    loaddata.loaddata(empty, [path], models=models)

    artist = models.metadata.tables["Artist"]
    with empty.begin() as connection:
        result = connection.execute(artist.insert().values(Name="New"))
    assert result.inserted_primary_key == (276,)
