"""A batch is answered DONE only once its files are written, and trouble with the disk passes without a restart."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from consumers.base import DONE, DeadLetter, Retry
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.disk.lock import Lock
from consumers.json_mirror.errors import DirectoryGone
from consumers.json_mirror.heartbeat import Heartbeat
from consumers.json_mirror.service import Mirror
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import STATE_FILE, State
from consumers.json_mirror.upkeep.syncing import Syncer
from tests.support.mirroring import FailingFileSystem, all_done, contents, delivery, fields, make_private, mirror
from tests.support.nodes.base import wait_until


def test_the_file_is_the_documented_text(tmp_path: Path) -> None:
    with mirror(tmp_path) as handle:
        handle([delivery("ab12", 1763884800123456, {"b": "é", "a": [1, {"y": None, "x": 1.5}], "c": {}})])
    assert (tmp_path / "crm/contact/ab12.json").read_text() == (
        "{\n"
        '  "fields": {\n    "a": [\n      1,\n      {\n        "x": 1.5,\n        "y": null\n      }\n    ],\n'
        '    "b": "é",\n    "c": {}\n  },\n'
        '  "model": "crm.contact",\n  "pk": "ab12",\n  "version": "00001763884800123456"\n}\n'
    )


def test_every_operation_has_its_effect(tmp_path: Path) -> None:
    with mirror(tmp_path) as handle:
        handle([delivery(op, 1, {"op": op}, op=op) for op in ("c", "u", "r")])
        handle([delivery("c", 2)])
    assert sorted(contents(tmp_path)) == ["crm/contact/r.json", "crm/contact/u.json"]


def test_a_record_that_could_not_be_published_says_so_in_its_file_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stub = {"reason": "EventTooLarge", "field": None}
    with mirror(tmp_path) as handle:
        handle([delivery("a", 1, {"id": "a", "name": "good"})])
        handle([delivery("a", 3, {"id": "a"}, stub=stub)])
        handle([delivery("a", 2, {"id": "a", "name": "late"})])
        assert orjson.loads((tmp_path / "crm/contact/a.json").read_bytes()) == {
            "fields": {"id": "a"}, "model": "crm.contact", "pk": "a", "stub": stub, "version": "00000000000000000003",
        }  # fmt: skip
        assert [vars(record)["record"] for record in caplog.records if "could not publish" in record.message] == [
            "crm.contact/a"
        ]
        handle([delivery("a", 4, {"id": "a", "name": "good again"})])
    assert "stub" not in orjson.loads((tmp_path / "crm/contact/a.json").read_bytes())


def test_many_changes_of_a_record_in_a_batch_are_one_write(tmp_path: Path) -> None:
    filesystem = FailingFileSystem()
    with mirror(tmp_path, filesystem) as handle:
        handle([delivery("a", 1, {})])
        before = filesystem.calls
        handle([delivery("a", 2, {"n": 2})])
        for_one = filesystem.calls - before
        handle([delivery("a", version, {"n": version}) for version in range(3, 100)])
        assert filesystem.calls - before == 2 * for_one
    assert fields(tmp_path, "crm/contact/a.json") == {"n": 99}


def test_a_duplicate_writes_nothing(tmp_path: Path) -> None:
    filesystem = FailingFileSystem()
    with mirror(tmp_path, filesystem) as handle:
        handle([delivery("a", 2, {})])
        before = filesystem.calls
        assert handle([delivery("a", 2, {}), delivery("a", 1, {"late": True})]) == [DONE, DONE]
        assert filesystem.calls == before


def test_a_version_no_state_can_hold_is_a_dead_letter_and_its_neighbours_are_not(tmp_path: Path) -> None:
    with mirror(tmp_path) as handle:
        outcomes = handle([delivery("a", 1, {}), delivery("b", 1 << 63, {}), delivery("c", (1 << 63) - 1, {})])
    assert outcomes == [DONE, DeadLetter("version beyond 63 bits"), DONE]
    assert sorted(contents(tmp_path)) == ["crm/contact/a.json", "crm/contact/c.json"]


@pytest.mark.parametrize(
    ("service", "entity", "pk"),
    [
        ("..", "..", ".."),
        ("crm", "contact", "../../../outside"),
        ("crm", "contact", "/etc/passwd"),
        ("/", "\\", "a\0b"),
        ("crm\n", "contact", "\n"),
        ("x" * 300, "y" * 300, "é" * 300),
        ("CON", "nul", "COM1"),
        ("%2e%2e", "%2E", "%2e"),
        ("crm", "contact", ""),
        ("crm", "contact", "."),
        ("\U0001f600", "\U0001f600", "\U0001f600"),
        (" ", "-rf", "*"),
        (".eventbus", "lock", "lock"),
    ],
)
def test_hostile_names_stay_inside(tmp_path: Path, service: str, entity: str, pk: str) -> None:
    data_dir = tmp_path / "deep" / "data"
    made = delivery("placeholder", 1, {})
    made.event = made.event._replace(model=f"{service}.{entity}".replace("..", "%2E."), pk=pk)
    with mirror(data_dir) as handle:
        assert handle([made]) == [DONE]
    (path,) = contents(data_dir)
    assert len(path.split("/")) == 3
    assert [each.name for each in (*tmp_path.iterdir(), *(tmp_path / "deep").iterdir())] == ["deep", "data"]
    assert orjson.loads((data_dir / path).read_bytes())["pk"] == pk


def test_keys_that_meet_on_other_systems_have_files_of_their_own(tmp_path: Path) -> None:
    keys = [
        "A",
        "a",
        "é",
        "e\u0301",
        "5",
        5,
        5.0,
        True,
        "true",
        [5],
        ["5"],
        [5, "a"],
        "5,a",
        "",
        [""],
        "x" * 300,
        "x" * 301,
    ]
    with mirror(tmp_path) as handle:
        assert all_done(handle([delivery(pk, 1, {}) for pk in keys]))
    found = contents(tmp_path)
    assert len({path.casefold() for path in found}) == len(keys)
    assert sorted(repr(orjson.loads(content)["pk"]) for content in found.values()) == sorted(map(repr, keys))


# --- disk trouble -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("times", [1, 3])
def test_the_nth_file_call_fails_and_nothing_is_lost(tmp_path: Path, number: int, times: int) -> None:
    """For N = 1, 2, 3 …: either all is done at once, or all waits and is done when it is given again."""
    for nth in range(1, 200):
        data_dir = tmp_path / str(nth)
        with mirror(data_dir) as handle:
            handle([delivery("old", 1, {"n": 1}), delivery("gone", 1, {"n": 1})])
        filesystem = FailingFileSystem(number=number, times=times)
        with mirror(data_dir, filesystem) as handle:
            filesystem.nth = filesystem.calls + nth
            batch = [delivery("old", 2, {"n": 2}), delivery("new", 2, {"n": 2}), delivery("gone", 2)]
            outcomes = handle(batch)
            turns = 0
            while not all_done(outcomes):
                assert all(isinstance(outcome, Retry) for outcome in outcomes)
                assert fields_or_none(data_dir, "old") in ({"n": 1}, {"n": 2})
                outcomes = handle(batch)
                turns += 1
                assert turns <= times
            failed_while_handling = list(filesystem.failed)
        assert {path: orjson.loads(content)["fields"] for path, content in contents(data_dir).items()} == {
            "crm/contact/old.json": {"n": 2},
            "crm/contact/new.json": {"n": 2},
        }
        if not failed_while_handling:
            break
    assert nth > 10


def fields_or_none(data_dir: Path, name: str) -> object:
    return fields(data_dir, f"crm/contact/{name}.json")


def test_a_state_that_cannot_be_written_holds_the_queue_and_recovers(tmp_path: Path) -> None:
    with mirror(tmp_path) as handle:
        handle([delivery("a", 1, {})])
        handle._state._db.execute("PRAGMA max_page_count = 1")  # SQLite answers as it does on a full disk
        big = delivery("b", 1, {"text": "x" * 100_000})
        (outcome,) = handle([big])
        assert isinstance(outcome, Retry)
        assert "full" in outcome.reason
        assert handle([big]) == [DONE]  # the connection is a new one
    assert len(contents(tmp_path)) == 2


def test_what_the_state_holds_but_no_file_yet_is_written_with_the_next_batch(tmp_path: Path) -> None:
    filesystem = FailingFileSystem()
    with mirror(tmp_path, filesystem) as handle:
        filesystem.nth, filesystem.times = filesystem.calls + 1, 1
        assert handle([delivery("a", 1, {})]) != [DONE]
        assert handle([delivery("b", 1, {})]) == [DONE]
    assert len(contents(tmp_path)) == 2


def test_something_foreign_in_a_files_place_stops_nobody_and_is_waited_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    obstacle = tmp_path / "crm/contact/a.json"
    obstacle.mkdir(parents=True)
    with mirror(tmp_path) as handle:
        assert handle([delivery("a", 1, {}), delivery("b", 1, {})]) == [DONE, DONE]
        assert "something foreign" in caplog.text
        handle.turned()
        obstacle.rmdir()
        handle._next_try = 0
        handle.turned()
    assert sorted(contents(tmp_path)) == ["crm/contact/a.json", "crm/contact/b.json"]


def test_trouble_while_blocked_files_are_tried_again_forgets_none(tmp_path: Path) -> None:
    filesystem = FailingFileSystem()
    obstacles = [tmp_path / f"crm/contact/{name}.json" for name in "abc"]
    for obstacle in obstacles:
        obstacle.mkdir(parents=True)
    with mirror(tmp_path, filesystem) as handle:
        handle([delivery(name, 1, {}) for name in "abc"])
        for obstacle in obstacles:
            obstacle.rmdir()
        for nth in range(1, 30):
            filesystem.nth = filesystem.calls + nth
            handle._next_try = 0
            handle.turned()
        filesystem.nth = handle._next_try = 0
        handle.turned()
        assert handle._unwritten._blocked == {}
    assert len(contents(tmp_path)) == 3


def test_what_was_blocked_is_looked_at_again_by_the_next_start(tmp_path: Path) -> None:
    obstacle = tmp_path / "crm/contact/a.json"
    obstacle.mkdir(parents=True)
    with mirror(tmp_path) as handle:
        handle([delivery("a", 1, {})])
    obstacle.rmdir()
    with mirror(tmp_path):
        pass
    assert sorted(contents(tmp_path)) == ["crm/contact/a.json"]


def test_what_is_blocked_stays_noted_while_other_batches_reach_the_disk(tmp_path: Path) -> None:
    (tmp_path / "crm/contact/a.json").mkdir(parents=True)
    with State(make_private(tmp_path) / "state.sqlite3") as state, Files(tmp_path, FailingFileSystem()) as files:
        handle = Mirror(state, files)
        handle([delivery("a", 1, {}), delivery("b", 1, {})])
        wait(lambda: handle._unwritten._syncer.synced == 1)
        handle([delivery("c", 1, {})])
        handle.turned()
        assert "crm/contact/a.json" in state.pending()
        (tmp_path / "crm/contact/a.json").rmdir()
        handle._next_try = 0
        handle.turned()
        assert "crm/contact/a.json" not in state.pending()
        handle.close()


def test_a_directory_that_vanished_ends_the_mirror_without_an_answer(tmp_path: Path) -> None:
    errors: list[Exception] = []
    data_dir = tmp_path / "data"
    with mirror(data_dir, fatal=errors.append) as handle:
        data_dir.rename(tmp_path / "moved")
        (outcome,) = handle([delivery("a", 1, {})])
        data_dir.mkdir()
    assert isinstance(outcome, Retry)
    assert isinstance(errors[0], DirectoryGone)


# --- what reaches the disk --------------------------------------------------------------------------------------------


def wait(condition: Callable[[], bool]) -> None:
    wait_until(condition, 10, "it did not happen")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_state_that_was_removed_under_the_mirror_ends_it_without_an_answer(tmp_path: Path, replaced: bool) -> None:
    """What went into it would be gone with the process."""
    failures: list[Exception] = []
    path = tmp_path / PRIVATE / STATE_FILE
    with mirror(tmp_path, fatal=failures.append) as handle:
        assert handle([delivery("a", 1, {"n": 1})]) == [DONE]
        for each in path.parent.glob(f"{STATE_FILE}*"):
            each.unlink()
        if replaced:
            State(path).close()
        (outcome,) = handle([delivery("a", 2, {"n": 2})])
        assert isinstance(outcome, Retry)
        assert isinstance(failures[0], DirectoryGone)
        assert path.exists() == replaced
    assert fields(tmp_path, "crm/contact/a.json") == {"n": 1}
    with mirror(tmp_path) as handle:
        assert handle([delivery("a", 2, {"n": 2})]) == [DONE]
    assert fields(tmp_path, "crm/contact/a.json") == {"n": 2}


def test_a_state_that_is_gone_after_disk_trouble_is_not_made_anew_under_the_mirror(tmp_path: Path) -> None:
    with State(make_private(tmp_path) / STATE_FILE) as state:
        state.close()  # as any trouble does
        state.path.unlink()
        with pytest.raises(DirectoryGone):
            state.apply([])
        assert not state.path.exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_that_was_removed_ends_the_mirror_since_another_may_have_it(tmp_path: Path, replaced: bool) -> None:
    failures: list[Exception] = []
    settings = MirrorSettings(data_dir=tmp_path)
    with open_mirror(settings, fatal=failures.append) as handle:
        handle.turned()
        assert not failures
        settings.lock_file.unlink()
        if replaced:
            Lock(settings.lock_file).close()
        handle.turned()
    assert isinstance(failures[0], DirectoryGone)


def test_files_are_pending_until_they_were_flushed(tmp_path: Path) -> None:
    flushes = threading.Semaphore(0)

    class Slow(FailingFileSystem):
        def sync_all(self, directory: int) -> None:
            flushes.acquire()
            super().sync_all(directory)

    with State(make_private(tmp_path) / "state.sqlite3") as state, Files(tmp_path, Slow()) as files:
        handle = Mirror(state, files)
        assert handle([delivery("a", 1, {})]) == [DONE]  # acknowledged, though no flush has come through
        handle.turned()
        assert state.pending() == ["crm/contact/a.json"]
        flushes.release()
        wait(lambda: handle._unwritten._syncer.synced == 1)
        handle.turned()
        assert state.pending() == []
        handle.close()


def test_after_a_failed_flush_the_files_are_written_anew(tmp_path: Path) -> None:
    """The kernel may have dropped what it could not write, so a second flush alone proves nothing."""

    class Fails(FailingFileSystem):
        def sync_all(self, directory: int) -> None:
            self.calls += 1
            self._call("sync_all")

    filesystem = Fails()
    with State(make_private(tmp_path) / "state.sqlite3") as state, Files(tmp_path, filesystem) as files:
        handle = Mirror(state, files)
        filesystem.times = 0
        handle([delivery("a", 1, {})])
        inode = (tmp_path / "crm/contact/a.json").stat().st_ino
        filesystem.nth, filesystem.times = filesystem.calls + 1, 3
        wait(lambda: handle._unwritten._syncer.failures == 1)
        filesystem.times = 0
        with (tmp_path / "crm/contact/a.json").open() as _keeps_the_inode_from_being_used_again:
            handle.turned()
            assert (tmp_path / "crm/contact/a.json").stat().st_ino != inode
        assert state.pending() == ["crm/contact/a.json"]
        wait(lambda: handle._unwritten._syncer.synced == 1)
        handle.turned()
        assert state.pending() == []
        handle.close()


def test_only_what_was_reported_after_a_failed_flush_counts_as_flushed() -> None:
    results: list[OSError | None] = [OSError(errno.EIO, "I/O error"), None]

    def sync() -> None:
        error = results.pop(0)
        if error:
            raise error

    syncer = Syncer(sync, interval=0)
    syncer.written(1, 0)
    wait(lambda: syncer.failures == 1)
    syncer.written(2, 0)  # written by somebody who had not heard of the failure
    syncer.close()
    assert syncer.synced == 0
    assert len(results) == 1


def test_old_tombstones_are_forgotten_between_batches(tmp_path: Path) -> None:
    with mirror(tmp_path, tombstone_age=-10) as handle:
        handle([delivery("a", 1)])
        handle._state.settle(handle._state.last_batch)
        handle.turned()
        assert handle._state.figures()[0].deleted == 0


def test_the_heartbeat_beats_on_a_full_disk_and_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat = Heartbeat(tmp_path / "heartbeat")
    assert heartbeat.age() is None
    heartbeat.beat()
    age = heartbeat.age()
    assert age is not None
    assert age < 5
    Heartbeat(tmp_path / "no such directory" / "heartbeat").beat()

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no room, not even in place")

    os.utime(tmp_path / "heartbeat", (1, 1))
    monkeypatch.setattr(os, "pwrite", refuse)
    heartbeat.beat("the disk is full")
    age = heartbeat.age()
    assert age is not None
    assert age < 5


def test_the_heartbeat_tells_what_the_mirror_waits_for(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "heartbeat")
    filesystem = FailingFileSystem()
    with mirror(tmp_path / "data", filesystem, heartbeat=heartbeat) as handle:
        handle.turned()
        assert heartbeat.trouble() is None
        size = (tmp_path / "heartbeat").stat().st_size
        filesystem.nth = filesystem.calls + 1
        handle([delivery("a", 1, {})])
        handle.disconnected("broker lost: Connection reset by peer")
        handle.turned()
        assert heartbeat.trouble() == (
            "the disk holds up 1 delivery: No space left on device: crm/contact/a.json; "
            "broker lost: Connection reset by peer"
        )
        assert (tmp_path / "heartbeat").stat().st_size == size  # so that it takes no room on a full disk
        handle([delivery("a", 1, {})])
        handle.connected()
        handle.turned()
        assert heartbeat.trouble() is None


def test_logs_tell_no_payload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filesystem = FailingFileSystem()
    with caplog.at_level(logging.DEBUG), mirror(tmp_path, filesystem) as handle:
        filesystem.nth = filesystem.calls + 1
        handle([delivery("a", 1, {"phone": "very private"})])
        handle([delivery("a", 1, {"phone": "very private"})])
    assert "disk trouble" in caplog.text
    assert "very private" not in caplog.text + repr([vars(record) for record in caplog.records])


def test_an_old_event_of_an_unknown_record_does_not_bring_a_forgotten_one_back(tmp_path: Path) -> None:
    """Its tombstone may be gone. What an operator sends, and what no clock made, is taken."""
    now, day = time.time_ns() // 1000, 24 * 3600 * 1_000_000

    def outcome(version: int, exchange: str | None, pk: str) -> object:
        sent = delivery(pk, version, {"id": pk})
        sent.exchange = exchange
        return handle([sent])[0]

    with mirror(tmp_path, tombstone_age=30 * 24 * 3600) as handle:
        assert outcome(now - 31 * day, "eventbus", "a") == DeadLetter("unknown record, older than the tombstones")
        assert outcome(now - 29 * day, "eventbus", "b") == DONE
        assert outcome(now - 31 * day, "eventbus", "b") == DONE  # known, and so only too old
        for number, (version, exchange) in enumerate(
            [(now - 99 * day, ""), (now - 99 * day, "eventbus.dlx"), (3, "x")]
        ):
            assert outcome(version, exchange, f"c{number}") == DONE
    with mirror(tmp_path / "for-ever", tombstone_age=0) as handle:
        assert outcome(now - 99 * day, "eventbus", "d") == DONE
    assert sorted(contents(tmp_path)) >= ["crm/contact/b.json", "crm/contact/c0.json"]
