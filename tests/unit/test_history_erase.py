"""After `erase` no byte of the record is left, in no file and no git object, and nothing brings it back."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from consumers.base import DONE
from consumers.history.command import command
from consumers.history.errors import HistoryUnavailable
from consumers.history.reading.history import History
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.disk import sqlite
from consumers.json_mirror.errors import DirectoryLocked, StateUnavailable
from consumers.json_mirror.settings import MirrorSettings
from eventbus.errors import EventBusError
from tests.support import histories
from tests.support.histories import Event

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

SECRETS = [b"zz-first-word", b"zz-second-word", b"zz-person"]
LIFE = [
    Event("t1", "zz-person", 10, "c", {"name": "zz-first-word"}, ("name",), author="ann"),
    Event("t2", "other", 20, "c", {"name": "somebody else"}, ("name",), author="ann"),
    Event("t3", "zz-person", 30, "u", {"name": "zz-second-word"}, ("name",), author="bob"),
    Event("t4", "other", 40, "u", {"name": "still here"}, ("name",), author="bob"),
]
LIFE_OF_A_SECOND = [
    Event("t6", "yy-second", 60, "c", {"name": "yy-second"}, ("name",)),
    Event("t7", "other", 70, "u", {"name": "later"}, ("name",)),
]
OPEN = Event("t5", "zz-person", 50, "u", {"name": "zz-second-word"}, ("name",), size=2)
"""Half of a transaction: it is in the journal, and the historian waits for the rest."""


def mirror(data_dir: Path, *events: Event, history: str = "git") -> None:
    assert histories.mirror(data_dir, events, history=history) == [DONE] * len(events)


def history(data_dir: Path) -> None:
    """Historian and git follower, once."""
    histories.take_journal(data_dir)
    histories.make_commits(data_dir)


def run(data_dir: Path, *arguments: str) -> str:
    done = CliRunner().invoke(
        command, [*arguments, "--data-dir", str(data_dir)], catch_exceptions=False, standalone_mode=False
    )
    assert not done.exception, done.output
    return done.output


def objects(data_dir: Path) -> bytes:
    """All that is in git, reachable or not."""
    repository = data_dir / ".eventbus" / "history.git"
    if not repository.exists():
        return b""
    listed = ["git", "-C", repository, "cat-file", "--batch", "--batch-all-objects"]
    return subprocess.run(listed, capture_output=True, check=True).stdout


def traces(data_dir: Path) -> list[str]:
    """Where anything of the person is, in files as they are and in all objects of git."""
    found = []
    for path in (each for each in data_dir.rglob("*") if each.is_file()):
        content = path.read_bytes() + str(path).encode()
        found += [f"{path.name}: {word!r}" for word in SECRETS if word in content]
    listed = objects(data_dir)
    return found + [f"git: {word!r}" for word in SECRETS if word in listed]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    mirror(tmp_path, *LIFE)
    history(tmp_path)
    mirror(tmp_path, OPEN)
    return tmp_path


def test_no_byte_is_left_and_the_rest_is_as_it_was(data_dir: Path) -> None:
    assert traces(data_dir)
    said = run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    assert traces(data_dir) == []
    assert "dead letters" in said
    assert "whole" in run(data_dir, "verify", "--git")
    assert (data_dir / "crm/contact/other.json").exists()
    with History(data_dir / ".eventbus" / "history.sqlite3") as opened:
        assert [each.step.version for each in opened.versions("crm/contact/other.json")] == [40, 20]


def test_an_event_that_is_spoilt_in_the_journal_goes_as_well(data_dir: Path) -> None:
    """Whose it is cannot be told, and nobody takes it in any more."""
    with closing(sqlite3.connect(data_dir / ".eventbus" / "state.sqlite3")) as db:
        db.execute("UPDATE journal SET body = CAST(replace(CAST(body AS TEXT), '\"op\"', '\"oq\"') AS BLOB)")
        db.commit()
    run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    assert traces(data_dir) == []


def test_a_mirror_without_a_history_forgets_as_well(tmp_path: Path) -> None:
    """Also where a history is turned on later: it is told of nobody who was erased before."""
    mirror(tmp_path, *LIFE, history="off")
    assert traces(tmp_path)
    assert "history: none is kept" in run(tmp_path, "erase", "crm.contact", "zz-person", "--yes")
    assert traces(tmp_path) == []
    mirror(tmp_path, LIFE[2], LIFE[0])
    history(tmp_path)
    assert traces(tmp_path) == []
    assert (tmp_path / "crm/contact/other.json").exists()
    assert "whole" in run(tmp_path, "verify", "--git")


def test_a_number_is_the_record_that_the_state_has(tmp_path: Path) -> None:
    mirror(tmp_path, Event("t1", "7", 10, "c", {"name": "zz-first-word"}, ("name",)), *LIFE[1:2], history="off")
    run(tmp_path, "erase", "crm.contact", "7", "--yes")
    assert traces(tmp_path) == []


def test_without_a_history_there_is_no_author_to_forget(tmp_path: Path) -> None:
    mirror(tmp_path, *LIFE, history="off")
    with pytest.raises(HistoryUnavailable):
        run(tmp_path, "erase", "--author", "ann", "--yes")
    assert not (tmp_path / ".eventbus/history.sqlite3").exists()


def test_without_a_mirror_there_is_nothing_to_erase(tmp_path: Path) -> None:
    (tmp_path / ".eventbus").mkdir()
    with pytest.raises(EventBusError, match="state"):
        run(tmp_path, "erase", "crm.contact", "zz-person", "--yes")


def test_a_retried_dead_letter_does_not_bring_it_back_and_a_new_record_may_come(data_dir: Path) -> None:
    run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    mirror(data_dir, LIFE[2], LIFE[0], OPEN)
    history(data_dir)
    assert traces(data_dir) == []
    again = Event("t9", "zz-person", 1 << 62, "c", {"name": "zz-first-word"}, ("name",))
    mirror(data_dir, again)
    history(data_dir)
    assert (data_dir / "crm/contact/zz-person.json").exists()


def test_an_authors_name_can_be_forgotten(data_dir: Path) -> None:
    run(data_dir, "erase", "--author", "bob", "--yes")
    assert "bob" not in run(data_dir, "log")
    assert b"bob" not in objects(data_dir)
    for path in (data_dir / ".eventbus").glob("*.sqlite3*"):
        assert b"bob" not in path.read_bytes()
    assert "whole" in run(data_dir, "verify", "--git")


def test_it_is_refused_while_the_mirror_runs(data_dir: Path) -> None:
    with open_mirror(MirrorSettings(data_dir=data_dir, history="git")), pytest.raises(DirectoryLocked, match="mirror"):
        run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    assert traces(data_dir)


def git(data_dir: Path, *arguments: str) -> str:
    command = ["git", "-C", data_dir / ".eventbus" / "history.git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_tags_branches_and_what_a_push_has_noted_do_not_keep_it(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mirror(data_dir, Event("t0", "first", 5, "c", {"name": "first"}, ("name",)))
    mirror(data_dir, *LIFE_OF_A_SECOND)
    history(data_dir)
    remote = tmp_path_factory.mktemp("remote")
    subprocess.run(["git", "init", "--quiet", "--bare", remote], check=True)
    git(data_dir, "remote", "add", "origin", str(remote))
    git(data_dir, "push", "--quiet", "origin", "main")
    git(data_dir, "tag", "before", git(data_dir, "rev-list", "--max-parents=0", "main").strip())
    git(data_dir, "tag", "-a", "-m", "all of it", "after", "main")
    said = run(data_dir, "erase", "crm.contact", "yy-second", "--yes")
    assert "git: refs/remotes/origin/main is gone" in said
    assert git(data_dir, "for-each-ref", "--format=%(refname)").split() == ["refs/heads/main", "refs/tags/before"]
    assert b"yy-second" not in objects(data_dir)


@pytest.mark.parametrize("file", ["HEAD", "config", "objects/pack/*.pack", "refs/heads/main"])
def test_a_repository_that_git_cannot_read_is_made_anew(data_dir: Path, file: str) -> None:
    for each in (data_dir / ".eventbus" / "history.git").glob(file):
        each.chmod(0o644)
        each.write_bytes(b"spoilt")
    run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    assert traces(data_dir) == []
    assert "whole" in run(data_dir, "verify", "--git")


def test_what_a_killed_git_was_writing_does_not_stop_the_next(data_dir: Path) -> None:
    for name in ("config.lock", "packed-refs.lock", "refs/heads/main.lock"):
        (data_dir / ".eventbus" / "history.git" / name).touch()
    mirror(data_dir, Event("t6", "other", 60, "u", {"name": "later"}, ("name",)))
    history(data_dir)
    assert "whole" in run(data_dir, "verify", "--git")


def test_a_repository_that_is_not_used_any_more_is_named(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTBUS_HISTORY_GIT", str(tmp_path_factory.mktemp("elsewhere") / "history.git"))
    said = run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    assert f"not reached: {data_dir}/.eventbus/history.git" in said


def test_a_reader_who_keeps_old_pages_alive_is_told_of(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.1)
    for name, error in (("state", StateUnavailable), ("history", HistoryUnavailable)):
        with closing(sqlite3.connect(data_dir / ".eventbus" / f"{name}.sqlite3")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM record").fetchall()
            with pytest.raises(error, match="erase once more"):
                run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    assert traces(data_dir) == []


def test_a_text_that_reads_as_a_number_is_found_before_the_history_knows_it(data_dir: Path) -> None:
    mirror(
        data_dir,
        Event("t6", "007", 60, "c", {"name": "a"}, ("name",)),
        Event("t7", "7", 70, "c", {"name": "b"}, ("name",)),
    )
    assert "files and state: 1 record" in run(data_dir, "erase", "crm.contact", "7", "--yes")
    assert sorted(each.name for each in (data_dir / "crm/contact").iterdir()) == [
        "007.json",
        "other.json",
        "zz-person.json",
    ]
