"""What an object holds is not always what its row holds, nor is every value one that can be compared or copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import StaticPool
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from tests.support.recording import Recording
from tests.support.world import proper_engine


class Base(DeclarativeBase):
    pass


class Odd(sa.TypeDecorator[Any]):
    """Anything, kept as its text; what comes back is a text."""

    impl = sa.String(100)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else str(value)

    def compare_values(self, x: Any, y: Any) -> bool:
        return str(x) == str(y)


class Box(Base):
    __tablename__ = "box"

    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int | None]
    u: Mapped[str | None]
    odd: Mapped[Any | None] = mapped_column(Odd)
    data: Mapped[Any | None] = mapped_column(sa.JSON)


class Page(Base):
    __tablename__ = "page"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    revision: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": revision, "version_id_generator": False}  # noqa: RUF012


class Leaf(Base):
    """The database may count as well."""

    __tablename__ = "leaf"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    revision: Mapped[int] = mapped_column(server_default="1", server_onupdate=sa.FetchedValue())
    __mapper_args__ = {"version_id_col": revision, "version_id_generator": False}  # noqa: RUF012


class Spot(dict[str, Any]):
    """A dict that says what it hashes to."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash((self["x"], self["y"]))


class Spots(sa.TypeDecorator[Any]):
    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return f"{value['x']},{value['y']}"

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        x, y = value.split(",")
        return Spot(x=x, y=y)


class Place(Base):
    __tablename__ = "place"

    spot: Mapped[Any] = mapped_column(Spots, primary_key=True)
    name: Mapped[str | None]


@pytest.fixture
def maker() -> Iterator[sessionmaker[Session]]:
    engine = proper_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine, expire_on_commit=False)
    with maker.begin() as session:
        session.add_all([Box(id=1, n=1, u="a", data={"a": 1}), Page(id=1, text="a", revision=1)])
        session.add(Leaf(id=1, text="a", revision=1))
    yield maker
    engine.dispose()


@pytest.fixture
def recording(maker: Any) -> Iterator[Recording]:
    recording = Recording(maker)
    yield recording
    recording.uninstall()


def load(session: Session) -> Box:
    return session.get_one(Box, 1)


def refreshed(session: Session) -> Box:
    box = session.get_one(Box, 1)
    session.refresh(box)
    return box


@pytest.mark.parametrize("get", [load, refreshed])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("committed", [False, True], ids=["same transaction", "next transaction"])
def test_what_was_loaded_in_a_savepoint_that_is_rolled_back_is_not_believed(
    maker: Any, recording: Recording, get: Callable[[Session], Box], depth: int, committed: bool
) -> None:
    with maker() as session:
        savepoints = [session.begin_nested() for _ in range(depth)]
        session.execute(sa.update(Box).values(n=99, data={"b": 2}))
        box = get(session)
        for savepoint in savepoints[1:]:
            savepoint.commit()
        savepoints[0].rollback()
        assert box.n == 99, "as without us"
        if committed:
            session.commit()
        box.u = "x"
        session.commit()
        (event,) = recording.take()
        assert event.after == {"id": 1, "n": 1, "u": "x", "odd": None, "data": {"a": 1}}
        box.n = 5
        session.commit()
        (event,) = recording.take()
        assert event.after is not None
        assert (event.after["n"], event.before) == (5, {}), "what it was is not known"
        box.n = 6
        session.commit()
        (event,) = recording.take()
        assert event.before == {"n": 5}


def test_a_deletion_does_not_tell_of_a_savepoint_that_was_rolled_back(maker: Any, recording: Recording) -> None:
    with maker() as session:
        savepoint = session.begin_nested()
        session.execute(sa.update(Box).values(n=99))
        box = session.get_one(Box, 1)
        savepoint.rollback()
        session.delete(box)
        session.commit()
    (event,) = recording.take()
    assert event.before == {"id": 1, "u": "a", "data": {"a": 1}, "odd": None}


@pytest.mark.parametrize("model", [Page, Leaf])
def test_a_version_counter_of_the_applications_own_is_a_column_like_others(
    maker: Any, recording: Recording, model: Any
) -> None:
    with maker() as session:
        page = session.get_one(model, 1)
        for change in ({"revision": 2}, {"revision": 3, "text": "b"}, {"text": "c"}):
            for key, value in change.items():
                setattr(page, key, value)
            session.commit()
    told = [(event.after, event.before, sorted(event.changed)) for event in recording.take()]
    assert told == [
        ({"id": 1, "text": "a", "revision": 2}, {"revision": 1}, ["revision"]),
        ({"id": 1, "text": "b", "revision": 3}, {"revision": 2, "text": "a"}, ["revision", "text"]),
        ({"id": 1, "text": "c", "revision": 3}, {"text": "b"}, ["text"]),
    ]


class Stubborn:
    """Will not be compared, hashed or copied, and has the truth value of nothing."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError("not this one")

    __eq__ = __ne__ = __lt__ = __bool__ = __copy__ = __deepcopy__ = __reduce_ex__ = __getstate__ = _refuse


class Grudging(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("not this one")

    __iter__ = keys = values = copy = items


@pytest.mark.parametrize("make", [Stubborn, lambda text: Grudging(a=text)], ids=["stubborn", "grudging"])
def test_a_value_that_will_not_compare_hash_or_copy_costs_no_commit(
    maker: Any, recording: Recording, make: Callable[[str], Any]
) -> None:
    with maker() as session:
        box = session.get_one(Box, 1)
        for text in ("a", "b"):
            box.odd = make(text)
            session.flush()
        box.n = 2
        session.commit()
        session.delete(box)
        session.commit()
    updated, deleted = recording.take()
    assert updated.after is not None
    assert updated.after["odd"] == str(make("b"))
    assert deleted.op == "d"


def test_a_key_that_comes_as_text_is_the_rows_own(maker: Any, recording: Recording) -> None:
    with maker.begin() as session:
        session.execute(sa.text("UPDATE box SET n = 7"), execution_options={"eventbus_bulk": "ignore"})
        box = session.get_one(Box, "1", options=[sa.orm.load_only(Box.u)])
        box.u = "x"
    (event,) = recording.take()
    assert (event.pk, event.after) == (1, {"id": 1, "n": 7, "u": "x", "odd": None, "data": {"a": 1}})


def test_a_primary_key_is_the_value_that_hashes_and_no_copy_of_it(maker: Any, recording: Recording) -> None:
    with maker.begin() as session:
        session.add(Place(spot=Spot(x="a", y="b"), name="here"))
    with maker.begin() as session:
        (place,) = session.scalars(sa.select(Place))
        place.name = "there"
    with maker.begin() as session:
        (place,) = session.scalars(sa.select(Place))
        session.delete(place)
    assert [(event.op, event.pk) for event in recording.take()] == [("c", "a,b"), ("u", "a,b"), ("d", "a,b")]
