"""The contract of a service: its documents describe its real events, and tell which changes break readers."""

from __future__ import annotations

import copy
import enum
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from hypothesis import given
from jsonschema import Draft202012Validator
from marshmallow import Schema, fields
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker

from eventbus import install
from eventbus.contract.asyncapi import describe
from eventbus.contract.command import main
from eventbus.contract.compatibility import breaking
from eventbus.contract.json_schema import Describer
from eventbus.errors import ConfigurationError
from eventbus.events.change import MISSING
from eventbus.publishers.memory import MemoryPublisher
from eventbus.records.columns import dialect_named
from eventbus.records.entities import Entities
from tests.support import column_values


class Base(DeclarativeBase): ...


class State(enum.Enum):
    open = 1
    shut = 2


class Team(Base):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    state: Mapped[State]
    api_token: Mapped[str | None]
    members: Mapped[list[Member]] = relationship(back_populates="team")


class Member(Base):
    __tablename__ = "member"
    team_id: Mapped[int] = mapped_column(sa.ForeignKey("team.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[Any] = mapped_column(sa.JSON)
    team: Mapped[Team] = relationship(back_populates="members")


class TeamSchema(Schema):
    id = fields.Integer()
    name = fields.String(attribute="title", data_key="label")
    count = fields.Method("count_members")
    motto = fields.Nested({"text": fields.String(allow_none=True), "year": fields.Integer()}, allow_none=True)

    def count_members(self, team: Any) -> int:
        return 3


def document(
    schemas: dict[Any, Any] | None = None, models: Any = (Team, Member), *, batches: bool = False
) -> dict[str, Any]:
    entities = Entities("crm", schemas=schemas)
    found = [entity for model in models if (entity := entities.for_mapper(sa.inspect(model)))]
    described = describe("crm", found, exchange="eventbus", dialect="sqlite", version="1.0.0", batches=batches)
    return json.loads(json.dumps(described))  # type: ignore[no-any-return]


def validator(described: dict[str, Any], key: str) -> Draft202012Validator:
    schema = described["components"]["schemas"][key]
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture
def events() -> Iterator[list[bytes]]:
    """The bodies of real events: created, updated, deleted."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)
    made, publisher = sessionmaker(engine), MemoryPublisher()
    with install(made, service="crm", outbox=False, publisher=publisher) as installed:
        with made.begin() as session:
            session.add(Team(id=1, title="a", state=State.open, members=[Member(number=2, data={"x": [1, None]})]))
        with made.begin() as session:
            session.get_one(Team, 1).title = "b"
        with made.begin() as session:
            session.delete(session.get_one(Member, (1, 2)))
        installed.flush()
        yield [message.body for message in publisher.messages]
    engine.dispose()


def test_real_events_are_as_the_document_says(events: list[bytes]) -> None:
    described = document()
    assert len(events) == 4
    for body in events:
        event = orjson.loads(body)
        validator(described, event["type"]).validate(event)


@pytest.mark.parametrize(
    ("path", "lie"),
    [
        (("data", "after", "title"), 5),
        (("data", "after", "state"), "ajar"),
        (("data", "pk"), [1]),
        (("data", "op"), "d"),
        (("source",), "/erp"),
        (("sequence",), "7"),
        (("data", "after", "id"), None),
    ],
)
def test_what_is_no_such_event_is_told_apart(events: list[bytes], path: tuple[str, ...], lie: Any) -> None:
    event = orjson.loads(events[0])
    assert event["type"] == "crm.team.created"
    inner = event
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = lie
    assert not validator(document(), "crm.team.created").is_valid(event)


def test_what_stays_home_is_not_in_the_document() -> None:
    assert "api_token" not in json.dumps(document())


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def test_every_value_of_every_column_type_is_as_its_schema_says(dialect: str) -> None:
    entity = Entities("zoo").for_table(column_values.table_for(dialect, sa.MetaData()))
    assert entity is not None
    serializer = entity.serializer(dialect_named(dialect))
    schema = Describer().record(serializer.schema)
    assert set(schema["properties"]) == set(entity.published)
    checks = Draft202012Validator(schema)

    @given(column_values.rows(dialect))
    def holds(row: dict[str, Any]) -> None:
        values = (1, *(row.get(key, MISSING) for key in entity.keys[1:]))
        checks.validate(orjson.loads(orjson.dumps(serializer.after(values))))

    holds()


def test_a_schema_of_your_own_is_described_by_its_fields() -> None:
    described = document({Team: TeamSchema}, [Team])["components"]["schemas"]["crm.team.created"]
    shown = described["properties"]["data"]["properties"]["after"]["properties"]
    assert shown["label"] == {"type": "string"}
    assert shown["count"] == {}
    assert "null" in json.dumps(shown["motto"])
    assert "year" in json.dumps(shown["motto"])


def test_a_service_that_sends_batches_says_so(events: list[bytes]) -> None:
    key = "crm.team.created"
    described = document(batches=True)
    assert set(described["channels"][key]["messages"]) == {key, f"{key}.batch"}
    several = described["components"]["messages"][f"{key}.batch"]
    assert several["contentType"] == "application/cloudevents-batch+json"
    created = [event for body in events if (event := orjson.loads(body))["type"] == key]
    schema = {**several["payload"], "components": described["components"]}
    Draft202012Validator(schema).validate(created * 2)
    assert not Draft202012Validator(schema).is_valid(created)
    assert f"{key}.batch" not in document()["components"]["messages"]


@pytest.mark.parametrize("batches", [False, True])
def test_every_reference_in_the_document_leads_somewhere(batches: bool) -> None:
    described = document(batches=batches)
    references = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            references.update([value["$ref"]] if "$ref" in value else [])
            for each in value.values():
                collect(each)
        if isinstance(value, list):
            for each in value:
                collect(each)

    collect(described)
    assert references
    for reference in references:
        found: Any = described
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def record_of(schema: dict[str, Any]) -> dict[str, Any]:
    data = schema["properties"]["data"]["properties"]
    found: dict[str, Any] = data["before"].get("properties") or data["after"]["properties"]
    return found


def changed(change: Any) -> list[str]:
    old = document()
    new = copy.deepcopy(old)
    for schema in new["components"]["schemas"].values():
        if schema["title"].startswith("crm.team."):
            change(record_of(schema))
    return breaking(old, new)


def test_nothing_breaks_where_nothing_changed() -> None:
    assert breaking(document(), document()) == []


def test_more_breaks_nobody() -> None:
    assert changed(lambda properties: properties.update(more={"type": "string"})) == []
    assert breaking(document(models=[Team]), document()) == []


def test_less_null_and_fewer_choices_break_nobody() -> None:
    old, new = document(), document()
    for schema in old["components"]["schemas"].values():
        properties = record_of(schema)
        if "title" in properties:
            properties["title"] = {"type": ["string", "null"]}
            properties["state"] = {"type": "string", "enum": ["open", "shut", "ajar"]}
    assert breaking(old, new) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda properties: properties.pop("title"), "crm.team.updated: field title is gone"),
        (
            lambda properties: properties.update(title={"type": ["string", "null"]}),
            "crm.team.updated: field title may be null now, was string",
        ),
        (
            lambda properties: properties.update(id={"type": "number"}),
            "crm.team.updated: field id may be number now, was integer",
        ),
        (
            lambda properties: properties.update(title={}),
            "crm.team.updated: field title may be anything now, was string",
        ),
        (
            lambda properties: properties["state"].update(enum=["open", "shut", "ajar"]),
            "crm.team.updated: field state may be ajar too now",
        ),
        (
            lambda properties: properties["state"].pop("enum"),
            "crm.team.updated: field state may be any text now, was one of open, shut",
        ),
    ],
)
def test_what_breaks_readers_is_named(change: Any, told: str) -> None:
    assert told in changed(change)


def test_an_event_that_is_gone_breaks_readers() -> None:
    assert "crm.member.deleted: is not published any more" in breaking(document(), document(models=[Team]))


def test_batches_break_readers_of_single_messages_and_not_the_other_way_round() -> None:
    told = "crm.team.updated: comes as application/cloudevents-batch+json too now, was application/cloudevents+json"
    assert told in breaking(document(), document(batches=True))
    assert breaking(document(batches=True), document()) == []


@pytest.mark.parametrize("other", [{}, {"components": []}, {"components": {"schemas": {"a": {}}}}])
def test_what_is_no_document_is_refused(other: Any) -> None:
    with pytest.raises(ConfigurationError, match="no document that `eventbus schema` wrote"):
        breaking(other, document())


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`shop:Session` and `shop:Base`, importable in the working directory."""
    (tmp_path / "shop_contract.py").write_text(
        """
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
import eventbus
from eventbus.testing import MemoryPublisher

class Base(DeclarativeBase): ...
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int]
    card_number: Mapped[str | None]

Session = sessionmaker(sa.create_engine("sqlite://"))
bus = eventbus.install(Session, service="shop", outbox=False, publisher=MemoryPublisher())
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import shop_contract  # type: ignore[import-not-found]  # noqa: PLC0415  just written

    yield
    shop_contract.bus.close()
    del sys.modules["shop_contract"]


ASKED = ["shop_contract:Session", "--models", "shop_contract:Base"]


def test_the_command_prints_the_document_and_checks_against_it(
    service: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(ASKED) == 0
    printed = capsys.readouterr().out
    assert "shop.order.created" in json.loads(printed)["channels"]
    old = tmp_path / "events.json"
    old.write_text(printed)
    assert main([*ASKED, "--check", str(old)]) == 0
    old.write_text(printed.replace('"total"', '"amount"'))
    assert main([*ASKED, "--check", str(old)]) == 1
    assert "shop.order.created: field amount is gone" in capsys.readouterr().out
    old.write_text("no JSON")
    assert main([*ASKED, "--check", str(old)]) == 2


def test_the_command_lists_what_goes_out_and_what_stays_home(service: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "--columns"]) == 0
    shown = capsys.readouterr().out
    assert "goes out:   id, total" in shown
    assert "stays home: card_number (looks like a secret)" in shown
