"""The command `eventbus-relay`: its use, its exit codes, and that no password shows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import kombu
import pytest

from eventbus import transports
from eventbus.outbox import ParkedRow, Store
from eventbus.relay import main
from tests.support.committing import Committer, as_process, body, committing, gone


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "EVENTBUS_URL", "EVENTBUS_ORDERING", "EVENTBUS_EXCHANGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Committer]:
    with committing(f"sqlite:///{tmp_path / 'app.sqlite3'}") as committer:
        yield committer


@pytest.fixture
def database(app: Committer) -> str:
    return str(app.engine.url)


@pytest.fixture
def parked(app: Committer) -> list[int]:
    """Two rows the broker did not take."""
    ids = [app.version(), app.version()]
    store = Store(app.engine)
    never = 10**17
    store.parked.add(
        [ParkedRow(each, 1, 1_763_884_800_000_000, never, 5, "unroutable: crm.x.y", body("tx")) for each in ids]
    )
    store.close()
    return ids


def messages(path: str) -> int:
    with transports.connection(f"sqlite:///{path}") as connection:
        queue = kombu.Queue("json-mirror", channel=connection.default_channel, no_declare=True)
        count = 0
        while (message := queue.get()) is not None:
            message.ack()
            count += 1
        return count


def test_once_delivers_and_ends(app: Committer, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    with as_process(gone()):
        app.commit(3)
    assert main(["--database", database, "--url", "sqlite:///broker.sqlite3", "--once"]) == 0
    assert "Delivered 3 events; 0 rows parked." in capsys.readouterr().err
    assert app.rows() == 0
    assert messages("broker.sqlite3") == 3


def test_the_environment_names_database_and_broker(
    app: Committer, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "url"
    secret.write_text(f"{database}\n")
    monkeypatch.setenv("DATABASE_URL_FILE", str(secret))
    monkeypatch.setenv("EVENTBUS_URL", "sqlite:///other.sqlite3")
    monkeypatch.setenv("EVENTBUS_ORDERING", "strict")
    app.commit(2)
    assert main(["--once"]) == 0
    assert messages("other.sqlite3") == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "Which database"),
        (["--database", "nonsense"], "--database"),
        (["--database", "sqlite:///typo.sqlite3", "--url", "amqp://h", "--once"], "no database file typo.sqlite3"),
        (["--database", "sqlite:///typo.sqlite3", "--parked", "list"], "no database file typo.sqlite3"),
        (["--database", "sqlite:///empty.sqlite3", "--url", "amqp://h", "--once"], "has no outbox"),
        (["--database", "sqlite:///empty.sqlite3", "--url", "memory://", "--once"], "memory://"),
        (["--database", "sqlite:///empty.sqlite3", "--once"], "Which broker? Give --url BROKER, or set EVENTBUS_URL"),
        (["--database", "sqlite:///empty.sqlite3", "--url", "http://x", "--once"], "sqlite:///file"),
        (["--database", "sqlite:///app.sqlite3", "--ordering", "odd"], "odd"),
        (["--database", "sqlite:///app.sqlite3", "--id", "3"], "--parked"),
        (["--database", "sqlite:///app.sqlite3", "--once", "--parked", "list"], "--once"),
        (["--unknown"], "--unknown"),
    ],
)
def test_wrong_use_is_exit_code_2_and_says_what_is_wrong(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.sqlite3").touch()
    assert main(arguments) == 2
    assert text in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["empty.sqlite3"], "no file is made by the way"


def test_nothing_is_delivered_to_a_broker_that_nobody_named_and_nobody_has(
    app: Committer, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is delivered is deleted: a broker in memory, or one made by the way, would swallow it."""
    with as_process(gone()):
        app.commit()
    assert main(["--database", database, "--once"]) == 2
    assert "there is none here" in capsys.readouterr().err
    monkeypatch.setenv("EVENTBUS_URL", "memory://")
    assert main(["--database", database, "--once"]) == 2
    assert app.rows() == 1
    assert not Path("eventbus-broker.sqlite3").exists()


def test_without_a_broker_named_it_is_the_embedded_one_that_is_there(app: Committer, database: str) -> None:
    for arguments in (["--url", "sqlite:///eventbus-broker.sqlite3"], []):
        with as_process(gone()):
            app.commit()
        assert main(["--database", database, "--once", *arguments]) == 0
    assert messages("eventbus-broker.sqlite3") == 2


def test_what_waits_when_it_is_stopped_is_counted(
    app: Committer, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_soon() -> Iterator[threading.Event]:
        stop = threading.Event()
        threading.Timer(1.0, stop.set).start()
        yield stop

    monkeypatch.setattr("eventbus.relay.command.stop_on_signals", contextmanager(stopped_soon))
    app.commit()
    with as_process(gone()):
        app.commit()
    assert main(["--database", database, "--url", "amqp://127.0.0.1:1//"]) == 0
    assert "Delivered 0 events; 0 rows parked; 2 rows wait.\n" in capsys.readouterr().err


def test_a_database_without_an_outbox_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped() -> Iterator[threading.Event]:
        stop = threading.Event()
        stop.set()
        yield stop

    monkeypatch.setattr("eventbus.relay.command.stop_on_signals", contextmanager(stopped))
    assert main(["--database", "sqlite:///typo.sqlite3", "--url", "amqp://127.0.0.1:1//"]) == 0
    assert "no outbox yet in sqlite:///typo.sqlite3; is it the right database?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_is_for_newcomers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "eventbus relay --database" in shown
    assert "DATABASE_URL" in shown


def test_a_database_that_cannot_be_reached_is_exit_code_1_without_its_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://me:hush@127.0.0.1:1/none?connect_timeout=1"
    assert main(["--database", url, "--url", "amqp://h", "--once"]) == 1
    shown = capsys.readouterr()
    assert "hush" not in shown.err + shown.out


def test_parked_rows_are_listed(database: str, parked: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--database", database, "--parked", "list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["ROW", *map(str, parked)]
    assert shown[1].endswith("5      1  unroutable: crm.x.y")
    assert "2025-11-23 08:00:00" in shown[1]


def test_parked_rows_are_made_due(
    app: Committer, database: str, parked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--database", database, "--parked", "retry", "--id", str(parked[0])]) == 0
    assert "Due now: 1 row." in capsys.readouterr().out
    with as_process(gone()):
        app.commit()
    assert main(["--database", database, "--url", "sqlite:///broker.sqlite3", "--once"]) == 0
    assert app.parked() == 0, "where one gets through, the others are tried too"


@pytest.mark.parametrize("what", [["list"], ["retry"], ["purge", "--yes"]])
def test_a_parked_row_that_is_not_there_is_named_and_nothing_done(
    app: Committer, database: str, parked: list[int], what: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--database", database, "--parked", *what, "--id", str(parked[0]), "--id", "99"]) == 1
    assert capsys.readouterr() == ("", "eventbus-relay: no parked row 99\n")
    assert app.parked() == 2


def test_parked_rows_are_purged_after_a_yes(
    app: Committer,
    database: str,
    parked: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("click.confirm", _decline)
    assert main(["--database", database, "--parked", "purge"]) == 1
    assert app.parked() == 2
    assert main(["--database", database, "--parked", "purge", "--id", str(parked[0]), "--yes"]) == 0
    assert capsys.readouterr().out == "1 row purged.\n"
    assert app.parked() == 1
    assert main(["--database", database, "--parked", "purge", "--yes"]) == 0
    assert app.parked() == 0


def _decline(*_: object, **__: object) -> None:
    raise click.Abort


def test_the_command_leaves_logging_as_it_found_it(database: str, app: Committer) -> None:
    before = list(logging.getLogger().handlers)
    app.commit()
    main(["--database", database, "--parked", "list"])
    assert logging.getLogger().handlers == before
