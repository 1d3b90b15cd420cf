"""Types are asked with the engine's own dialect and serializers; an event shows what the table holds."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from eventbus.records.schemas.column_types import field_for
from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Lowered(sa.TypeDecorator[Any]):
    """Notes whom it is asked by; knows SQLite alone."""

    impl = sa.String
    cache_ok = True
    asked: list[Dialect] = []  # noqa: RUF012 - of all its objects

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        self.asked.append(dialect)
        if dialect.name != "sqlite":
            raise NotImplementedError(dialect.name)
        return dialect.type_descriptor(sa.String(20))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        self.asked.append(dialect)
        return value and value.lower()


class Guid(sa.TypeDecorator[Any]):
    """UUIDs and their texts, as bytes."""

    impl = sa.BINARY(16)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else uuid.UUID(str(value)).bytes

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else uuid.UUID(bytes=value)


class Packed(sa.TypeDecorator[Any]):
    """Declared as text; bytes here."""

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return sa.LargeBinary()


class Mirrored(sa.TypeDecorator[Any]):
    """Kept backwards, which only SQL knows: a stand-in for what a database encrypts."""

    impl = sa.Text
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.literal("kept:", sa.Text).concat(bindvalue)

    def column_expression(self, column: Any) -> Any:
        return sa.func.substr(column, 6, type_=sa.Text)


class Author(Base):
    __tablename__ = "author"

    id: Mapped[uuid.UUID] = mapped_column(Guid, primary_key=True, default=uuid.uuid4)


class Book(Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[Any | None] = mapped_column(Guid, sa.ForeignKey("author.id"), nullable=True)
    mail: Mapped[str | None] = mapped_column(Lowered)
    packed: Mapped[bytes | None] = mapped_column(Packed)
    hidden: Mapped[str | None] = mapped_column(Mirrored)
    shown: Mapped[str | None] = mapped_column(Mirrored, info={"eventbus": True})
    data: Mapped[Any | None] = mapped_column(sa.JSON)
    amount: Mapped[Any | None] = mapped_column(sa.Numeric(10, 2))
    number: Mapped[Any | None] = mapped_column(sa.Integer)
    text: Mapped[Any | None] = mapped_column(sa.String(20))
    at: Mapped[Any | None] = mapped_column(sa.DateTime)
    day: Mapped[Any | None] = mapped_column(sa.Date)
    time: Mapped[Any | None] = mapped_column(sa.Time)
    took: Mapped[Any | None] = mapped_column(sa.Interval)


Maker = Callable[..., tuple[sessionmaker[Any], Recording]]


@pytest.fixture
def make() -> Iterator[Maker]:
    made: list[tuple[Any, Recording]] = []

    def make(**options: Any) -> tuple[sessionmaker[Any], Recording]:
        engine = proper_engine("sqlite://", poolclass=sa.StaticPool, **options)
        Base.metadata.create_all(engine)
        maker = sessionmaker(engine)
        made.append((engine, Recording(maker)))
        return maker, made[-1][1]

    yield make
    for engine, recording in made:
        recording.uninstall()
        engine.dispose()


def test_a_type_is_asked_with_the_dialect_of_its_engine_alone(make: Maker) -> None:
    Lowered.asked.clear()
    maker, recording = make()
    with maker.begin() as session:
        session.add(Book(id=1, mail="A@B"))
    assert recording.take()[0].after["mail"] == "a@b"  # type: ignore[index]
    with maker.begin() as session:
        session.execute(sa.update(Book).values(mail="C@D"))
    assert recording.take()[0].after["mail"] == "c@d"  # type: ignore[index]
    assert set(map(id, Lowered.asked)) == {id(maker.kw["bind"].dialect)}


def test_uuids_kept_as_bytes_are_texts_keys_and_references_alike(make: Maker) -> None:
    maker, recording = make()
    key = uuid.uuid4()
    with maker.begin() as session:
        session.add_all([Author(id=key), Book(id=1, author_id=str(key))])
    author, book = recording.take()
    assert author.pk == author.after["id"] == book.after["author_id"] == str(key)  # type: ignore[index]
    field: Any = field_for(Guid(), maker.kw["bind"].dialect)
    assert field.deserialize(str(key)) == key


def test_what_is_binary_on_this_database_stays_home(make: Maker) -> None:
    maker, recording = make()
    with maker.begin() as session:
        session.add(Book(id=1, packed=b"p"))
    assert "packed" not in recording.take()[0].after  # type: ignore[operator]


def test_what_sql_makes_of_a_column_never_leaves(make: Maker) -> None:
    maker, recording = make()
    with maker.begin() as session:
        session.add(Book(id=1, hidden="clear", shown="clear"))
    with maker.begin() as session:
        session.execute(sa.update(Book).values(hidden="plain", shown="plain"))
    with maker.begin() as session:
        book = session.get_one(Book, 1)
        assert (book.hidden, book.shown) == ("plain", "plain")
        book.hidden = book.shown = "open"
    with maker.begin() as session:
        session.delete(session.get_one(Book, 1))
    events = recording.take()
    assert [event.after and event.after["shown"] for event in events] == ["kept:clear", "kept:plain", "kept:open", None]
    assert not any("hidden" in {**(event.after or {}), **(event.before or {})} for event in events)
    old = [event.before["shown"] for event in events if event.before and "shown" in event.before]
    assert set(old) <= {"kept:clear", "kept:plain", "kept:open"}


@pytest.mark.parametrize(
    ("value", "other"),
    [(dt.datetime(2024, 1, 2, 3), str), (decimal.Decimal("1.50"), str), ({1, 2}, sorted)],  # noqa: DTZ001
    ids=["datetime", "decimal", "set"],
)
def test_the_engines_serializer_decides_what_is_stored_in_json(make: Maker, value: Any, other: Any) -> None:
    options = {
        "json_serializer": lambda document: json.dumps(document, default=other),
        "json_deserializer": lambda text: json.loads(text, parse_float=decimal.Decimal),
    }
    maker, recording = make(**options)
    with maker.begin() as session:
        session.add(Book(id=1, data={"value": value, "n": 1}))
    with maker.begin() as session:
        book = session.get_one(Book, 1)
        session.refresh(book)
        book.data = {"value": value, "n": 2}
    with maker.begin() as session:
        stored = json.loads(session.scalar(sa.select(sa.type_coerce(Book.data, sa.Text))))
    created, updated = recording.take()
    assert updated.after["data"] == stored  # type: ignore[index]
    assert created.after["data"] == updated.before["data"] == {**stored, "n": 1}  # type: ignore[index]


class Texts(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class Numbers(int):
    def __int__(self) -> int:
        return 7


class Amounts(decimal.Decimal):
    def quantize(self, *_: Any, **__: Any) -> Any:
        raise ArithmeticError


class Moments(dt.datetime):
    def isoformat(self, *_: Any, **__: Any) -> str:
        return "now"

    def date(self) -> Any:
        return "today"


class Days(dt.date):
    def isoformat(self) -> str:
        return "today"


class Times(dt.time):
    def isoformat(self, *_: Any, **__: Any) -> str:
        return "now"


class Spans(dt.timedelta):
    def __floordiv__(self, other: Any) -> Any:
        return other.total_nanoseconds

    __truediv__ = __divmod__ = __floordiv__


SUBCLASSES = [
    ("text", Texts("a"), "a"),
    ("number", Numbers(5), 5),
    ("amount", Amounts("1.5"), "1.50"),
    ("at", Moments(2024, 1, 2, 3), "2024-01-02T03:00:00"),
    ("day", Moments(2024, 1, 2, 3), "2024-01-02"),
    ("day", Days(2024, 1, 2), "2024-01-02"),
    ("time", Times(3, 4), "03:04:00"),
    ("took", Spans(seconds=5, microseconds=7), "PT5.000007S"),
]


@pytest.mark.parametrize(("key", "value", "shown"), SUBCLASSES, ids=lambda value: type(value).__name__)
def test_a_value_of_a_subclass_is_what_it_is_a_kind_of(make: Maker, key: str, value: Any, shown: Any) -> None:
    maker, recording = make()
    entity = recording.entities.for_mapper(sa.inspect(Book))
    assert entity is not None
    serializer = entity.serializer(maker.kw["bind"].dialect)
    row: list[Any] = [None] * len(entity.keys)
    row[entity.positions["id"]], row[entity.positions[key]] = 1, value
    assert orjson.loads(orjson.dumps(serializer.after(row)))[key] == shown


class Light(enum.Enum):
    RED = "stop"
    GREEN = "go"
    EMERALD = "go"  # noqa: PIE796 - an alias


class Crossing(Base):
    __tablename__ = "crossing"

    id: Mapped[int] = mapped_column(primary_key=True)
    by_name: Mapped[Light] = mapped_column(sa.Enum(Light, native_enum=False))
    by_value: Mapped[Light] = mapped_column(
        sa.Enum(Light, native_enum=False, values_callable=lambda kind: [each.value for each in kind])
    )
    by_alias: Mapped[Light] = mapped_column(sa.Enum(Light, native_enum=False, omit_aliases=False, length=10))


def test_aliases_of_an_enumeration_are_what_sqlalchemy_makes_of_them(make: Maker) -> None:
    maker, recording = make()
    with maker.begin() as session:
        session.add(Crossing(id=1, by_name=Light.EMERALD, by_value=Light.EMERALD, by_alias=Light.EMERALD))
    with maker() as session:
        row = session.execute(sa.text("SELECT * FROM crossing")).mappings().one()
    (told,) = recording.take()
    assert told.after == dict(row)
