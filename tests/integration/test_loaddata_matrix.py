"""The matrix of docs/dumps.md: column type by database, each cell a dump that comes back exactly, or a refusal.

Values are written by the database's own SQL and compared by it, so nothing of SQLAlchemy stands between.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
import sqlalchemy as sa

from eventbus.dumpdata import dumpdata
from eventbus.errors import LoadError
from eventbus.loaddata import loaddata

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "dumps.md"
EXACT: Final[Mapping[str, Mapping[str, list[str]]]] = {
    "sqlite": {
        "VARCHAR(20)": ["'é \"x'", "''", "NULL"],
        "INTEGER": ["-9223372036854775808", "0"],
        "BOOLEAN": ["1", "0"],
        "FLOAT": ["0.1", "9e999", "-9e999"],
        "NUMERIC(10, 2)": ["5", "0.1", "1.005"],
        "DATETIME": ["'2026-01-02 03:04:05.678900'"],
        "DATE": ["'2026-01-02'"],
        "TIME": ["'23:59:59.000001'"],
        "BLOB": ["x'00ff'"],
        "JSON": ["'{\"a\": [1.5, null]}'", "'null'", "NULL", "'\"text\"'", "1"],
    },
    "postgresql": {
        "varchar(20)": ["'é \"x'", "''", "NULL"],
        "char(5)": ["'a'"],
        "bigint": ["-9223372036854775808"],
        "boolean": ["true", "false"],
        "double precision": ["0.1", "'NaN'", "'Infinity'", "'-Infinity'", "1e-308"],
        "real": ["0.1", "16777217", "'NaN'", "1e-40", "1e-45"],
        "numeric": ["12345678901234567890.123456789012345678901234567890", "'NaN'", "1e30"],
        "numeric(10,2)": ["5", "-0.01", "'NaN'"],
        "money": ["'12.34'", "'-1000.00'"],
        "timestamp": ["'2026-01-02 03:04:05.6789'", "'infinity'", "'0044-03-15 10:00 BC'", "'294276-12-31 23:59:59.5'"],
        "timestamptz": ["'2026-01-02 03:04:05+05:30'", "'-infinity'"],
        "timestamp(3)": ["'2026-01-02 03:04:05.123'"],
        "date": ["'2026-01-02'", "'infinity'", "'0044-03-15 BC'", "'5874897-12-31'"],
        "time": ["'24:00'", "'23:59:59.000001'"],
        "timetz": ["'10:00+02'", "'24:00:00+05:30'"],
        "interval": ["'1 year 2 mons 3 days 4:05:06.7'", "'1 day 24:00'", "'-1 mon 1 day'", "'-1 day -00:00:01'"],
        "uuid": ["'019ac0de-0000-7000-8000-000000000000'"],
        "bytea": ["'\\x00ff'"],
        "json": ["'{\"a\":  1.000000000000000000001}'", "'null'", "NULL"],
        "jsonb": ["'{\"a\": 123456789012345678901234567890}'", "'null'", "NULL"],
        "inet": ["'10.0.0.0/8'"],
        "int4range": ["'[1,5)'", "'empty'", "'(,5)'"],
        "tstzrange": ["'[2026-01-01 00:00+00,)'"],
        "int4multirange": ["'{[1,3),[5,9)}'"],
        "bit(4)": ["'1010'"],
        "bit varying": ["'10'"],
        "tsvector": ["'a:1 fat:2 cat:3'"],
        "xml": ["'<a>b</a>'"],
        "point": ["'(1.5,2)'"],
        "integer[]": ["'{1,NULL,3}'", "'{}'", "'{{1,2},{3,4}}'"],
        "text[]": ['\'{"a,b","c\\"d\\\\e",NULL,"NULL",""}\''],
        "numeric[]": ["'{1.50,NaN}'"],
        "timestamptz[]": ["'{2026-01-02 03:04:05+00}'"],
        "interval[]": ["'{1 mon}'"],
        "boolean[]": ["'{t,f,NULL}'"],
    },
    "mysql": {
        "VARCHAR(20)": ["'é \"x '", "''", "NULL"],
        "CHAR(5)": ["'a'"],
        "BIGINT UNSIGNED": ["18446744073709551615"],
        "TINYINT(1)": ["1", "7"],
        "DOUBLE": ["3.141592653589793", "1e-300"],
        "FLOAT": ["1098581", "0.1", "16777216"],
        "DECIMAL(65,30)": ["12345678901234567890123456789012345.123456789012345678901234567890"],
        "DATETIME": ["'2026-01-02 03:04:05'"],
        "DATETIME(6)": ["'2026-01-02 03:04:05.678901'"],
        "TIMESTAMP": ["'2026-01-02 03:04:05'"],
        "DATE": ["'2026-01-02'"],
        "TIME": ["'-12:30:00'", "'838:59:59'", "'10:00'"],
        "TIME(3)": ["'-00:00:00.5'"],
        "YEAR": ["2024", "0"],
        "BIT(1)": ["b'1'"],
        "BIT(64)": ["18446744073709551615"],
        "BINARY(3)": ["'a'"],
        "BLOB": ["x'00ff'"],
        "JSON": ["'{\"a\": [1.5, null]}'", "'null'", "NULL"],
        "ENUM('a','b')": ["'b'"],
        "SET('a','b','c')": ["'a,c'", "''"],
        "POINT": ["ST_PointFromText('POINT(1 2)')"],
        "INET6": ["'::1'"],
    },
}
REFUSED: Final[Mapping[str, list[tuple[str, Any, str]]]] = {
    "sqlite": [
        ("NUMERIC(30, 20)", "0.12345678901234567891", "more digits than SQLite keeps"),
        ("NUMERIC(38, 10)", "1234567890123456.8", "more digits than SQLite keeps"),
        ("NUMERIC(38, 10)", "12345678901234567000", "more digits than SQLite keeps"),
        ("FLOAT", "NaN", "NaN"),
        ("FLOAT", (1 << 60) + 1, "more digits than a float can hold"),
        ("FLOAT", "1_5", "not a number"),
        ("DATETIME", "2026-01-02T03:04:05.1234567", "keeps 6 digits"),
        ("NUMERIC(10, 2)", "1_5", "not a number"),
        ("JSON", orjson.Fragment(b"0.12345678901234567891"), "more digits than a float can hold"),
        ("INTEGER", "1_000", "not a whole number"),
        ("INTEGER", "\u0661", "not a whole number"),
        ("INTEGER", 1.5, "not a whole number"),
        ("INTEGER", True, "not a whole number"),
        ("TIME", "10:00:00+02:00", "a time of day with an offset"),
    ],
    "postgresql": [
        ("numeric(10,2)", "1.005", "more than the 2 digits"),
        ("real", 0.123456789, "single precision"),
        ("timestamp(3)", "2026-01-02T03:04:05.123456", "keeps 3 digits"),
        ("time", "10:00:00+02:00", "a time of day with an offset"),
        ("timestamp", "yesterday", "field 'v'"),
        ("timestamp", "2026-01-02T24:00:00", "not a moment in ISO 8601"),
        ("timestamp", "2026-01-02T03:04:60", "not a moment in ISO 8601"),
        ("timestamptz", "2026-01-02T03:04:05.1234567Z", "keeps 6 digits"),
        ("double precision", orjson.Fragment(b"0.12345678901234567891"), "more digits than a float can hold"),
        ("bigint", "1_000", "not a whole number"),
        ("integer", True, "not a whole number"),
        ("integer", 1 << 31, "out of range"),
        ("smallint", 1 << 15, "out of range"),
        ("char(5)", "a ", "ends with a blank"),
        ("char(5)", "a     ", "ends with a blank"),
        ("char(3)[]", ["b", "a "], "ends with a blank"),
        ("interval", "1 month", "ISO 8601"),
        ("int4range", "[5,1)", "range lower bound"),
        ("varchar(3)", "long", "too long"),
    ],
    "mysql": [
        ("DATETIME", "2026-01-02T03:04:05.5", "keeps no digit"),
        ("TIME", "10:00:00.5", "keeps no digit"),
        ("FLOAT", 0.123456789, "single precision"),
        ("DOUBLE", "NaN", "not a finite number"),
        ("DOUBLE", (1 << 60) + 1, "more digits than a float can hold"),
        ("DATETIME(6)", "2026-01-02T03:04:05.1234567", "keeps 6 digits"),
        ("BIGINT UNSIGNED", " 5", "not a whole number"),
        ("DECIMAL(10,2)", "1.005", "more than the 2 digits"),
        ("CHAR(5)", "a ", "ends with a blank"),
        ("BINARY(3)", "YQ==", "has 1 bytes"),
        ("SET('a','b')", ["c"], "not a list of: a, b"),
        ("VARCHAR(3)", "long", "too long"),
        ("TINYINT(1)", 300, "Out of range"),
        ("INT", True, "not a whole number"),
        ("BIT(4)", True, "not a whole number"),
    ],
}
TAKEN: Final[Mapping[str, list[tuple[str, Any, str]]]] = {
    "sqlite": [("TINYINT(1)", True, "1")],
    "postgresql": [("char(5)", "a    ", "a"), ("char(3)[]", ["b", "a  "], '{"b  ","a  "}'), ("char(2)", "  ", "")],
    "mysql": [("TINYINT(1)", True, "1"), ("BIT(1)", False, "0")],
}
"""Type, what is in the file, and what it is then: other words for the same value, as other databases have them."""


class Store:
    def __init__(self, engine: sa.Engine, path: Path) -> None:
        self.engine = engine
        self.path = path
        self.name = engine.dialect.name

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def bytes(self, columns: int) -> list[Any]:
        """What is in the table, as the server itself writes it."""
        shown = {
            "sqlite": "quote(v{})",
            "postgresql": "CAST(v{} AS TEXT)",
            "mysql": "HEX(CAST(v{} AS CHAR)), v{} IS NULL",
        }
        kinds = list(EXACT[self.name])
        special = {"POINT": "ST_AsText(v{})", "FLOAT": "v{} + 0e0"} if self.name == "mysql" else {}
        texts = ", ".join(
            shown[self.name].replace("v{} AS", special.get(kinds[number], "v{}") + " AS").replace("{}", str(number))
            for number in range(columns)
        )
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(f"SELECT id, {texts} FROM m ORDER BY id"))

    def metadata(self) -> sa.MetaData:
        found = sa.MetaData()
        found.reflect(self.engine, only=["m"])
        return found


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    engine = sa.create_engine(database_url)
    yield Store(engine, tmp_path / "dump.json")
    engine.dispose()


@pytest.mark.filterwarnings("ignore:Did not recognize type")
def test_every_type_comes_back_exactly(store: Store) -> None:
    kinds = EXACT[store.name]
    store.run(f"CREATE TABLE m (id INTEGER PRIMARY KEY, {', '.join(f'v{n} {kind}' for n, kind in enumerate(kinds))})")
    for row in range(max(map(len, kinds.values()))):
        values = [each[row % len(each)] for each in kinds.values()]
        store.run(f"INSERT INTO m VALUES ({row}, {', '.join(values)})".replace("%", "%%"))
    before, models = store.bytes(len(kinds)), store.metadata()
    stream = io.BytesIO()
    dumped = dumpdata(store.engine, stream, models=models)
    assert not dumped.left_out
    store.path.write_bytes(stream.getvalue())
    for again in (False, True):
        if not again:
            store.run("DELETE FROM m")
        loaddata(store.engine, [store.path], models=models)
        names = ["id", *kinds] if store.name != "mysql" else ["id", *(kind for kind in kinds for _ in range(2))]
        for old, new in zip(before, store.bytes(len(kinds)), strict=True):
            assert not {name: (a, b) for name, a, b in zip(names, old, new, strict=True) if a != b and name != "json"}
        second = io.BytesIO()
        dumpdata(store.engine, second, models=models)
        assert second.getvalue().replace(b"  ", b" ") == stream.getvalue().replace(b"  ", b" ")


def test_what_a_column_cannot_hold_is_refused_by_name(store: Store) -> None:
    for number, (kind, value, words) in enumerate(REFUSED[store.name]):
        store.run("DROP TABLE IF EXISTS m", f"CREATE TABLE m (id INTEGER PRIMARY KEY, v {kind})")
        store.path.write_bytes(orjson.dumps([{"model": "x.m", "pk": number, "fields": {"v": value}}]))
        with pytest.raises(LoadError, match=re.escape(words)) as caught:
            loaddata(store.engine, [store.path], models=store.metadata())
        assert (caught.value.field, caught.value.record) == ("v", 1), kind
        with store.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM m").scalar() == 0


@pytest.mark.filterwarnings("ignore:Could not instantiate type")
def test_other_words_for_a_value_are_taken(store: Store) -> None:
    shown = {"sqlite": "v", "postgresql": "CAST(v AS TEXT)", "mysql": "v + 0"}[store.name]
    for kind, value, found in TAKEN[store.name]:
        store.run("DROP TABLE IF EXISTS m", f"CREATE TABLE m (id INTEGER PRIMARY KEY, v {kind})")
        store.path.write_bytes(orjson.dumps([{"model": "x.m", "pk": 1, "fields": {"v": value}}]))
        loaddata(store.engine, [store.path], models=store.metadata())
        with store.engine.connect() as connection:
            assert str(connection.exec_driver_sql(f"SELECT {shown} FROM m").scalar()) == found, kind


def test_the_page_has_a_line_for_every_cell() -> None:
    page = PAGE.read_text()
    for database, kinds in EXACT.items():
        for kind in kinds:
            assert f"`{kind}`" in page, f"{kind} of {database}"
    for cells in REFUSED.values():
        for _, _, words in cells:
            if words not in ("field 'v'", "range lower bound", "too long", "Out of range", "out of range", "NaN"):
                assert words in page, words
