"""The generated function writes what `Schema.dump` says, byte for byte, or names record and field."""

# ruff: noqa: DTZ001 - naive moments are half of what is tested

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import uuid
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marshmallow import Schema, fields, post_dump, pre_dump
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, composite, deferred, mapped_column, relationship, synonym

from eventbus.errors import SerializationError
from eventbus.events.change import MISSING
from eventbus.records.columns import dialect_named
from eventbus.records.entities import Entities
from eventbus.records.entity import Entity
from eventbus.records.serializing.serializer import Serializer
from tests.support import column_values

UTC = dt.UTC


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y


class Base(DeclarativeBase):
    pass


class Company(Base):
    __tablename__ = "company"
    id: Mapped[int] = mapped_column(primary_key=True)


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    nick = synonym("name")
    balance: Mapped[decimal.Decimal | None] = mapped_column(sa.Numeric(10, 2))
    rating: Mapped[float | None]
    active: Mapped[bool | None]
    born: Mapped[dt.date | None]
    seen_at: Mapped[dt.datetime | None]
    color: Mapped[Color | None]
    ref: Mapped[uuid.UUID | None]
    data: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
    x: Mapped[int | None]
    y: Mapped[int | None]
    place: Mapped[Point] = composite("x", "y")
    company_id: Mapped[int | None] = mapped_column(sa.ForeignKey("company.id"))
    company: Mapped[Company | None] = relationship()
    password_hash: Mapped[str | None]
    notes: Mapped[str | None] = deferred(mapped_column())

    @property
    def shout(self) -> str | None:
        return self.name and self.name.upper()

    @hybrid_property
    def rich(self) -> bool:
        return bool(self.balance and self.balance > 100)

    def greet(self) -> str:
        return f"Hello {self.name}"


class Seat(Base):
    __tablename__ = "seat"
    row_: Mapped[int] = mapped_column("row", primary_key=True)
    letter: Mapped[str] = mapped_column(primary_key=True)


def entity_of(model: type[Base], schema: Any = None) -> Entity:
    entity = Entities("crm", schemas={model: schema} if schema else None).for_mapper(sa.inspect(model))
    assert entity is not None
    return entity


def values_of(entity: Entity, given: dict[str, Any]) -> list[Any]:
    return [given.get(key) for key in entity.keys]


CONTACT: dict[str, Any] = {
    "id": 7,
    "name": "Émile",
    "balance": decimal.Decimal(5),
    "rating": 4.5,
    "active": True,
    "born": dt.date(1980, 5, 17),
    "seen_at": dt.datetime(2026, 11, 23, 8, 0, 0, 123456),
    "color": Color.RED,
    "ref": uuid.UUID(int=1),
    "data": {"a": [1, None]},
    "x": 1,
    "y": 2,
    "company_id": 3,
    "password_hash": "x",
    "notes": "long",
}


def same_as_schema(serializer: Serializer, values: Sequence[Any]) -> bytes:
    """The JSON that both ways agree on."""
    ours = orjson.dumps(serializer.after(values))
    assert ours == orjson.dumps(serializer.schema.dump(serializer.record(values)))
    return ours


# -- every kind of column ------------------------------------------------------


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def test_every_kind_of_column_is_written_as_its_schema_dumps_it(dialect: str) -> None:
    entity = Entities("zoo").for_table(column_values.table_for(dialect, sa.MetaData()))
    assert entity is not None
    serializer = entity.serializer(dialect_named(dialect))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(column_values.rows(dialect), st.sets(st.sampled_from(entity.keys[1:]), max_size=5))
    def check(row: dict[str, Any], unknown: set[str]) -> None:
        values = [MISSING if key in unknown else {"id": 1, **row}[key] for key in entity.keys]
        written = orjson.loads(same_as_schema(serializer, values))
        assert written.keys() == set(entity.keys) - unknown

    check()


@given(st.datetimes() | st.datetimes(timezones=st.timezones()) | st.none())
@settings(deadline=None)
def test_moments_of_any_year_and_offset(moment: dt.datetime | None) -> None:
    offset = None if moment is None else moment.utcoffset()
    if offset and not 1 < moment.year < 9999:  # type: ignore[union-attr]
        return  # no UTC
    for dialect in ("sqlite", "postgresql"):
        table = sa.Table(
            "t",
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("naive", sa.DateTime),
            sa.Column("aware", sa.DateTime(timezone=True)),
        )
        entity = Entities("t").for_table(table)
        assert entity is not None
        same_as_schema(entity.serializer(dialect_named(dialect)), [1, moment, moment])


# -- schemas of the user's -----------------------------------------------------


class Loud(fields.String):
    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return f"{value}! ({obj.id})"


class EveryField(Schema):
    """Known fields, others of marshmallow's, and some of one's own."""

    id = fields.Integer(data_key="ID")
    title = fields.String(attribute="name", dump_only=True)
    balance = fields.Decimal(as_string=True)
    rating = fields.Float()
    rating_text = fields.Float(attribute="rating", as_string=True, dump_only=True)
    active = fields.Boolean()
    born = fields.Date(format="%d/%m/%Y")
    seen_at = fields.DateTime()
    seen = fields.DateTime(attribute="seen_at", format="timestamp", dump_only=True)
    rfc = fields.DateTime(attribute="seen_at", format="rfc", dump_only=True)
    color = fields.Enum(Color)
    color_value = fields.Enum(Color, attribute="color", by_value=True, dump_only=True)
    ref = fields.UUID()
    data = fields.Raw()
    constant = fields.Constant(42)
    loud = Loud(attribute="name", dump_only=True)
    greeting = fields.Method("get_greeting")
    double = fields.Function(lambda obj: obj.id * 2)
    shout = fields.String()
    rich = fields.Boolean()
    nick = fields.String()
    place = fields.Nested({"x": fields.Integer(), "y": fields.Integer()})
    ids = fields.List(fields.Integer(), attribute="data.a", dump_only=True)
    absent = fields.String(dump_default="none")
    secret = fields.String(load_only=True, attribute="name")
    password_hash = fields.String()

    def get_greeting(self, obj: Any) -> str:
        assert isinstance(obj, Contact)
        return str(obj.greet())


@pytest.mark.parametrize(
    "schema",
    [
        EveryField,
        EveryField(exclude=("id", "greeting")),
        EveryField(only=("id", "title", "born")),
        EveryField(many=True),
    ],
)
def test_a_schema_of_fields_alone_goes_by_the_generated_function(schema: Any) -> None:
    entity = entity_of(Contact, schema)
    serializer = entity.serializer(dialect_named("sqlite"))
    assert serializer.after.__name__ == "after"
    assert orjson.dumps(serializer.after(values_of(entity, CONTACT))) == orjson.dumps(
        serializer.schema.dump(serializer.record(values_of(entity, CONTACT)), many=False)
    )


def test_fields_say_what_they_should() -> None:
    entity = entity_of(Contact, EveryField)
    written = orjson.loads(orjson.dumps(entity.serializer(dialect_named("sqlite")).after(values_of(entity, CONTACT))))
    assert written["ID"] == 7
    assert (written["title"], written["nick"], written["shout"], written["loud"]) == (
        "Émile",
        "Émile",
        "ÉMILE",
        "Émile! (7)",
    )
    assert (written["balance"], written["rich"], written["rating_text"]) == ("5.00", False, "4.5")
    assert (written["born"], written["color"], written["color_value"]) == ("17/05/1980", "RED", 1)
    assert (written["greeting"], written["double"], written["constant"]) == ("Hello Émile", 14, 42)
    assert (written["place"], written["absent"]) == ({"x": 1, "y": 2}, "none")
    assert "secret" not in written
    assert written["password_hash"] == "x", "a schema that names a field wins"


class Hooked(EveryField):
    @pre_dump
    def prepare(self, obj: Any, **_: Any) -> Any:
        assert obj.id == 7
        return obj

    @post_dump
    def finish(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        data["name"] = data.pop("title").upper()
        return data


class OwnAttributes(EveryField):
    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        value = super().get_attribute(obj, attr, default)
        return f"<{value}>" if attr == "name" else value


@pytest.mark.parametrize(("schema", "name"), [(Hooked, "ÉMILE"), (OwnAttributes, "<Émile>")])
def test_a_schema_that_does_something_of_its_own_is_asked(schema: Any, name: str) -> None:
    entity = entity_of(Contact, schema)
    written = orjson.loads(same_as_schema(entity.serializer(dialect_named("sqlite")), values_of(entity, CONTACT)))
    assert name in (written.get("name"), written.get("title"))


def test_a_hook_that_fails_names_the_record() -> None:
    entity = entity_of(Contact, Hooked)
    with pytest.raises(SerializationError, match="contact/8: Hooked cannot dump it") as caught:
        entity.serializer(dialect_named("sqlite")).after(values_of(entity, {**CONTACT, "id": 8}))
    assert caught.value.record == "contact/8"


# -- what JSON cannot hold -----------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rating", math.nan),
        ("rating", -math.inf),
        ("balance", decimal.Decimal("NaN")),
        ("balance", decimal.Decimal("Infinity")),
        ("balance", "twelve"),
        ("data", {"a": [math.nan]}),
        ("data", {math.inf: 1}),
        ("data", {"a": 10**30 + 1}),
        ("data", {"a": "\ud800"}),
        ("data", object()),
        ("born", 5),
        ("ref", "no uuid"),
    ],
)
def test_a_value_that_json_cannot_hold_names_record_and_field_and_not_itself(key: str, value: Any) -> None:
    entity = entity_of(Contact)
    with pytest.raises(SerializationError) as caught:
        entity.serializer(dialect_named("postgresql")).after(values_of(entity, {**CONTACT, key: value}))
    assert (caught.value.record, caught.value.field) == ("contact/7", key)
    assert str(value) not in str(caught.value).replace("is NaN or infinite", "")


def test_a_lone_surrogate_is_left_to_orjson_and_blamed_on_its_field() -> None:
    entity = entity_of(Contact)
    serializer, values = entity.serializer(dialect_named("sqlite")), values_of(entity, {**CONTACT, "name": "\udcff"})
    with pytest.raises(TypeError):
        orjson.dumps(serializer.after(values))
    error = serializer.blame(values)
    assert (error.record, error.field) == ("contact/7", "name")


def test_an_unfit_old_value_does_not_keep_a_record_from_being_repaired() -> None:
    serializer = entity_of(Contact).serializer(dialect_named("sqlite"))
    assert serializer.before({"rating": math.nan, "name": "A"}) == {"name": "A"}


def test_a_whole_float_that_jsonb_gives_back_as_an_integer_is_a_float_again() -> None:
    entity = entity_of(Contact)
    after = entity.serializer(dialect_named("postgresql")).after(
        values_of(entity, {**CONTACT, "data": [10**22, True, (1, 2)]})
    )
    assert orjson.loads(orjson.dumps(after))["data"] == [1e22, True, [1, 2]]


# -- keys, old values, missing values ------------------------------------------


def test_a_single_key_is_itself_and_a_composite_one_a_list() -> None:
    contact, seat = entity_of(Contact), entity_of(Seat)
    assert contact.serializer(dialect_named("sqlite")).pk(values_of(contact, CONTACT)) == 7
    assert seat.serializer(dialect_named("sqlite")).pk(values_of(seat, {"row_": 12, "letter": "B"})) == [12, "B"]


@pytest.mark.parametrize(
    ("type_", "value", "key"),
    [
        (sa.Uuid(), uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (sa.LargeBinary(), b"\x00\xff", "AP8="),
        (sa.Date(), dt.date(2026, 1, 2), "2026-01-02"),
        (sa.DateTime(), dt.datetime(2026, 1, 2), "2026-01-02T00:00:00"),
        (sa.Numeric(10, 2), 5, "5.00"),
        (sa.Boolean(), True, True),
        (sa.String(9), column_values.Word("a"), "a"),
        (column_values.Cents(), column_values.Money(5), 5),
    ],
)
def test_a_key_of_any_type_is_plain_json(type_: Any, value: Any, key: Any) -> None:
    entity = Entities("t").for_table(sa.Table("t", sa.MetaData(), sa.Column("id", type_, primary_key=True)))
    assert entity is not None
    found = entity.serializer(dialect_named("postgresql")).pk([value])
    assert (found, type(found)) == (key, type(key))


def test_a_key_that_was_not_captured_is_an_error() -> None:
    entity = entity_of(Contact)
    with pytest.raises(SerializationError, match="contact"):
        entity.serializer(dialect_named("sqlite")).pk([MISSING] * len(entity.keys))


def test_old_values_are_a_partial_record_by_the_same_rules() -> None:
    serializer = entity_of(Contact).serializer(dialect_named("sqlite"))
    before = serializer.before({"balance": decimal.Decimal(1), "name": MISSING, "password_hash": "x", "data": (1,)})
    assert orjson.dumps(before) == b'{"balance":"1.00","data":[1]}'


def test_old_values_go_through_hooks_too() -> None:
    entity = entity_of(Contact, Hooked)
    assert entity.serializer(dialect_named("sqlite")).before({"rating": 1.0}) == {}, "this hook needs a whole record"

    class Masking(Schema):
        name = fields.String()
        rating = fields.Float()

        @post_dump
        def mask(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
            return {key: "***" if key == "name" else value for key, value in data.items()}

    entity = entity_of(Contact, Masking)
    assert entity.serializer(dialect_named("sqlite")).before({"name": "secret", "id": 3}) == {"name": "***"}


def test_what_was_not_captured_is_absent() -> None:
    entity = entity_of(Contact)
    values = [
        MISSING if key == "name" else value for key, value in zip(entity.keys, values_of(entity, CONTACT), strict=True)
    ]
    assert "name" not in orjson.loads(orjson.dumps(entity.serializer(dialect_named("sqlite")).after(values)))


def test_a_json_value_changed_later_does_not_reach_the_event() -> None:
    entity = entity_of(Contact)
    data = {"a": 1}
    after = entity.serializer(dialect_named("sqlite")).after(values_of(entity, {**CONTACT, "data": data}))
    data["a"] = 2
    assert orjson.loads(orjson.dumps(after))["data"] == {"a": 1}


def test_names_lead_from_attributes_to_fields() -> None:
    serializer = entity_of(Contact, EveryField).serializer(dialect_named("sqlite"))
    assert (serializer.names["id"], serializer.names["born"]) == ("ID", "born")
    assert "notes" not in serializer.names
    assert serializer.fields[:2] == ("ID", "title")
