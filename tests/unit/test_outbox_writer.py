"""Writing: where rows go, how large they are, which ids they get."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool

from eventbus.delivery.parcel import Parcel
from eventbus.errors import ConfigurationError, OutboxMissing
from eventbus.events.envelope import Batch
from eventbus.outbox import Outbox, ParkedRow, Store, VersionClock, metadata, versions
from tests.support.committing import Committer, batch, committing


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'app.sqlite3'}"


@pytest.fixture
def app(url: str) -> Iterator[Committer]:
    with committing(url) as committer:
        yield committer


def store_of(app: Committer) -> Store:
    store = app.outbox.store(app.engine)
    assert store is not None
    return store


def test_a_row_holds_the_events_and_its_id_is_their_version(app: Committer) -> None:
    (entry,) = app.commit(3)
    store = store_of(app)
    (row,) = store.read()
    store.close()
    parcel = Parcel.of_payload(row.id, row.payload)
    assert row.id == entry.batch.version
    assert parcel.messages() == entry.batch.messages()
    assert row.owner == store.owner


def test_rows_of_two_engines_of_one_database_have_two_owners(app: Committer, url: str) -> None:
    """So that neither engine's account reads the other's rows, which are in memory already, a second time."""
    app.commit()
    other = Committer(create_engine(url), app.outbox)
    other.commit()
    one, two = store_of(app), store_of(other)
    assert [row.owner for row in one.read()] == [one.owner, two.owner]
    assert one.owner != two.owner
    one.close()
    two.close()
    other.engine.dispose()


def test_a_rolled_back_transaction_leaves_no_row(app: Committer) -> None:
    app.commit()
    with pytest.raises(ZeroDivisionError):
        app.fail()
    assert app.rows() == 1


def test_large_transactions_go_in_rows_of_bounded_size(url: str) -> None:
    with committing(url, chunk_events=4, chunk_bytes=100_000) as app:
        entries = app.commit(10)
    assert [len(entry.batch.bodies) for entry in entries] == [4, 4, 2]
    assert [entry.batch.first_index for entry in entries] == [0, 4, 8]
    versions = [entry.batch.version for entry in entries]
    assert versions == sorted(set(versions))
    ids = [message.id for entry in entries for message in entry.batch.messages()]
    assert [each.rpartition("-")[2] for each in ids] == [str(index) for index in range(10)]


def test_rows_are_bounded_in_bytes_too(url: str) -> None:
    size = len(batch().bodies[0])
    with committing(url, chunk_bytes=2 * size + 5) as app:
        assert [len(entry.batch.bodies) for entry in app.commit(5)] == [2, 2, 1]
    with committing(url, chunk_bytes=10) as app:
        assert [len(entry.batch.bodies) for entry in app.commit(2)] == [1, 1], "an event is never cut"


def test_ids_rise_though_the_clock_stands_or_steps_back(app: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = app.version()
    monkeypatch.setattr(versions, "now", lambda: first - 10_000_000)
    assert app.version() > first
    with committing(str(app.engine.url)) as other:
        assert other.version() > first + 1, "another process, which has seen nothing"


def test_ids_stay_above_deleted_rows_though_the_clock_steps_back(
    app: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = app.version()
    store = store_of(app)
    store.delete([first])
    store.close()
    monkeypatch.setattr(versions, "now", lambda: first - 10_000_000)
    with committing(str(app.engine.url)) as other:
        assert other.rows() == 0
        assert other.version() > first


def test_ids_stay_above_parked_rows_too(app: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = app.version()
    store = store_of(app)
    store.parked.add([ParkedRow(first, 1, 1, 1, 1, "unroutable", b"{}")])
    store.close()
    monkeypatch.setattr(versions, "now", lambda: first - 10_000_000)
    with committing(str(app.engine.url)) as other:
        assert other.version() > first


def test_ids_rise_after_the_table_was_dropped(app: Committer) -> None:
    first = app.version()
    app.drop()
    assert app.version() > first


def test_ids_rise_after_the_file_was_restored_from_a_copy(app: Committer, tmp_path: Path) -> None:
    app.version()
    app.engine.dispose()
    shutil.copy(tmp_path / "app.sqlite3", tmp_path / "copy.sqlite3")
    later = app.version()
    app.engine.dispose()
    shutil.copy(tmp_path / "copy.sqlite3", tmp_path / "app.sqlite3")
    with committing(str(app.engine.url)) as other:
        assert other.version() > later


def test_versions_rise_when_the_mode_is_switched(app: Committer) -> None:
    direct = Committer(app.engine, Outbox(durable=False))
    versions = [committer.version() for committer in (app, direct, app, direct, app)]
    assert versions == sorted(set(versions))


def test_the_tables_are_made_in_a_transaction_that_may_fail(app: Committer) -> None:
    with pytest.raises(ZeroDivisionError):
        app.fail()
    assert app.rows() == 0
    app.commit()
    assert app.rows() == 1


def test_the_writer_needs_no_second_connection(url: str) -> None:
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    Committer(engine).commit()
    engine.dispose()


def test_missing_tables_are_an_error_that_says_both_ways(url: str) -> None:
    with (
        committing(url, create=False) as app,
        pytest.raises(OutboxMissing, match=r"create_outbox=True.*Alembic.*eventbus\.outbox\.metadata"),
    ):
        app.commit()


def test_tables_made_from_the_metadata_do(url: str) -> None:
    with committing(url, create=False) as app:
        metadata.create_all(app.engine)
        app.commit()
        assert app.rows() == 1


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_an_in_memory_database_has_no_outbox(url: str) -> None:
    engine = create_engine(url, poolclass=StaticPool)
    app = Committer(engine)
    (entry,) = app.commit()
    assert entry.store is None
    assert entry.batch.version > 0
    assert app.rows() == 0
    engine.dispose()


def test_direct_mode_writes_nothing(url: str) -> None:
    with committing(url, durable=False) as app:
        first, second = app.commit(), app.commit()
        assert first[0].store is None
        assert second[0].batch.version > first[0].batch.version
        assert app.rows() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_has_versions_though_another_thread_was_drawing_one_at_the_fork() -> None:
    clock, drawing, forked = VersionClock(), threading.Event(), threading.Event()

    def draw() -> None:
        with clock._lock:
            drawing.set()
            forked.wait(10)

    thread = threading.Thread(target=draw)
    thread.start()
    drawing.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # ends it if it hangs
        clock.next()
        os._exit(0)
    forked.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_database_without_outbox_support_is_refused() -> None:
    class Dialect:
        name = "oracle"

    class Connection:
        engine = None
        dialect = Dialect()

        @property
        def connection(self) -> Connection:
            return self

        def __init__(self) -> None:
            self.info: dict[object, object] = {}

    with pytest.raises(ConfigurationError, match="outbox=False"):
        Outbox().write(Connection(), Batch(0, "tx", ["k"], [b"{}"]))  # type: ignore[arg-type]


def test_errors_of_the_driver_are_sqlalchemys_and_hold_no_event(app: Committer) -> None:
    app.commit()
    lock = sqlite3.connect(app.engine.url.database or "")
    lock.execute("BEGIN IMMEDIATE")
    engine = create_engine(app.engine.url, connect_args={"timeout": 0.01})
    with pytest.raises(OperationalError, match="locked") as caught, engine.begin() as connection:
        app.outbox.write(connection, batch())
    assert "specversion" not in str(caught.value)
    lock.rollback()
    lock.close()
    engine.dispose()


def test_the_applications_engine_events_do_not_see_the_outbox(app: Committer) -> None:
    statements: list[str] = []
    event.listen(app.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    app.commit()
    store = store_of(app)
    store.delete([row.id for row in store.read()])
    store.close()
    assert [each for each in statements if "INSERT INTO eventbus_outbox" in each or "DELETE" in each] == []


def test_commits_beside_the_publishing_side_do_not_wait_for_it(app: Committer) -> None:
    app.commit()
    store = store_of(app)
    assert len(store.read()) == 1
    app.commit()
    with app.engine.connect() as connection:
        assert connection.scalar(text("SELECT value FROM thing")) == 2
    store.close()
