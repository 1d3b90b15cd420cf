"""Services of other kinds than a plain one: async, Flask-SQLAlchemy, forking, on PostgreSQL and RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import Place

MODEL = """
import asyncio, os
import eventbus, sqlalchemy as sa, sqlalchemy.orm as orm
class Base(orm.DeclarativeBase): ...
class Item(Base):
    __tablename__ = "item"
    id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    count: orm.Mapped[int] = orm.mapped_column(default=0)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        place.environment["EVENTBUS_SERVICE"] = "shop"
        yield place


def items(**counts: int) -> dict[Any, Any]:
    return {key: {"id": key, "count": count} for key, count in counts.items()}


def test_an_async_service(place: Place) -> None:
    """Commits, a rollback and a cancelled task, all on one event loop that nothing blocks."""
    place.mirror()
    watch = place.watch()
    place.run(
        MODEL
        + """
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
engine = create_async_engine("sqlite+aiosqlite:///shop.sqlite3")
Session = async_sessionmaker(engine)
eventbus.install(Session)

async def forever(session):
    session.add(Item(id="cancelled"))
    await session.flush()
    await asyncio.Event().wait()

async def main():
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with Session.begin() as session:
        session.add_all([Item(id="a"), Item(id="b"), Item(id="c")])
    async with Session() as session:
        (await session.get_one(Item, "a")).count = 1
        await session.commit()
        await session.delete(await session.get_one(Item, "b"))
        await session.execute(sa.update(Item).where(Item.id == "c").values(count=7))
        await session.commit()
        session.add(Item(id="rolled-back"))
        await session.flush()
        await session.rollback()
    async with Session() as session:
        task = asyncio.create_task(forever(session))
        await asyncio.sleep(0)
        while not session.in_transaction() or session.new:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with Session.begin() as session:
        session.add(Item(id="last"))
    await engine.dispose()

asyncio.run(main())
"""
    )
    events = [(event.pk, event.op) for event in watch.events_until("last")]
    assert sorted(events[:3]) == [("a", "c"), ("b", "c"), ("c", "c")]
    assert sorted(events[3:]) == [("a", "u"), ("b", "d"), ("c", "u")]
    place.eventually_records("shop/item", items(a=1, c=7, last=0))


def test_flask_sqlalchemy(place: Place) -> None:
    """`db.session` as it is, one request after another on the same registry."""
    place.mirror()
    place.run("""
        import eventbus
        from flask import Flask
        from flask_sqlalchemy import SQLAlchemy

        db = SQLAlchemy()

        class Item(db.Model):
            id = db.Column(db.String, primary_key=True)
            count = db.Column(db.Integer, default=0)

        app = Flask(__name__)
        app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///shop.sqlite3"
        db.init_app(app)
        eventbus.install(db.session)

        @app.post("/<key>/<int(signed=True):count>")
        def put(key, count):
            db.session.merge(Item(id=key, count=count))
            db.session.flush()
            if count < 0:
                raise ValueError(count)
            db.session.commit()
            return "done"

        with app.app_context():
            db.create_all()
        client = app.test_client()
        for path, status in (("/a/1", 200), ("/b/2", 200), ("/a/-1", 500), ("/a/3", 200)):
            assert client.post(path).status_code == status
        with app.app_context():
            db.engine.dispose()
    """)
    place.eventually_records("shop/item", items(a=3, b=2))


def test_parent_and_child_of_a_fork_both_go_on(place: Place) -> None:
    """The bus was used before the fork, as under gunicorn --preload; the child ends like a worker does."""
    place.mirror()
    place.run(
        MODEL
        + """
engine = sa.create_engine("sqlite:///shop.sqlite3")
Base.metadata.create_all(engine)
Session = orm.sessionmaker(engine)
bus = eventbus.install(Session)

def put(*keys):
    for key in keys:
        with Session.begin() as session:
            session.add(Item(id=key))

put("before")
bus.flush()
put("waiting")
engine.dispose()
children = []
for name in ("one", "two"):
    child = os.fork()
    if child == 0:
        put(*(f"{name}-{number}" for number in range(10)))
        bus.flush(60)
        os._exit(0)
    children.append(child)
put(*(f"parent-{number}" for number in range(10)))
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""
    )
    numbered = {f"{name}-{number}": 0 for name in ("one", "two", "parent") for number in range(10)}
    place.eventually_records("shop/item", items(before=0, waiting=0, **numbered))


def test_on_postgresql_and_rabbitmq(tmp_path: Path, unique: str, rabbitmq_url: str, postgres_db: str) -> None:
    """The same ten lines; all that differs is in the environment."""
    with Place(tmp_path, url=rabbitmq_url, name=unique) as place:
        place.environment |= {"EVENTBUS_SERVICE": "shop", "DATABASE_URL": postgres_db}
        place.mirror()
        watch = place.watch()
        place.run(
            MODEL
            + """
engine = sa.create_engine(os.environ["DATABASE_URL"])
Base.metadata.create_all(engine)
Session = orm.sessionmaker(engine)
eventbus.install(Session)
with Session() as session:
    session.add_all([Item(id="a"), Item(id="b"), Item(id="c")])
    session.commit()
    session.get(Item, "a").count = 1
    with session.begin_nested():
        session.delete(session.get(Item, "b"))
    nested = session.begin_nested()
    session.delete(session.get(Item, "c"))
    session.flush()
    nested.rollback()
    session.commit()
    with session.begin_nested():
        session.add(Item(id="released"))
    session.rollback()
    session.add(Item(id="last"))
    session.commit()
"""
        )
        events = [(event.pk, event.op) for event in watch.events_until("last")]
        assert sorted(events[:3]) == [("a", "c"), ("b", "c"), ("c", "c")]
        assert sorted(events[3:]) == [("a", "u"), ("b", "d")]
        place.eventually_records("shop/item", items(a=1, c=0, last=0))
