"""`python -m eventbus.snapshot`: what it says, and how it ends. What it publishes: `tests/integration`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from marshmallow import Schema, fields
from sqlalchemy import StaticPool, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import eventbus
from eventbus import snapshot as command
from eventbus.bus import Bus
from eventbus.events.envelope import decode
from eventbus.publishers import MemoryPublisher, Outcome
from eventbus.testing import capture_events

HERE = __name__
Session = sessionmaker()
Other = sessionmaker()
publisher = MemoryPublisher()


class Base(DeclarativeBase):
    pass


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)


class Team(Base):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file with seven rows, which the commands find in the environment."""
    engine = create_engine(f"sqlite:///{tmp_path / 'crm.sqlite3'}")
    Base.metadata.create_all(engine)
    Session.configure(bind=engine)
    with Session.begin() as session:
        session.add_all([*(Contact(id=f"c{number}") for number in range(5)), Team(id=1), Team(id=2)])
    monkeypatch.setattr(f"{HERE}.publisher", MemoryPublisher())
    bus = eventbus.install(Session, service="crm", publisher=publisher)
    monkeypatch.setenv("DATABASE_URL", engine.url.render_as_string())
    monkeypatch.setenv("EVENTBUS_MODELS", f"{HERE}:Base")
    yield engine.url.render_as_string()
    bus.close()
    engine.dispose()


def published() -> list[str]:
    return [decode(message.body).subject for message in publisher.messages]


@pytest.mark.usefixtures("database")
def test_the_command_publishes_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([f"{HERE}:Session", "--chunk", "2"]) == 0
    assert capsys.readouterr().out == "Published 7 object(s)\n"
    assert published() == [*(f"contact/c{number}" for number in range(5)), "team/1", "team/2"]


@pytest.mark.usefixtures("database")
def test_entities_may_be_named_and_it_may_be_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([f"{HERE}:Session", "team", "-q"]) == 0
    assert published() == ["team/1", "team/2"]
    assert capsys.readouterr() == ("", "")


def test_a_failed_run_says_where_to_go_on(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Session() as session:
        session.execute(text("ALTER TABLE team RENAME TO elsewhere"))
    assert command.main([f"{HERE}:Session"]) == 1
    told = "no such table: team; 5 objects published; go on with --after contact/c4; make the tables first"
    assert capsys.readouterr().err.startswith(f"python -m eventbus.snapshot: {database}: {told}")


@pytest.mark.parametrize(
    ("flushes", "arguments", "told"),
    [
        (0, [], "0 objects published; begin anew"),
        (0, ["--after", "contact/c0"], "0 objects published; go on with --after contact/c0"),
        (1, [], "2 objects published; go on with --after contact/c1"),
    ],
)
@pytest.mark.usefixtures("database")
def test_an_interrupted_run_counts_what_the_broker_confirmed_and_says_where_to_go_on(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flushes: int,
    arguments: list[str],
    told: str,
) -> None:
    confirmed = iter(range(flushes))

    def flush(*_: object) -> None:
        if next(confirmed, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Bus, "flush", flush)
    assert command.main([f"{HERE}:Session", "--chunk", "2", *arguments]) == 1
    assert capsys.readouterr().err.endswith(f"interrupted; {told}\n")


@pytest.mark.usefixtures("database")
def test_what_is_lost_in_direct_mode_is_neither_counted_nor_skipped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.answer = lambda each: Outcome.REFUSED if b"contact/c2" in each.body else Outcome.CONFIRMED
    direct = sessionmaker()
    monkeypatch.setattr(f"{HERE}.Direct", direct, raising=False)
    eventbus.install(direct, service="crm", outbox=False, publisher=publisher)
    assert command.main([f"{HERE}:Direct", "--chunk", "2"]) == 1
    told = capsys.readouterr().err
    assert "not taken by the broker: 1 event (refused: crm.contact.created); without an outbox they are lost" in told
    assert told.endswith("; 2 objects published; go on with --after contact/c1\n")
    publisher.answer = lambda _: Outcome.CONFIRMED
    assert command.main([f"{HERE}:Session", "--after", "contact/c1"]) == 0
    assert set(published()) == {*(f"contact/c{number}" for number in range(5)), "team/1", "team/2"}


def test_what_goes_out_is_what_the_installation_says_also_of_a_database_in_memory() -> None:
    class Loud(Schema):
        id = fields.Function(lambda contact: contact.id.upper())

    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with sessions.begin() as session:
        session.add_all([Contact(id="ab"), Team(id=1)])
    with capture_events(sessions, service="crm", schemas={Contact: Loud}, exclude=[Team]) as events:
        assert command.snapshot(events.bus, engine, models=Base).objects == 1
        assert [(event.op, event.after) for event in events] == [("r", {"id": "AB"})]
    engine.dispose()


def test_a_key_may_end_with_true_or_false() -> None:
    """As that of MLflow's metrics."""

    class Models(DeclarativeBase):
        pass

    class Metric(Models):
        __tablename__ = "metric"
        name: Mapped[str] = mapped_column(primary_key=True)
        is_nan: Mapped[bool] = mapped_column(primary_key=True)

    engine = create_engine("sqlite://", poolclass=StaticPool)
    Models.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with sessions.begin() as session:
        session.add_all([Metric(name=name, is_nan=is_nan) for name in "ab" for is_nan in (False, True)])
    with capture_events(sessions, service="crm") as events:
        assert command.snapshot(events.bus, engine, models=Models, chunk=1).objects == 4
        assert [event.pk for event in events] == [["a", False], ["a", True], ["b", False], ["b", True]]
    engine.dispose()


@pytest.mark.usefixtures("database")
def test_wrong_use_is_told_from_failure(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (
        [],
        ["nowhere:Session"],
        [f"{HERE}:Nothing"],
        [f"{HERE}:Other"],
        [f"{HERE}:Base"],
        [f"{HERE}:Session", "spaceship"],
        [f"{HERE}:Session", "--after", "spaceship/1"],
        [f"{HERE}:Session", "--chunk", "0"],
        [f"{HERE}:Session", "--models", f"{HERE}:Nothing"],
        [f"{HERE}:Session", "--database", "sqlite:///typo.sqlite3"],
    ):
        assert command.main(wrong) == 2, wrong
        assert capsys.readouterr().err
    assert published() == []
    assert not Path("typo.sqlite3").exists()
