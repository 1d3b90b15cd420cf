"""What goes out of a record, what stays home and why; and the fields that carry values through JSON and back."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import logging
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError, fields, pre_dump
from marshmallow_sqlalchemy import SQLAlchemyAutoSchema, SQLAlchemySchema, auto_field
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from eventbus.errors import ConfigurationError
from eventbus.records.columns import dialect_named
from eventbus.records.entities import Entities
from eventbus.records.entity import Entity
from eventbus.records.schemas.column_types import field_for
from eventbus.records.schemas.derived import Converter
from eventbus.records.schemas.fields import Amount, Base64, Decorated, Duration, StoredEnum, WholeNumber
from eventbus.records.sensitive import is_secret, looks_secret


class Base(DeclarativeBase):
    pass


class Team(Base):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)


class User(Base):
    __tablename__ = "user"
    token: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    password_hash: Mapped[str]
    photo: Mapped[bytes]
    biography: Mapped[str] = deferred(mapped_column())
    settings: Mapped[Any] = mapped_column(sa.PickleType)
    salary: Mapped[int] = mapped_column(info={"eventbus": False})
    commit_hash: Mapped[str] = mapped_column(info={"eventbus": True})
    thumbnail: Mapped[bytes] = mapped_column(info={"eventbus": True})
    vector: Mapped[Any] = mapped_column(postgresql.TSVECTOR)
    team_id: Mapped[int] = mapped_column(sa.ForeignKey("team.id"))
    team: Mapped[Team] = relationship()


def entity_of(model: type[Base], schema: Any = None) -> Entity:
    entity = Entities("crm", schemas={model: schema} if schema else None).for_mapper(sa.inspect(model))
    assert entity is not None
    return entity


def test_a_schema_field_that_no_attribute_fills_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    class Slip(Schema):
        id = fields.Integer()
        naem = fields.String()
        title = fields.String(attribute="titel.short")
        kind = fields.String(dump_default="team")
        shout = fields.Function(lambda _: "!")
        metadata = fields.Raw()

    entities = Entities("crm", schemas={Team: Slip})
    for _ in range(2):
        entity = entities.for_mapper(sa.inspect(Team))
        assert entity is not None
        entity.serializer(dialect_named("sqlite"))
        entity.serializer(dialect_named("postgresql"))
    assert [text for text in caplog.messages if "left out" in text] == [
        "a field of a schema is left out: Slip.naem, as team has no attribute 'naem'",
        "a field of a schema is left out: Slip.title, as team has no attribute 'titel'",
    ]


def test_a_schema_that_finds_values_in_its_own_way_is_not_doubted(caplog: pytest.LogCaptureFixture) -> None:
    class Own(Schema):
        naem = fields.String()

        def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
            return "x"

    class Hooked(Schema):
        naem = fields.String()

        @pre_dump
        def rename(self, team: Team, **_: Any) -> dict[str, str]:
            return {"naem": "x"}

    for schema in (Own, Hooked):
        entity_of(Team, schema)
    assert "left out" not in caplog.text


# -- what looks like a secret --------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "passwd",
        "pwd",
        "user_password",
        "userPassword",
        "PASSWORD",
        "passwordhash",
        "hashed_password",
        "api_key",
        "apiKey",
        "API_KEY",
        "APIKey",
        "apikey",
        "secret",
        "client_secret",
        "secretKey",
        "token",
        "accessToken",
        "refresh_token",
        "csrf-token",
        "hash",
        "salt",
        "ssn",
        "card_number",
        "cardNo",
        "credit_card",
        "cvv",
        "pin_code",
        "otp",
        "private_key",
        "privateKey",
        "encrypted_note",
        "iban",
        "totp_secret",
        "session_key",
        "pass2",
        *("ssh_key", "aes_key", "license_key", "gpgKey", "MASTER_KEY", "wifi-key", "sshkey", "hmac_key_2"),
        *("cookie", "session_cookie", "verification_code", "reset_code", "resetCodes", "one_time_code", "sms_code"),
        *("bank_account", "bankAccountNumber", "passport_number", "passportNo", "tax_id", "national_id"),
    ],
)
def test_secrets_are_known_by_the_words_of_their_name(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "name",
        "hashtag",
        "postcard",
        "discard",
        "discarded",
        "cardinal",
        "cardboard",
        "scorecard",
        "secretary",
        "secretariat",
        "tokenizer",
        "basalt",
        "salty",
        "passenger",
        "passport",
        "compass",
        "bypass",
        "pinned",
        "opinion",
        "spin",
        "key",
        "keyword",
        "public_key",
        "monkey",
        "privateer",
        "session_id",
        *("primary_key", "sort_key", "cache_key", "keyboard", "cookiecutter", "country_code", "zip_code", "code"),
        *("account", "bank", "bank_name", "passport_country", "tax", "tax_rate", "taxi_id", "time_code", "birth_date"),
    ],
)
def test_words_that_only_contain_one_are_not(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize(
    ("name", "type_", "foreign_key", "secret"),
    [
        ("has_password", sa.Boolean(), False, False),
        ("token_expires_at", sa.DateTime(), False, False),
        ("max_tokens", sa.Integer(), False, False),
        ("tokens_used", sa.Numeric(), False, False),
        ("card_id", sa.Integer(), True, False),
        ("card_id", sa.String(), True, True),
        ("pin", sa.Integer(), False, True),
        ("token", sa.Uuid(), False, True),
    ],
)
def test_what_a_column_can_hold_counts_too(name: str, type_: Any, foreign_key: bool, secret: bool) -> None:
    assert is_secret(name, type_, foreign_key=foreign_key) is secret


# -- what goes out -------------------------------------------------------------


def test_each_column_that_stays_home_says_why() -> None:
    entity = entity_of(User)
    assert entity.published == ("token", "name", "commit_hash", "thumbnail", "team_id")
    assert entity.withheld == {
        "password_hash": "looks like a secret",
        "photo": "binary",
        "biography": "deferred",
        "settings": "no JSON form for PickleType",
        "salary": 'info={"eventbus": False}',
        "vector": "no JSON form for TSVECTOR",
    }


def test_one_log_line_a_model_says_what_goes_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eventbus"):
        entity_of(User)
    lines = [record for record in caplog.records if getattr(record, "entity", "") == "user"]
    assert len(lines) == 1
    assert "password_hash" in str(vars(lines[0]))


def test_the_names_of_key_and_column_both_count() -> None:
    class Login(Base):
        __tablename__ = "login"
        id: Mapped[int] = mapped_column(primary_key=True)
        word: Mapped[str] = mapped_column("passwd")

    assert entity_of(Login).withheld == {"word": "looks like a secret"}


def test_a_decorated_type_is_judged_by_what_is_below() -> None:
    class Packed(TypeDecorator[bytes]):
        impl = sa.LargeBinary
        cache_ok = True

    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("blob", Packed))
    entity = Entities("crm").for_table(table)
    assert entity is not None
    assert entity.withheld == {"blob": "binary"}


# -- schemas of the user's -----------------------------------------------------


def test_a_schema_that_names_a_field_wins_and_what_it_does_not_name_stays_home() -> None:
    class UserSchema(Schema):
        name = fields.String()
        password_hash = fields.String()

    entity = entity_of(User, UserSchema)
    assert entity.published == ("name", "password_hash")
    assert entity.withheld["commit_hash"] == "not in UserSchema"


class Automatic(SQLAlchemyAutoSchema[User]):
    class Meta:
        model = User
        model_converter = Converter
        include_relationships = True
        include_fk = True
        exclude = ("settings", "vector")


def test_what_an_automatic_schema_derives_by_itself_is_not_named() -> None:
    entity = entity_of(User, Automatic)
    assert {"token", "name", "commit_hash", "thumbnail", "team_id"} == set(entity.published)
    assert entity.withheld["password_hash"] == "looks like a secret"
    assert "team" not in entity.serializer(dialect_named("sqlite")).fields, "relationships are left out"


def test_what_an_automatic_schema_declares_or_lists_is_named() -> None:
    class Declaring(Automatic):
        photo = Base64()

    class Listing(SQLAlchemyAutoSchema[User]):
        class Meta:
            model = User
            model_converter = Converter
            fields = ("token", "password_hash")

    class Plain(SQLAlchemySchema[User]):
        class Meta:
            model = User

        token = auto_field()
        password_hash = auto_field()

    class After(SQLAlchemyAutoSchema[User]):
        class Meta:
            model = User
            model_converter = Converter
            exclude = ("settings", "vector")

        password_hash = auto_field()

    assert "password_hash" in entity_of(User, After).published
    assert "password_hash" in entity_of(User, Listing).published
    assert "password_hash" in entity_of(User, Plain).published
    assert "password_hash" in entity_of(User, Automatic(only=("password_hash", "token"))).published
    assert "password_hash" not in entity_of(User, Declaring).published


def test_what_is_no_schema_is_refused() -> None:
    class NeedsMore(Schema):
        def __init__(self, language: str) -> None:
            super().__init__()

    for wrong in (NeedsMore, int, "ContactSchema"):
        with pytest.raises(ConfigurationError, match="user"):
            entity_of(User, wrong)


# -- fields --------------------------------------------------------------------


class Level(enum.Enum):
    LOW = "l"
    HIGH = "h"


@pytest.mark.parametrize(
    ("field", "value", "json"),
    [
        (Amount(2), decimal.Decimal("-0.005"), "-0.01"),
        (Amount(2), decimal.Decimal("1E+30"), "1" + "0" * 30 + ".00"),
        (Amount(None), decimal.Decimal("1E-10"), "0.0000000001"),
        (Amount(40), decimal.Decimal(1) / 3, "0.3333333333333333333333333333000000000000"),
        (Base64(), b"\x00\xff", "AP8="),
        (Duration(), dt.timedelta(days=3, hours=4, seconds=6, milliseconds=500), "P3DT4H6.5S"),
        (Duration(), dt.timedelta(0), "PT0S"),
        (Duration(), dt.timedelta.min, "-P999999999D"),
        (StoredEnum({"LOW": Level.LOW, "HIGH": Level.HIGH}), Level.HIGH, "HIGH"),
        (WholeNumber(), 2**63 - 1, 2**63 - 1),
    ],
)
def test_fields_write(field: Any, value: Any, json: Any) -> None:
    assert field._serialize(value, None, None) == json


@pytest.mark.parametrize(
    ("field", "json"),
    [
        (Base64(), "not base64!"),
        (Base64(), 5),
        (Duration(), "P"),
        (Duration(), "PT"),
        (Duration(), "P1Y"),
        (Duration(), 5),
        (Duration(), "P9999999999D"),
        (StoredEnum({"LOW": Level.LOW}), "HIGH"),
        (StoredEnum({"LOW": Level.LOW}), None),
        (WholeNumber(), 1.5),
        (WholeNumber(), "x"),
        (Amount(2), "x"),
        (Amount(2), "NaN"),
    ],
)
def test_fields_refuse_what_they_would_not_write(field: Any, json: Any) -> None:
    with pytest.raises(ValidationError):
        field._deserialize(json, None, None)


@given(st.timedeltas())
def test_any_duration_survives(value: dt.timedelta) -> None:
    field = Duration()
    assert field._deserialize(field._serialize(value, None, None), None, None) == value


@given(st.binary())
def test_any_bytes_survive(value: bytes) -> None:
    field = Base64()
    assert field._deserialize(orjson.loads(orjson.dumps(field._serialize(value, None, None))), None, None) == value


def test_a_variant_counts_on_its_dialect_only() -> None:
    type_ = sa.JSON().with_variant(sa.LargeBinary(), "sqlite")
    assert isinstance(field_for(type_, dialect_named("sqlite")), Base64)
    assert not isinstance(field_for(type_, dialect_named("postgresql")), Base64)


def test_a_domain_is_what_it_is_made_of() -> None:
    assert isinstance(field_for(postgresql.DOMAIN("cents", sa.Numeric(9, 2)), dialect_named("postgresql")), Amount)


def test_a_decorator_of_pickles_has_no_field() -> None:
    class Pickled(TypeDecorator[Any]):
        impl = sa.PickleType
        cache_ok = True

    class Plain(TypeDecorator[str]):
        impl = sa.String
        cache_ok = True

    assert field_for(Pickled(), dialect_named("sqlite")) is None
    assert isinstance(field_for(Plain(), dialect_named("sqlite")), Decorated)


def test_words_of_an_applications_own_keep_columns_home() -> None:
    metadata = sa.MetaData()
    names = ("birthday", "date_of_birth", "birthPlace", "dateOfHire", "salary", "net_salary", "salaried", "phone")
    columns = [sa.Column(name, sa.Date if name.startswith("date") else sa.String(20)) for name in names]
    named = sa.Column("salary_band", sa.String(20), info={"eventbus": True})
    table = sa.Table("person", metadata, sa.Column("id", sa.Integer, primary_key=True), *columns, named)
    entity = Entities("crm", withhold=["birth", "birthday", "salary"]).for_table(table)
    assert entity is not None
    assert entity.published == ("id", "dateOfHire", "salaried", "phone", "salary_band")
    assert set(entity.withheld.values()) == {"withhold="}
    other = Entities("crm", withhold=["date of birth"]).for_table(table)
    assert other is not None
    assert set(other.withheld) == {"date_of_birth"}
