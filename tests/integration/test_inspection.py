"""`eventbus status`, `why` and `doctor` against a real chain: service, outbox, embedded broker, mirror."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from consumers.base import ConsumerSettings
from consumers.json_mirror.command import main as mirror
from eventbus import Bus, commands, install, muted
from eventbus.environment import KNOWN, unknown
from eventbus.outbox import ParkedRow, Store
from eventbus.outbox.reading.leases import RELAY
from tests.support.committing import as_process, gone
from tests.support.consuming import publish


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    phone: Mapped[str | None] = mapped_column(sa.String(40))
    api_token: Mapped[str | None] = mapped_column(sa.String(40))


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)


class World:
    """A service, its database, a broker's file and a mirror's directory, all in the working directory."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.sessions = sessionmaker(engine)
        self.bus: Bus = install(self.sessions, service="crm", exclude=[Note])

    def add(self, **values: Any) -> None:
        with self.sessions.begin() as session:
            session.add(Contact(**values))
        self.bus.flush()

    def mirrored(self) -> None:
        assert mirror(["--drain"]) == 0


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("EVENTBUS_") and "_TEST_" not in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("EVENTBUS_SERVICE", "crm")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///app.sqlite3")
    monkeypatch.setenv("EVENTBUS_MODELS", f"{__name__}:Base")
    monkeypatch.setenv("DATA_DIR", "data")
    engine = sa.create_engine("sqlite:///app.sqlite3")
    Base.metadata.create_all(engine)
    made = World(engine)
    made.add(id="first", phone="+32", api_token="s3cret")
    made.mirrored()
    yield made
    made.bus.close(timeout=0)
    engine.dispose()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = commands.main([*arguments])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last section of what `why` says; it must end with 1, as something is wrong."""
    code, shown = said(capsys, "why", *arguments)
    assert code == 1, shown
    return shown.partition("answer\n")[2]


def outbox_row(world: World, pk: str) -> int:
    """An event of that record in the outbox, of a process that is gone."""
    world.bus.uninstall()
    other = sessionmaker(world.engine)
    with as_process(gone()), install(other, service="crm", url="sqlite:///no/such/broker.sqlite3") as dead:
        with other.begin() as session:
            session.add(Contact(id=pk))
        dead.close(timeout=0)
    with world.engine.connect() as connection:
        return int(connection.scalar(sa.text("SELECT max(id) FROM eventbus_outbox")) or 0)


def test_where_all_is_well_the_file_shows_the_row(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = said(capsys, "why", "crm.contact", "first")
    assert code == 0, shown
    assert "the file shows the row" in shown


def test_a_column_that_stays_home_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "why", "crm.contact/first")[1]
    assert "these columns stay home: api_token (looks like a secret)" in shown
    assert "s3cret" not in shown


def test_a_model_that_is_left_out(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with world.sessions.begin() as session:
        session.add(Note(id=1))
    shown = answer(capsys, "crm.note", "1", "--session", f"{__name__}:CURRENT.sessions")
    assert "the service publishes no note" in shown


@pytest.fixture(autouse=True)
def _current(request: pytest.FixtureRequest) -> Iterator[None]:
    """`CURRENT` is what `--session` finds."""
    if "world" in request.fixturenames:
        globals()["CURRENT"] = request.getfixturevalue("world")
    yield
    globals().pop("CURRENT", None)


def test_a_row_that_was_written_while_muted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with world.sessions() as session, muted(session):
        session.add(Contact(id="quiet"))
        session.commit()
    shown = answer(capsys, "crm.contact", "quiet")
    assert "muted()" in shown
    assert "eventbus snapshot SESSION contact" in shown


def test_a_statement_that_was_not_captured(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with world.sessions.begin() as session:
        session.execute(sa.update(Contact).values(phone="+1"), execution_options={"eventbus_bulk": "ignore"})
    shown = answer(capsys, "crm.contact", "first")
    assert "row and file differ in phone" in shown
    assert "bulk='ignore'" in shown


def test_an_event_that_is_still_in_the_outbox(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    row = outbox_row(world, "late")
    shown = answer(capsys, "crm.contact", "late")
    assert "waits in the outbox since " in shown
    assert f"(row {row}): the broker does not have it" in shown
    assert "eventbus relay" in shown


def test_an_event_that_is_parked(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    row = outbox_row(world, "stuck")
    with world.engine.connect() as connection:
        payload = connection.scalar(sa.text("SELECT payload FROM eventbus_outbox"))
    store = Store(world.engine)
    store.parked.add([ParkedRow(row, 1, 1, 10**17, 5, "unroutable: crm.contact.created", payload)])
    store.close()
    shown = answer(capsys, "crm.contact", "stuck")
    assert f"is parked (row {row}): unroutable" in shown
    assert f"eventbus relay --parked retry --id {row}" in shown


def test_an_event_in_a_queue_that_nobody_reads(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add(id="waits")
    shown = answer(capsys, "crm.contact", "waits")
    assert "1 event in the queue json-mirror, which nobody reads" in shown
    assert "eventbus mirror" in shown


def test_an_event_that_is_a_dead_letter(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    body = b'{"specversion":"0.3","subject":"contact/spoilt"}'
    publish(ConsumerSettings(url="sqlite:///eventbus-broker.sqlite3"), [body])
    world.mirrored()
    shown = answer(capsys, "crm.contact", "spoilt")
    assert "is a dead letter: not a CloudEvents 1.0 event" in shown
    assert "eventbus dead-letters retry " in shown


def test_a_binding_that_keeps_it_out(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTBUS_BINDINGS", "billing.#")
    with world.sessions() as session, muted(session):
        session.add(Contact(id="other"))
        session.commit()
    shown = answer(capsys, "crm.contact", "other")
    assert "no binding of the queue json-mirror lets crm.contact in: billing.#" in shown
    assert "EVENTBUS_BINDINGS" in shown


def test_a_mirror_that_does_not_run(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with world.sessions() as session, muted(session):
        session.add(Contact(id="quiet"))
        session.commit()
    _age_heartbeat(3600)
    assert "does not run: its last sign of life was 3,60" in answer(capsys, "crm.contact", "quiet")


def test_a_file_that_somebody_spoilt(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = Path("data/crm/contact").glob("*.json")
    file.unlink()
    shown = answer(capsys, "crm.contact", "first")
    assert "its file data/crm/contact/first.json is gone" in shown
    assert "--verify --repair" in shown


def test_a_row_that_was_deleted_past_the_session(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with world.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM contact"))
    shown = answer(capsys, "crm.contact", "first")
    assert "the row is gone and the file is still there" in shown
    assert "eventbus compare --heal contact" in shown


def _age_heartbeat(seconds: float) -> None:
    (file,) = Path("data/.eventbus").glob("heartbeat*")
    then = time.time() - seconds
    os.utime(file, (then, then))


def test_status_is_0_where_all_is_well_and_1_with_what_to_do_where_not(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = said(capsys, "status", "--json")
    found = json.loads(shown)
    assert code == 0, shown
    assert (found["database"]["rows"], found["broker"]["waiting"], found["mirror"]["records"]) == (0, 0, 1)
    world.add(id="waits")
    code, shown = said(capsys, "status")
    assert code == 1
    assert "1 event in the queue json-mirror, which nobody reads" in shown
    assert "-> start the mirror" in shown


def test_status_says_that_a_mirror_is_dead(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    _age_heartbeat(61)
    code, shown = said(capsys, "status")
    assert code == 1
    assert "does not run" in shown


def test_why_believes_the_name_of_the_service_where_no_setting_says_it(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the service for `app`, and said that the record was published under another name."""
    monkeypatch.delenv("EVENTBUS_SERVICE")
    code, shown = said(capsys, "why", "crm.contact", "first")
    assert code == 0, shown
    assert "the file shows the row" in shown


@pytest.mark.parametrize("heal", [(), ("--heal",)])
def test_compare_does_not_guess_whose_records_they_are(
    world: World, heal: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As records of `app` all rows were missing, and --heal published all of them."""
    monkeypatch.delenv("EVENTBUS_SERVICE")
    code, shown = said(capsys, "compare", *heal)
    assert code == 2, shown
    assert "EVENTBUS_SERVICE=crm" in shown
    world.mirrored()
    assert [path.name for path in Path("data").iterdir() if path.is_dir() and path.name != ".eventbus"] == ["crm"]


def test_a_command_that_mends_names_the_directory_that_was_given(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands `eventbus mirror` would begin another mirror, in the directory `data`."""
    _age_heartbeat(61)
    Path("data").rename("my files")
    world.add(id="waits")
    _, shown = said(capsys, "status", "--data-dir", "my files")
    assert shown.count("`eventbus mirror --data-dir 'my files'`") == 2
    assert "`eventbus mirror`" not in shown


def test_status_says_what_is_left_in_the_outbox(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    outbox_row(world, "late")
    code, shown = said(capsys, "status")
    assert code == 1
    assert "1 row of processes that are gone" in shown


def test_a_relay_that_is_needed_and_does_not_run(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.bus.close()
    world.bus = install(world.sessions, service="crm", exclude=[Note], delivery="relay")
    monkeypatch.setenv("EVENTBUS_DELIVERY", "relay")
    code, shown = said(capsys, "doctor")
    assert code == 1
    assert "services leave publishing to the relay, and none runs here" in shown
    with world.sessions.begin() as session:
        session.add(Contact(id="waits"))
    code, shown = said(capsys, "status")
    assert code == 1
    assert "1 row for the relay, and none runs for this database" in shown
    assert "-> run `eventbus relay`" in shown
    code, shown = said(capsys, "why", "crm.contact", "waits")
    assert code == 1
    assert "start `eventbus relay`" in shown
    store = Store(sa.create_engine("sqlite:///app.sqlite3"))
    assert store.leases.take(RELAY, None)
    assert "a relay runs for this database" in said(capsys, "doctor")[1]
    found = json.loads(said(capsys, "status", "--json")[1])
    assert (found["database"]["for_relay"], found["database"]["relay"], found["database"]["orphaned"]) == (1, True, 0)
    store.close()


def test_the_doctor_finds_all_well(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = said(capsys, "doctor")
    assert code == 0, shown
    assert "crm.contact publishes id, phone; stays home: api_token" in shown
    assert "the outbox's tables are there" in shown


def test_the_doctor_says_that_the_name_of_the_service_is_a_guess(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "service crm, exchange" in said(capsys, "doctor")[1]
    monkeypatch.delenv("EVENTBUS_SERVICE")
    assert "service app (EVENTBUS_SERVICE is not set here)" in said(capsys, "doctor")[1]


def test_the_doctor_names_the_nearest_setting(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTBUS_QUEU", "x")
    code, shown = said(capsys, "doctor")
    assert code == 1
    assert "EVENTBUS_QUEU is set, and nobody reads it\n     -> did you mean EVENTBUS_QUEUE?" in shown


def test_a_broker_that_is_away_is_a_finding_without_a_password(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTBUS_URL", "amqp://guest:hunter2@127.0.0.1:1//")
    for command in (["status"], ["doctor"], ["why", "crm.contact", "first"]):
        _, shown = said(capsys, *command)
        assert "the broker cannot be reached" in shown
        assert "hunter2" not in shown


@pytest.mark.parametrize("arguments", [["crm"], ["crm.contact"], ["crm.contact", "[1"], [".contact", "1"]])
def test_what_names_no_record_is_wrong_use(
    world: World, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "why", *arguments)[0] == 2


def test_unknown_settings_are_told_with_the_nearest_name() -> None:
    names = ["EVENTBUS_URL", "EVENTBUS_URL_FILE", "EVENTBUS_BINDING", "EVENTBUS_XYZZY", "PATH", "EVENTBUS_TEST_X_URL"]
    assert list(unknown(names)) == [("EVENTBUS_BINDING", "EVENTBUS_BINDINGS"), ("EVENTBUS_XYZZY", None)]
    assert "EVENTBUS_HTTP" in KNOWN


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_the_doctor_knows_other_databases(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(request.getfixturevalue(f"{kind}_db"))
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with install(sessions, service="crm", url="memory://inspected") as bus:
        with sessions.begin() as session:
            session.add(Contact(id="a"))
        bus.close(timeout=0)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("EVENTBUS_URL", "amqp://guest:guest@127.0.0.1:1//")
    shown = said(capsys, "doctor")[1]
    assert "answers" in shown
    assert "the outbox's tables are there" in shown
    assert "the database's clock and this machine's agree" in shown
    engine.dispose()


def test_compare_finds_and_heals_beside_the_running_mirror_of_the_environment(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with world.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO contact (id) VALUES ('quiet')"))
        connection.execute(sa.text("UPDATE contact SET phone = '+99' WHERE id = 'first'"))
    _age_heartbeat(3600)
    code, shown = said(capsys, "compare", "--wait", "0")
    assert code == 1
    assert "different  crm.contact/first: phone\n" in shown
    assert "missing    crm.contact/quiet\n" in shown
    code, shown = said(capsys, "compare", "contact", "--wait", "0", "--heal", "--json")
    assert code == 1, "published, and the mirror that takes it in is stopped"
    assert json.loads(shown.splitlines()[-1])["published"] == 2
    world.mirrored()
    _age_heartbeat(3600)
    code, shown = said(capsys, "compare", "--against", "files", "--wait", "0")
    assert (code, shown) == (0, "2 rows compared: equal\n")
    assert said(capsys, "compare", "--against", "nowhere")[0] == 2
    assert said(capsys, "compare", "spaceship")[0] == 2
