"""What an event says of a value is what the database gives back, and a dump brings every value back as it was."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eventbus.dumpdata import dumpdata
from eventbus.loaddata import loaddata
from eventbus.records.entities import Entities
from eventbus.records.serializing.serializer import Serializer
from tests.support import column_values


class Store:
    """A table with a column of each kind in one database, and its twin to load into."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        self.metadata, self.twin = sa.MetaData(), sa.MetaData()
        self.table = column_values.table_for(self.dialect, self.metadata)
        entity = Entities("zoo").for_table(self.table)
        assert entity is not None
        self.serializer: Serializer = entity.serializer(engine.dialect)
        self.keys = entity.keys

    def exchange(self, rows: list[dict[str, Any]]) -> list[Any]:
        """Write rows one by one, as assigned, and read them back."""
        with self.engine.begin() as connection:
            connection.execute(self.table.delete())
            for row in rows:
                connection.execute(self.table.insert(), row)
            return list(connection.execute(sa.select(self.table).order_by(self.table.c.id)))

    def json(self, values: Any) -> dict[str, Any]:
        return orjson.loads(orjson.dumps(self.serializer.after(values)))  # type: ignore[no-any-return]


@pytest.fixture
def store(database_url: str) -> Any:
    engine = sa.create_engine(database_url)
    made = Store(engine)
    made.metadata.create_all(engine)
    yield made
    engine.dispose()


def _rows(dialect: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(column_values.rows(dialect), min_size=1, max_size=8).map(
        lambda rows: [{"id": number, **row} for number, row in enumerate(rows, 1)]
    )


def test_an_event_says_what_the_database_gives_back(store: Store) -> None:
    @settings(
        max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate]
    )
    @given(_rows(store.dialect))
    def check(rows: list[dict[str, Any]]) -> None:
        for assigned, stored in zip(rows, store.exchange(rows), strict=True):
            before = store.json([assigned[key] for key in store.keys])
            after = store.json(stored)
            wrong = {key: (assigned[key], before[key], after[key]) for key in before if before[key] != after[key]}
            assert not wrong, "in memory, in the event, in the event after reading it back"

    check()


def test_a_dump_brings_every_value_back(store: Store, tmp_path: Path) -> None:
    @settings(
        max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate]
    )
    @given(_rows(store.dialect))
    def check(rows: list[dict[str, Any]]) -> None:
        stored = store.exchange(rows)
        written = io.BytesIO()
        dumpdata(store.engine, written, models=store.metadata)
        dump = tmp_path / "dump.json"
        dump.write_bytes(written.getvalue())
        with store.engine.begin() as connection:
            connection.execute(store.table.delete())
        loaddata(store.engine, [dump], models=store.metadata)
        with store.engine.connect() as connection:
            loaded = list(connection.execute(sa.select(store.table).order_by(store.table.c.id)))
        for old, new in zip(stored, loaded, strict=True):
            assert not {key: (a, b) for key, a, b in zip(store.keys, old, new, strict=True) if a != b}

    check()
