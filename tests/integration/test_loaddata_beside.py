"""A load beside others who write into the same table: what it meets of theirs is an error, and nothing is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from eventbus.errors import LoadError
from eventbus.loaddata import Loaded, loaddata

METADATA = sa.MetaData()
word = sa.Table("word", METADATA, sa.Column("id", sa.String(20), primary_key=True), sa.Column("n", sa.Integer))
RECORDS = [{"model": "crm.word", "pk": f"w{n:02}", "fields": {"n": n}} for n in range(20)]
pytestmark = pytest.mark.parametrize("database_url", ["postgres", "mariadb"], indirect=True)
"""SQLite has one writer."""


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(database_url)
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


class Beside:
    """Inserts a row in a transaction of its own, once the first records are written."""

    def __init__(self, engine: sa.Engine, key: str) -> None:
        self._engine = engine
        self._left = [key]

    def __call__(self, _so_far: Loaded) -> None:
        while self._left:
            with self._engine.begin() as connection:
                connection.execute(word.insert(), {"id": self._left.pop(), "n": 9})


def load(engine: sa.Engine, path: Path, records: list[Any], beside: str) -> Loaded:
    path.write_bytes(orjson.dumps(records))
    return loaddata(engine, [path], models=METADATA, batch_size=10, progress=Beside(engine, beside))


def keys(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(word.c.id).order_by(word.c.id)))


def test_a_key_that_somebody_else_inserts_is_named(engine: sa.Engine, tmp_path: Path) -> None:
    seen = {"postgresql": "is taken by crm.word 'w15'", "mysql": "the row that has it cannot be seen: others write"}
    with pytest.raises(LoadError, match=seen[engine.dialect.name]) as caught:
        load(engine, tmp_path / "dump.json", RECORDS, beside="w15")
    assert (caught.value.record, caught.value.pk) == (16, "w15")
    assert keys(engine) == ["w15"]


def test_a_row_of_somebody_else_is_told_where_it_counts(engine: sa.Engine, tmp_path: Path) -> None:
    """PostgreSQL shows a load what others commit meanwhile, so it cannot tell their rows from those of a trigger."""
    if engine.dialect.name == "postgresql":
        with pytest.raises(LoadError, match=r"has 21 rows .* should be 20: others write into it meanwhile"):
            load(engine, tmp_path / "dump.json", RECORDS, beside="x")
        assert keys(engine) == ["x"]
    else:
        assert load(engine, tmp_path / "dump.json", RECORDS, beside="x").objects == 20
        assert len(keys(engine)) == 21
