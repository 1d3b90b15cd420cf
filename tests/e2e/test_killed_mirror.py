"""kill -9 of the mirror in the middle of 5,000 messages, while somebody reads every file all the time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import PATIENCE, Place, reading_all
from tests.support.committing import eventually

ROWS = 2_500

SERVICE = f"""
import eventbus, sqlalchemy as sa, sqlalchemy.orm as orm
class Base(orm.DeclarativeBase): ...
class Item(Base):
    __tablename__ = "item"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    text: orm.Mapped[str]
engine = sa.create_engine("sqlite:///shop.sqlite3")
Base.metadata.create_all(engine)
Session = orm.sessionmaker(engine)
bus = eventbus.install(Session, service="shop")
for start in range(0, {ROWS}, 100):
    with Session.begin() as s:
        s.add_all(Item(id=n, text="é" * (n % 300)) for n in range(start, start + 100))
for start in range(0, {ROWS}, 100):
    with Session.begin() as s:
        for item in s.scalars(sa.select(Item).where(Item.id >= start, Item.id < start + 100)):
            if item.id % 10:
                item.text = f"{{item.id}} changed"
            else:
                s.delete(item)
bus.flush(60)
print(bus.stats().published)
"""


@pytest.fixture(params=["sqlite", "rabbitmq"])
def place(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Iterator[Place]:
    url = request.getfixturevalue("rabbitmq_url") if request.param == "rabbitmq" else ""
    with Place(tmp_path, url=url, name=unique if url else "") as place:
        place.environment["EVENTBUS_PREFETCH"] = "100"  # small batches: more places to be killed at
        yield place


def files(place: Place) -> int:
    return sum(1 for _ in (place.data_dir / "shop" / "item").glob("*.json"))


def changed(place: Place, key: int) -> bool:
    """Whether the second half of the messages has come so far."""
    path = place.data_dir / "shop" / "item" / f"{key}.json"
    return path.exists() and "changed" in path.read_text(encoding="utf-8")


def table(place: Place) -> dict[Any, Any]:
    with sqlite3.connect(place.directory / "shop.sqlite3") as connection:
        found = {key: {"id": key, "text": text} for key, text in connection.execute("SELECT id, text FROM item")}
    connection.close()
    return found


@pytest.mark.slow
def test_after_kill_9_in_the_middle_the_files_equal_the_table_and_every_file_is_whole_at_any_time(place: Place) -> None:
    mirror = place.mirror()
    mirror.stop()  # its queue is there now
    assert int(place.run(SERVICE)) == 2 * ROWS
    with reading_all(place.data_dir) as reads:
        for is_time in (
            lambda: files(place) > 0.1 * ROWS,
            lambda: files(place) > 0.5 * ROWS,
            lambda: changed(place, 1),
        ):
            mirror = place.mirror()
            eventually(is_time, PATIENCE)
            mirror.kill()
            assert not changed(place, ROWS - 1)  # there was more to come
        place.mirror()
        place.eventually_records("shop/item", expected := table(place))
    assert len(expected) == 0.9 * ROWS
    assert reads[0] > ROWS
