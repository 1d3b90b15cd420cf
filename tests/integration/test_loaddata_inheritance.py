"""Joined inheritance whose tables call their keys otherwise, as Django's `place_ptr_id`: on each database."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventbus.dumpdata import dumpdata
from eventbus.errors import LoadError
from eventbus.loaddata import loaddata


class Base(DeclarativeBase):
    pass


class Place(Base):
    __tablename__ = "place"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40))
    kind: Mapped[str] = mapped_column(sa.String(20))
    __mapper_args__: ClassVar[Any] = {"polymorphic_on": "kind", "polymorphic_identity": "place"}


class Restaurant(Place):
    __tablename__ = "restaurant"
    place_ptr_id: Mapped[int] = mapped_column(sa.ForeignKey("place.id"), primary_key=True)
    pizza: Mapped[bool]
    __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "restaurant"}


class Italian(Restaurant):
    __tablename__ = "italian"
    restaurant_ptr_id: Mapped[int] = mapped_column(sa.ForeignKey("restaurant.place_ptr_id"), primary_key=True)
    region: Mapped[str] = mapped_column(sa.String(40))
    __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "italian"}


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(database_url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def load(engine: sa.Engine, path: Path, *records: Any, **options: Any) -> None:
    path.write_bytes(orjson.dumps(records))
    loaddata(engine, [path], models=Base, **options)


def dump(engine: sa.Engine) -> list[Any]:
    stream = io.BytesIO()
    dumpdata(engine, stream, models=Base, service="food")
    found: list[Any] = orjson.loads(stream.getvalue())
    return found


def keys(engine: sa.Engine, table: str, column: str) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.text(f"SELECT {column} FROM {table} ORDER BY 1")))


def test_the_pk_of_a_record_is_the_key_in_each_of_its_tables(engine: sa.Engine, tmp_path: Path) -> None:
    load(
        engine,
        tmp_path / "django.json",
        {"model": "food.italian", "pk": 9, "fields": {"region": "Lazio"}},
        {"model": "food.restaurant", "pk": 9, "fields": {"pizza": True}},
        {"model": "food.restaurant", "pk": 7, "fields": {"pizza": False}},
        {"model": "food.place", "pk": 9, "fields": {"name": "Roma"}},
        {"model": "food.place", "pk": 7, "fields": {"name": "Oslo"}},
    )
    assert keys(engine, "place", "id") == keys(engine, "restaurant", "place_ptr_id") == [7, 9]
    assert keys(engine, "italian", "restaurant_ptr_id") == [9]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_the_class_is_the_most_special_one_in_any_order(
    engine: sa.Engine, tmp_path: Path, order: tuple[int, ...]
) -> None:
    records = [
        {"model": "food.place", "pk": 9, "fields": {"name": "Roma"}},
        {"model": "food.restaurant", "pk": 9, "fields": {"pizza": True}},
        {"model": "food.italian", "pk": 9, "fields": {"region": "Lazio"}},
    ]
    load(engine, tmp_path / "django.json", *(records[place] for place in order))
    (found,) = dump(engine)
    assert (found["model"], found["fields"]["kind"]) == ("food.italian", "italian")


def test_a_dump_of_them_comes_back_over_rows_that_are_there(engine: sa.Engine, tmp_path: Path) -> None:
    with Session(engine) as session, session.begin():
        session.add(Place(id=3, name="park"))
        session.add(Restaurant(id=5, name="Chez", pizza=False))
        session.add(Italian(id=8, name="Da", pizza=True, region="Lazio"))
    before = dump(engine)
    load(engine, tmp_path / "dump.json", *before)
    load(engine, tmp_path / "dump.json", *before, existing="replace")
    assert dump(engine) == before
    load(engine, tmp_path / "dump.json", before[0], existing="replace", only=["place", "restaurant", "italian"])
    assert [each["pk"] for each in dump(engine)] == [before[0]["pk"]]
    load(engine, tmp_path / "dump.json", *before)
    assert dump(engine) == before


def test_a_field_that_says_another_key_is_an_error(engine: sa.Engine, tmp_path: Path) -> None:
    wrong = {"name": "Da", "pizza": True, "region": "Lazio", "place_ptr_id": 4}
    with pytest.raises(LoadError, match="field 'place_ptr_id': its pk says 5, this field 4"):
        load(engine, tmp_path / "dump.json", {"model": "food.italian", "pk": 5, "fields": wrong})
    with pytest.raises(LoadError, match="this field 4"):
        load(engine, tmp_path / "dump.json", {"model": "food.italian", "fields": {**wrong, "id": 5}})
    load(engine, tmp_path / "dump.json", {"model": "food.italian", "fields": wrong})
    assert keys(engine, "italian", "restaurant_ptr_id") == [4]


def test_a_record_says_no_other_class_than_its_model(engine: sa.Engine, tmp_path: Path) -> None:
    fields = {"name": "Da", "pizza": True}
    path = tmp_path / "dump.json"
    for model, kind in (("restaurant", "italian"), ("restaurant", "bar"), ("place", "restaurant")):
        wrong = {"model": f"food.{model}", "pk": 5, "fields": {**(fields if model != "place" else {}), "kind": kind}}
        with pytest.raises(LoadError, match=rf"field 'kind': '{kind}' is not of this model") as caught:
            load(engine, path, wrong)
        assert (caught.value.record, caught.value.field) == (1, "kind")
    load(engine, path, {"model": "food.place", "pk": 6, "fields": {"name": "old", "kind": "of a class long gone"}})
    assert dump(engine)[0]["fields"]["kind"] == "of a class long gone"
