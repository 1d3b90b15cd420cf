"""Kinds of broken input on each database: words of our own that name the place, nothing kept."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from eventbus.errors import LoadError
from eventbus.loaddata import loaddata


class Base(DeclarativeBase):
    pass


class Team(Base):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(8), unique=True)


membership = sa.Table(
    "membership",
    Base.metadata,
    sa.Column("person_id", sa.ForeignKey("person.id"), primary_key=True),
    sa.Column("team_id", sa.ForeignKey("team.id"), primary_key=True),
)


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int | None] = mapped_column(sa.ForeignKey("team.id"))
    team: Mapped[Team | None] = relationship()
    born: Mapped[Any] = mapped_column(sa.Date, nullable=True)
    seen: Mapped[Any] = mapped_column(sa.DateTime, nullable=True)
    at: Mapped[Any] = mapped_column(sa.Time, nullable=True)
    pay: Mapped[Any] = mapped_column(sa.Numeric(8, 2), nullable=True)
    ratio: Mapped[Any] = mapped_column(sa.Double, nullable=True)
    active: Mapped[Any] = mapped_column(sa.Boolean, nullable=True)
    kind: Mapped[Any] = mapped_column(sa.Enum("a", "b", name="kind"), nullable=True)
    key: Mapped[Any] = mapped_column(sa.Uuid, nullable=True)
    photo: Mapped[Any] = mapped_column(sa.LargeBinary, nullable=True)
    lapse: Mapped[Any] = mapped_column(sa.Interval, nullable=True)
    data: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
    teams: Mapped[list[Team]] = relationship(secondary=membership)


class Line(Base):
    __tablename__ = "line"
    order: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Pair(Base):
    __tablename__ = "pair"
    one: Mapped[str] = mapped_column(sa.String(8), primary_key=True)
    other: Mapped[str] = mapped_column(sa.String(8), primary_key=True)


def person(**fields: Any) -> dict[str, Any]:
    return {"model": "x.person", "pk": 7, "fields": fields}


def team(pk: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"model": "x.team", "pk": pk, "fields": {"name": "t", **fields}}


FIELDS: Final[dict[str, dict[str, Any]]] = {
    "born": {"no date": "yesterday", "a number": 5, "no such day": "2026-02-30", "with a time": "2026-01-02T10:00:00"},
    "seen": {"no moment": "soon", "a list": [1], "truth": True},
    "at": {"no time": "25:00:00x", "with an offset": "10:00:00+02:00"},
    "pay": {"no number": "twelve", "too fine": "1.005", "truth": True, "infinite": "Infinity", "an object": {"a": 1}},
    "ratio": {"no number": "x", "too large": "1e999", "truth": True},
    "active": {"neither": "perhaps", "a number": 2},
    "kind": {"unknown": "c", "a number": 1},
    "key": {"no UUID": "abc", "a number": 1},
    "photo": {"no base64": "not base64!", "a number": 1, "not ASCII": "é", "half a byte too much": "QUJ="},
    "lapse": {"no duration": "2 hours", "empty": "P"},
    "team_id": {
        "no whole number": 1.5,
        "text": "one",
        "as in Python": "1_0",
        "an unknown natural key": ["nobody"],
        "to nothing": 99,
        "truth": True,
    },
    "teams": {"null in it": [1, None], "no list": 1, "a text": "1", "null": None},
}
RECORDS: Final[dict[str, tuple[list[Any], str]]] = {
    "no record": ([5], "not a record"),
    "no fields": ([{"model": "x.team", "pk": 1}], "not a record"),
    "fields that are a list": ([{"model": "x.team", "pk": 1, "fields": []}], "not a record"),
    "an unknown model": ([{"model": "x.tem", "pk": 1, "fields": {}}], "no model x.tem"),
    "an unknown field": ([team(nam="x")], "no field 'nam', did you mean 'name'"),
    "a key of two parts for one": ([team([1, 2])], "primary key|refers to no"),
    "a key of one part for two": ([{"model": "x.line", "pk": 1, "fields": {}}], "primary key"),
    "a text of two letters for two": ([{"model": "x.pair", "pk": "ab", "fields": {}}], "primary key"),
    "an object for two": ([{"model": "x.pair", "pk": {"one": "a", "other": "b"}, "fields": {}}], "primary key"),
    "true for a key": ([team(True)], "primary key"),
    "a null of JSON that is none": ([team(), {**person(data=1), "json_null": ["data"]}], "json_null: 'data'"),
    "a null of JSON in a date": ([team(), {**person(born=None), "json_null": ["born"]}], "json_null: .*'born'"),
    "a null of JSON nowhere": ([team(), {**person(), "json_null": ["dta"]}], "json_null: 'dta'"),
    "no required field": ([{"model": "x.team", "pk": 1, "fields": {}}], "no name"),
    "null in a required field": ([team(name=None)], "name"),
    "two of one key": ([team(1, name="a"), team(1, name="b")], r"record 1 of"),
    "two of one unique value": ([team(1), team(2)], r"record 1 of"),
    "two services": ([team(), {"model": "y.team", "pk": 2, "fields": {"name": "u"}}], "not of the service"),
    "a stub": ([{**team(), "stub": {"reason": "EventTooLarge"}}], "a stub"),
    "a pk that is not its field": ([team(1, id=2)], "its pk says 1, this field 2"),
    "a field under both its names": ([team(), person(team=1, team_id=1)], "'team' and 'team_id' are one"),
    "a list that is none": ([person(team=[["x"]])], "team"),
}
FILES: Final[dict[str, tuple[bytes, str]]] = {
    "empty": (b"", "nothing in it"),
    "cut off": (json.dumps([team()]).encode()[:-5], "not valid JSON"),
    "UTF-16": (json.dumps([team()]).encode("utf-16"), "UTF-16"),
    "Latin-1": ('[{"model": "x.team", "pk": 1, "fields": {"name": "Zoë"}}]'.encode("latin-1"), "not UTF-8"),
    "XML": (b"<django-objects/>", "XML"),
    "YAML": (b"- model: x.team\n", "YAML"),
    "a name twice": (b'[{"model": "x.team", "pk": 1, "fields": {"name": "a", "name": "b"}}]', "of the name 'name'"),
    "a name twice, far within": (b'[{"model": "x.team", "pk": 1, "fields": {"name": {"a": 1, "a": 1}}}]', "name 'a'"),
    "a text": (b'"text"', "a record is an object"),
    "half a gzip": (gzip.compress(json.dumps([team()]).encode())[:-9], "cannot be read|ends too early"),
    "half an lzma": (lzma.compress(json.dumps([team()]).encode(), format=lzma.FORMAT_ALONE)[:30], "cannot be read"),
}


def test_every_kind_of_broken_input_is_told_and_nothing_is_kept(database_url: str, tmp_path: Path) -> None:
    assert sum(map(len, FIELDS.values())) + len(RECORDS) + len(FILES) >= 35
    engine, path = sa.create_engine(database_url), tmp_path / "dump.json"
    Base.metadata.create_all(engine)

    def refused(data: bytes, words: str) -> LoadError:
        path.write_bytes(data)
        with pytest.raises(LoadError, match=words) as caught:
            loaddata(engine, [path], models=Base)
        assert str(path) in str(caught.value)
        assert not any(word in str(caught.value) for word in ("Traceback", "[SQL", "sqlalche.me"))
        with engine.connect() as connection:
            for table in Base.metadata.tables.values():
                assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0, data
        return caught.value

    try:
        for field, kinds in FIELDS.items():
            for kind, value in kinds.items():
                if kind in ("too fine", "infinite") and engine.dialect.name == "sqlite":
                    continue  # which keeps it as it is
                error = refused(orjson.dumps([team(), person(**{field: value})]), f"field '{field}'|{field} refers")
                assert (error.record, error.field, error.pk) == (2, field, 7), (field, value)
        for records, words in RECORDS.values():
            error = refused(orjson.dumps(records), words)
            assert error.record == len(records), words
        for data, words in FILES.values():
            refused(data, words)
    finally:
        engine.dispose()
