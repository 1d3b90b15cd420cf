"""Older backups put back: of the state, of the history, of the repository; and what was erased since they were made."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from consumers.base import ConsumerSettings, DeadLetter, Delivery, Outcome
from consumers.base import run as consume
from consumers.history import following
from consumers.history.errors import GitFailed
from consumers.history.reading.history import History
from consumers.history.settings import HistorySettings
from consumers.history.upkeep import erasing
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import State
from consumers.json_mirror.state.erasing import hashed
from tests.support.consuming import publish
from tests.support.histories import Event
from tests.unit.test_history_erase import LIFE, OPEN, history, mirror, run, traces

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


class Killed(Exception):
    """In the place of kill -9."""


LATER = Event("t7", "other", 70, "u", {"name": "later"}, ("name",), author="cyd")
LATEST = Event("t8", "other", 80, "u", {"name": "latest"}, ("name",), author="cyd")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    mirror(made, *LIFE)
    history(made)
    return made


def copied(data_dir: Path, name: str) -> Path:
    """A backup of one of the files, or of the repository."""
    source, backup = data_dir / ".eventbus" / name, data_dir.parent / f"{name}.backup"
    if source.is_dir():
        shutil.copytree(source, backup)
    else:
        shutil.copy(source, backup)
    return backup


def put_back(data_dir: Path, name: str) -> None:
    target = data_dir / ".eventbus" / name
    for beside in ("-wal", "-shm"):
        target.with_name(name + beside).unlink(missing_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    (data_dir.parent / f"{name}.backup").rename(target)


def follow(data_dir: Path) -> None:
    """The historian as the mirror starts it, until it has done all."""
    alone = threading.Event()
    alone.set()
    following.keep(HistorySettings(data_dir=data_dir, kind="sqlite"), threading.Event(), alone)


def names(data_dir: Path) -> list[Any]:
    with History(data_dir / ".eventbus" / "history.sqlite3") as opened:
        return [each.content and each.content.fields["name"] for each in opened.versions("crm/contact/other.json")]


def test_events_that_come_after_an_older_state_was_put_back_reach_the_history(data_dir: Path) -> None:
    copied(data_dir, "state.sqlite3")
    mirror(data_dir, LATER)
    history(data_dir)
    put_back(data_dir, "state.sqlite3")
    mirror(data_dir, LATEST)
    history(data_dir)
    assert names(data_dir) == ["latest", "later", "still here", "somebody else"]
    assert "whole" in run(data_dir, "verify", "--git")


def test_what_an_older_history_has_missed_is_told_by_a_snapshot(data_dir: Path) -> None:
    copied(data_dir, "history.sqlite3")
    mirror(data_dir, LATER, Event("t6", "zz-person", 60, "d"), Event("t7", "third", 75, "c", {"name": "x"}, ("name",)))
    history(data_dir)
    trim(data_dir)
    put_back(data_dir, "history.sqlite3")
    history_alone(data_dir)
    assert names(data_dir) == ["later", "still here", "somebody else"]
    with History(data_dir / ".eventbus" / "history.sqlite3") as opened:
        assert opened.record("crm/contact/zz-person.json").document is None
        path = "crm/contact/other.json"
        assert [step.op for step in opened.steps(path, opened.record(path).id)] == ["r", "u", "c"]
    assert "whole" in run(data_dir, "verify")
    run(data_dir, "git", "--fresh")
    assert "whole" in run(data_dir, "verify", "--git")


def trim(data_dir: Path) -> None:
    """What the historian has leaves the journal, all but the newest row."""
    with open_mirror(MirrorSettings(data_dir=data_dir, history="git")) as mirroring:
        mirroring.turned()
    with State(data_dir / ".eventbus" / "state.sqlite3", read_only=True) as state:
        assert len(state.events(0, 100)) == 1


def history_alone(data_dir: Path) -> None:
    with pytest.raises(GitFailed, match="--fresh"):
        history(data_dir)


def test_a_new_history_beside_a_mirror_that_had_another_begins_with_what_is_there(data_dir: Path) -> None:
    mirror(data_dir, LATER, LATEST)
    history(data_dir)
    trim(data_dir)
    (data_dir / ".eventbus" / "history.sqlite3").unlink()
    history_alone(data_dir)
    assert names(data_dir)[0] == "latest"
    with History(data_dir / ".eventbus" / "history.sqlite3") as opened:
        assert opened.record("crm/contact/zz-person.json").document is not None


def test_a_repository_that_is_ahead_of_an_older_history_is_refused_until_it_is_made_anew(data_dir: Path) -> None:
    copied(data_dir, "history.sqlite3")
    mirror(data_dir, LATER, Event("t7", "third", 75, "c", {"name": "x"}, ("name",)), LATEST)
    history(data_dir)
    trim(data_dir)
    put_back(data_dir, "history.sqlite3")
    history_alone(data_dir)
    mirror(data_dir, Event("t9", "third", 85, "d"), Event("t9", "new", 90, "c", {"name": "new"}, ("name",)))
    history_alone(data_dir)  # as many transactions as the repository has commits, but others
    run(data_dir, "git", "--fresh")
    assert "whole" in run(data_dir, "verify", "--git")


def test_an_older_state_is_erased_again(data_dir: Path) -> None:
    mirror(data_dir, OPEN)
    copied(data_dir, "state.sqlite3")
    run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    put_back(data_dir, "state.sqlite3")
    assert traces(data_dir)
    mirror(data_dir)
    assert traces(data_dir) == []
    mirror(data_dir, LIFE[0], LATEST)
    history(data_dir)
    assert traces(data_dir) == []
    assert names(data_dir)[0] == "latest"


def test_an_older_history_is_erased_again(data_dir: Path) -> None:
    copied(data_dir, "history.sqlite3")
    run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    run(data_dir, "erase", "--author", "bob", "--yes")
    put_back(data_dir, "history.sqlite3")
    assert traces(data_dir)
    follow(data_dir)
    assert traces(data_dir) == []
    assert "bob" not in run(data_dir, "log")
    assert b"bob" not in (data_dir / ".eventbus" / "history.sqlite3").read_bytes()
    assert names(data_dir) == ["still here", "somebody else"]


def test_an_older_repository_is_refused_until_it_is_made_anew(data_dir: Path) -> None:
    copied(data_dir, "history.git")
    run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    put_back(data_dir, "history.git")
    mirror(data_dir, LATER)
    with pytest.raises(GitFailed, match=r"erased since.*--fresh"):
        history(data_dir)
    run(data_dir, "git", "--fresh")
    assert traces(data_dir) == []
    assert "whole" in run(data_dir, "verify", "--git")


def test_an_erasure_that_was_cut_short_before_git_is_ended_by_the_next(data_dir: Path) -> None:
    path = "crm/contact/zz-person.json"
    floors = {hashed(path): erasing.floor_now()}
    erasing.erase_records(data_dir / ".eventbus" / "history.sqlite3", [path], floors, "ann")
    with pytest.raises(GitFailed, match="erased since"):
        history(data_dir)
    run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    assert traces(data_dir) == []
    assert "whole" in run(data_dir, "verify", "--git")


@pytest.mark.parametrize("point", ["shutil.rmtree", "Repository.repack_all", "Follower.follow"])
def test_an_erasure_that_was_cut_short_within_git_is_ended_by_the_next(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    late = Event("t9", "zz-late", 90, "c", {"name": "zz-second-word"}, ("name",))
    record = "zz-person"
    if point != "shutil.rmtree":  # else the first commit knows of it, and the whole repository goes
        mirror(data_dir, late)
        history(data_dir)
        run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
        assert traces(data_dir)
        record = "zz-late"
    module = "follower" if point.startswith("Follower") else "repository"
    with monkeypatch.context() as patched:
        patched.setattr(f"consumers.history.git.{module}.{point}", killed)
        with pytest.raises(Killed):
            run(data_dir, "erase", "crm.contact", record, "--yes")
    run(data_dir, "erase", "crm.contact", record, "--yes")
    assert traces(data_dir) == []
    assert "whole" in run(data_dir, "verify", "--git")


def test_a_late_event_does_not_bring_an_erased_name_back(data_dir: Path) -> None:
    run(data_dir, "erase", "--author", "bob", "--yes")
    mirror(data_dir, Event("t0", "third", 35, "c", {"name": "x"}, ("name",), author="bob"))
    history(data_dir)
    assert "bob" not in run(data_dir, "log")
    mirror(data_dir, Event("t9", "fourth", 1 << 62, "c", {"name": "x"}, ("name",), author="bob"))
    history(data_dir)
    assert "bob" in run(data_dir, "log")


def test_dead_letters_of_what_was_erased_are_named(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{data_dir.parent}/broker.db"
    settings = ConsumerSettings(url=url, queue="other")
    monkeypatch.setenv("EVENTBUS_URL", url)
    monkeypatch.setenv("EVENTBUS_QUEUE", "other")
    assert consume(settings, _refuse, drain=True) == 0
    publish(settings, [event.body for event in (*LIFE, OPEN)])
    assert consume(settings, _refuse, drain=True) == 0
    said = run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    told = [line for line in said.splitlines() if line.startswith("dead letter ")]
    assert [line.split()[5].rstrip(":") for line in told] == ["crm.contact/zz-person"] * 3
    assert "purge" in told[0]
    said = run(data_dir, "erase", "--author", "bob", "--yes")
    assert sum(line.startswith("dead letter ") for line in said.splitlines()) == 2


def _refuse(batch: list[Delivery]) -> list[Outcome]:
    return [DeadLetter("no such parent")] * len(batch)


def test_a_broker_that_cannot_be_asked_is_told(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_URL", f"sqlite:///{data_dir.parent}/nowhere/broker.db")
    assert "the broker cannot be asked" in run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    assert traces(data_dir) == []
