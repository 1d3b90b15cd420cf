"""The outbox counted from outside, on every database, and the relay that shows it to Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from sqlalchemy import create_engine, update

from eventbus.outbox import ParkedRow, Store, tables
from eventbus.outbox.reading.census import Census, take_census
from eventbus.relay import Progress, main
from eventbus.relay.monitoring import Probe, pages
from tests.support.committing import Committer, as_process, body, committing, gone


@pytest.fixture
def app(database_url: str) -> Iterator[Committer]:
    with committing(database_url) as committer:
        yield committer


def test_waiting_parked_and_orphaned_rows_are_counted(app: Committer) -> None:
    kept = app.version()
    app.commit()
    with as_process(gone()):
        app.commit(3)
    with app.engine.begin() as connection:
        an_hour_ago = time.time_ns() // 1000 - 3_600_000_000
        connection.execute(update(tables.outbox).where(tables.outbox.c.id == kept).values(created_at=an_hour_ago))
    store = Store(app.engine)
    reason = "unroutable: crm.x.y"
    store.parked.add([ParkedRow(kept, 1, 1_763_884_800_000_000, 10**17, 5, reason, body("tx"))])
    store.close()
    census = take_census(app.engine)
    assert (census.tables, census.parked, census.reasons) == (True, 1, ((reason, 1),))
    assert (census.rows, census.orphaned) == (2, 1)
    assert census.oldest < 3000


def test_the_oldest_row_says_how_long_it_waits(app: Committer) -> None:
    version = app.version()
    with app.engine.begin() as connection:
        then = time.time_ns() // 1000 - 600_000_000
        connection.execute(update(tables.outbox).where(tables.outbox.c.id == version).values(created_at=then))
    assert 600 <= take_census(app.engine).oldest < 660


def test_a_database_without_an_outbox_is_no_error(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    assert take_census(engine) == Census(tables=False)
    engine.dispose()


def test_the_relay_shows_its_database_and_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'app.sqlite3'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTBUS_HTTP", "127.0.0.1:0")
    with committing(url) as app:
        app.commit()
        with as_process(gone()):
            app.commit(3)
        assert main(["--database", url, "--url", "sqlite:///broker.sqlite3", "--once"]) == 0
    assert "probes and figures at http://127.0.0.1:" in capsys.readouterr().err


def test_what_a_scrape_shows_is_what_the_outbox_holds(tmp_path: Path) -> None:
    with committing(f"sqlite:///{tmp_path / 'app.sqlite3'}") as app:
        app.commit()
        probe = Probe()
        probe.show(Progress(active=True, delivered=7, parked=0))
        shown = pages(probe, app.engine)["/metrics"]().body.decode()
    assert "eventbus_relay_active 1.0" in shown
    assert "eventbus_relay_events_total 7.0" in shown
    assert "eventbus_outbox_up 1.0" in shown
    assert "eventbus_outbox_rows 1.0" in shown
    assert "eventbus_outbox_parked_rows 0.0" in shown


def test_a_database_that_is_away_is_a_figure_too(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/gone/app.sqlite3")
    shown = pages(Probe(), engine)["/metrics"]().body.decode()
    assert "eventbus_outbox_up 0.0" in shown
    assert "eventbus_outbox_rows" not in shown


def test_a_relay_that_cannot_reach_its_broker_is_unready_and_not_dead(tmp_path: Path) -> None:
    engine = create_engine("sqlite://")
    probe = Probe()
    shown = pages(probe, engine)
    probe.show(Progress(active=True, delivered=0, parked=0, trouble="the broker cannot be reached"))
    assert shown["/readyz"]().status == HTTPStatus.SERVICE_UNAVAILABLE
    assert shown["/livez"]().status == HTTPStatus.OK
