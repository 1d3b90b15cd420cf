"""Types that read NULL as something: whatever way a value comes, the event holds null where the row holds NULL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus
from eventbus.comparison.rows import Rows
from eventbus.publishers.memory import MemoryPublisher
from eventbus.snapshot import snapshot
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Settings(sa.TypeDecorator[Any]):
    """A dict in any case."""

    impl = sa.JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return {} if value is None else value


class Label(sa.TypeDecorator[Any]):
    """A default that the table does not know; its copies are made by its author."""

    impl = sa.String(20)
    cache_ok = True

    def __init__(self, default: str = "none") -> None:
        super().__init__()
        self.default = default

    def copy(self, **_: Any) -> Any:
        return Label(self.default)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return self.default if value is None else value


class Trusting(sa.TypeDecorator[Any]):
    """Cannot read NULL at all."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.lower()

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value.upper()


class Box(Base):
    __tablename__ = "box"

    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(default=0)
    settings: Mapped[Any | None] = mapped_column(Settings)
    label: Mapped[Any | None] = mapped_column(Label("plain"))
    word: Mapped[Any | None] = mapped_column(Trusting)


EMPTY = {"settings": None, "label": None, "word": None}


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def engine(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[sa.Engine]:
    file = f"sqlite:///{tmp_path / 'box.sqlite3'}"
    url = file if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_db")
    engine = proper_engine(url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("reread", [False, True])
def test_null_is_null_however_it_is_read(engine: sa.Engine, reread: bool) -> None:
    maker = sessionmaker(engine)
    publisher = MemoryPublisher()
    bus = eventbus.install(maker, service="crm", publisher=publisher, url=f"memory://{id(engine)}", reread=reread)
    with maker.begin() as session:
        session.add_all([Box(id=1), Box(id=2, settings=None, label=None, word=None)])
        session.execute(sa.insert(Box).values(id=3))
        session.execute(sa.insert(Box), [{"id": 4}, {"id": 5}])
        session.add(Box(id=6, settings={"a": 1}, label="b", word="c"))
    with maker.begin() as session:
        session.execute(sa.update(Box).where(Box.id < 3).values(size=1))
        session.execute(sa.update(Box), [{"id": key, "size": 1} for key in (3, 4)])
        session.execute(sa.update(Box).where(Box.id == 6).values(settings=sa.null(), label=None, word=None))
    if reread:
        with maker.begin() as session:
            session.get_one(Box, 1, options=[sa.orm.defer(Box.word)]).size = 2
    bus.flush(20)
    snapshot(bus, engine, models=Base)
    bus.close()
    for event in publisher.events:
        expected = {"settings": {"a": 1}, "label": "b", "word": "C"} if event.pk == 6 and event.op == "c" else EMPTY
        expected = {**expected, "word": "c"} if expected["word"] else expected
        after = event.after or {}
        assert {name: after[name] for name in expected} == expected, event
    (changed,) = (event for event in publisher.events if event.pk == 6 and event.op == "u")
    assert changed.before == {"settings": {"a": 1}, "label": "b", "word": "c"}
    pages = Rows(engine, bus.entities.for_mapper(sa.inspect(Box))).pages(10)
    compared = [json.loads(content + b"}")["fields"] for page in pages for content in page.contents]
    assert [{name: fields[name] for name in EMPTY} for fields in compared] == [EMPTY] * 6
