"""`--existing replace` restores a state: unique values swap between records, whatever their type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
import sqlalchemy as sa

from eventbus.errors import LoadError
from eventbus.loaddata import loaddata

BYTES: Final = sa.LargeBinary().with_variant(sa.VARBINARY(20), "mysql", "mariadb")
UUIDS: Final = [f"019ac0de-0000-7000-8000-00000000000{n}" for n in range(2)]
VALUES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "whole": (sa.Integer, [0, 1]),
    "decimal": (sa.Numeric(4, 2), ["1.00", "2.50"]),
    "float": (sa.Float, [1.5, 2.5]),
    "text": (sa.String(40), ["a", "b"]),
    "letter": (sa.String(1), ["a", "b"]),
    "padded": (sa.CHAR(2), ["a", "b"]),
    "enum": (sa.Enum("a", "b", "c", name="swapped"), ["a", "b"]),
    "date": (sa.Date, ["2026-01-01", "1980-01-01"]),
    "moment": (sa.DateTime, ["2026-01-01T00:00:00", "1980-01-01T00:00:00"]),
    "time": (sa.Time, ["00:00:00", "00:01:00"]),
    "uuid": (sa.Uuid, UUIDS),
    "bytes": (BYTES, ["YQ==", "Yg=="]),
}


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(database_url)
    yield engine
    engine.dispose()


def load(engine: sa.Engine, path: Path, models: sa.MetaData, *rows: dict[str, Any], existing: Any = "replace") -> None:
    path.write_bytes(orjson.dumps([{"model": "x.seat", "pk": row.pop("id"), "fields": row} for row in rows]))
    loaddata(engine, [path], models=models, existing=existing)


def test_values_of_each_type_swap(engine: sa.Engine, tmp_path: Path) -> None:
    """Two unique columns at once, by keys that the driver has in another form than the file."""
    path = tmp_path / "dump.json"
    for name, (type_, (a, b)) in VALUES.items():
        models = sa.MetaData()
        columns = sa.Column("v", type_, unique=True, nullable=False), sa.Column("n", sa.Integer, unique=True)
        seat = sa.Table("seat", models, sa.Column("id", sa.Uuid, primary_key=True), *columns)
        models.create_all(engine)
        one, other = UUIDS
        load(engine, path, models, {"id": one, "v": a, "n": 1}, {"id": other, "v": b, "n": 2})
        with engine.connect() as connection:
            before = dict(connection.execute(sa.select(seat.c.n, seat.c.v)).all())
        load(engine, path, models, {"id": one, "v": b, "n": 2}, {"id": other, "v": a, "n": 1})
        with engine.connect() as connection:
            found = {str(key): n for key, n in connection.execute(sa.select(seat.c.id, seat.c.n))}
            assert found == {one: 2, other: 1}, name
            assert dict(connection.execute(sa.select(seat.c.n, seat.c.v)).all()) == before, name
        models.drop_all(engine)


def test_a_value_that_two_records_want_is_an_error(engine: sa.Engine, tmp_path: Path) -> None:
    """The second one does not say so, but has it."""
    path, models = tmp_path / "dump.json", sa.MetaData()
    columns = sa.Column("v", sa.Date, unique=True, nullable=False), sa.Column("n", sa.Integer)
    sa.Table("seat", models, sa.Column("id", sa.Uuid, primary_key=True), *columns)
    models.create_all(engine)
    one, other = UUIDS
    load(engine, path, models, {"id": one, "v": "2026-01-01"}, {"id": other, "v": "2026-01-02"})
    with pytest.raises(LoadError, match="v is wanted by two records") as caught:
        load(engine, path, models, {"id": one, "v": "2026-01-02"}, {"id": other, "n": 5})
    assert (caught.value.record, caught.value.pk) == (1, one)
    with pytest.raises(LoadError, match=rf"it is taken by x.seat '{other}' \(in the database\)"):
        load(engine, path, models, {"id": one, "v": "2026-01-02"}, existing="update")
