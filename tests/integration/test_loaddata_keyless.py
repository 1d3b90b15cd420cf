"""Tables without a key, on every database: their rows are dumped and loaded as they are, as often as they stand."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import eventbus
from eventbus.dumpdata import dumpdata
from eventbus.dumps.outcome import Loaded
from eventbus.errors import LoadError
from eventbus.loaddata import loaddata
from eventbus.publishers import MemoryPublisher

TEXT = sa.String(40)
METADATA = sa.MetaData()
person = sa.Table("person", METADATA, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", TEXT))
visit = sa.Table(
    "visit",
    METADATA,
    sa.Column("person_id", sa.ForeignKey("person.id")),
    sa.Column("page", TEXT),
    sa.Column("seconds", sa.Numeric(8, 2)),
    sa.Column("data", sa.JSON(none_as_null=True)),
)
"""One reference does not tell its rows apart."""
friendship = sa.Table("friendship", METADATA, *(sa.Column(f"{n}_id", sa.ForeignKey("person.id")) for n in "ab"))
"""Links are known by what they link."""

PEOPLE = [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]
VISITS: list[dict[str, Any]] = [
    {"person_id": 2, "page": "b", "seconds": "1.50", "data": {"k": [1]}},
    {"person_id": 1, "page": "b", "seconds": "1.50", "data": None},
    {"person_id": 1, "page": "B", "seconds": "10.00", "data": None},
    {"person_id": 1, "page": "b", "seconds": "1.50", "data": None},
    {"person_id": None, "page": None, "seconds": None, "data": None},
]


class Database:
    """`db.load(…)`, `db.visits()`."""

    def __init__(self, engine: sa.Engine, path: Path) -> None:
        self.engine = engine
        self._path = path
        METADATA.create_all(engine)

    def load(self, records: Sequence[Any], **options: Any) -> Loaded:
        self._path.write_bytes(orjson.dumps(records))
        return loaddata(self.engine, [self._path], models=METADATA, **options)

    def dump(self, *only: str) -> list[Any]:
        stream = io.BytesIO()
        dumpdata(self.engine, stream, models=METADATA, service="crm", only=only)
        found: list[Any] = orjson.loads(stream.getvalue())
        return found

    def visits(self) -> Counter[str]:
        return Counter(str(sorted(each["fields"].items())) for each in self.dump("visit"))


@pytest.fixture
def db(database_url: str, tmp_path: Path) -> Iterator[Database]:
    engine = sa.create_engine(database_url)
    try:
        made = Database(engine, tmp_path / "dump.json")
        made.load([*as_records("person", PEOPLE, "id"), *as_records("visit", VISITS)])
        yield made
    finally:
        engine.dispose()


def as_records(model: str, rows: Sequence[dict[str, Any]], key: str | None = None) -> list[dict[str, Any]]:
    return [{"model": f"crm.{model}", "pk": None if key is None else row[key], "fields": row} for row in rows]


def refused(db: Database, records: Sequence[Any], match: str, **options: Any) -> None:
    before = db.dump()
    with pytest.raises(LoadError, match=match):
        db.load(records, **options)
    assert db.dump() == before


def test_each_row_is_a_record_without_a_pk_in_an_order_of_its_own(db: Database) -> None:
    """NULL last, numbers by value, texts by bytes."""
    found = db.dump("visit")
    assert [each["pk"] for each in found] == [None] * 5
    assert [each["fields"] for each in found] == [VISITS[2], VISITS[1], VISITS[1], VISITS[0], VISITS[4]]


def test_they_come_back_as_often_as_they_stood(db: Database) -> None:
    dump, before = db.dump(), db.visits()
    METADATA.drop_all(db.engine)
    METADATA.create_all(db.engine)
    assert db.load(dump).objects == 7
    assert db.visits() == before
    assert max(before.values()) == 2


@pytest.mark.parametrize("existing", ["update", "keep", "fail"])
def test_a_second_load_does_not_double_them(db: Database, existing: str) -> None:
    refused(db, as_records("visit", VISITS[:1]), "table visit has no key and has rows", existing=existing)


def test_replace_makes_the_rows_those_of_the_files(db: Database) -> None:
    wanted = [VISITS[1]] * 3 + VISITS[4:]
    db.load(as_records("visit", wanted), existing="replace", batch_size=1)
    assert sorted(db.visits().values()) == [1, 3]
    refused(
        db, [*as_records("visit", wanted), {"model": "crm.visit", "fields": {"page": 1}}], "page", existing="replace"
    )
    db.load([], existing="replace", only=["visit"])
    assert db.visits() == Counter()


def test_replaced_rows_need_the_rows_they_refer_to(db: Database) -> None:
    records = as_records("person", PEOPLE[:1], "id")
    refused(db, [*records, *as_records("visit", VISITS[:1])], "person_id refers to no person", existing="replace")
    refused(db, records, "person_id refers to no person", existing="replace")
    assert db.load([*records, *as_records("visit", VISITS[1:2])], existing="replace").deleted == 1


def test_a_load_in_parts_could_not_go_on(db: Database) -> None:
    db.load([], existing="replace", only=["visit"])
    refused(db, as_records("visit", VISITS), "no key, so a load that goes on", commit_every=2)


def test_links_of_nothing_are_not_told_apart_once_there_are_some(db: Database) -> None:
    links = as_records("friendship", [{"a_id": 1, "b_id": 2}, {"a_id": 1, "b_id": None}])
    db.load(links)
    db.load(links[:1])
    refused(db, links, "its key has a NULL")
    assert db.load(links[:1], existing="replace").deleted == 1
    assert [each["pk"] for each in db.dump("friendship")] == [[1, 2]]


def test_nothing_is_published_of_them(db: Database) -> None:
    publisher = MemoryPublisher()
    bus = eventbus.install(sessionmaker(db.engine), publisher=publisher, service="crm")
    try:
        db.load([], existing="replace", only=["visit"])
        assert db.load(as_records("visit", VISITS), publish=bus).published == 0
        assert db.visits().total() == 5
    finally:
        bus.close()
