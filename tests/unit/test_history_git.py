"""The git repository is a pure function of the history: whoever makes it, and is killed at it, the ids are the same."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from consumers.history.command import command
from consumers.history.errors import GitFailed
from consumers.history.git.commits import Commit
from consumers.history.git.fastimport import FastImport
from consumers.history.git.follower import Follower, Writer
from consumers.history.git.layout import flat, path_of
from consumers.history.git.packs import PackWriter
from consumers.history.git.repository import NOTHING, Repository, Tip
from consumers.history.reading import past
from consumers.history.reading.history import History
from tests.support.histories import Event, keep

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

Make = Callable[[Repository, str], Writer]
WRITERS = [FastImport, PackWriter]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / ".eventbus" / "history.sqlite3"
    made.parent.mkdir()
    return made


def life(count: int = 40) -> list[Event]:
    """Creations, changes, a deletion and a re-creation of some records, in transactions of one to three."""
    events, version = [], 10
    for number in range(count):
        records = [f"r{(number * 7 + step) % 9}" for step in range(number % 3 + 1)]
        version += 3
        for record in records:
            deleted = number % 13 == 12
            fields = None if deleted else {"n": number, "name": f"ü {record}"}
            op = "d" if deleted else "u"
            events.append(
                Event(f"t{number}", record, version, op, fields, ("n",), size=len(records), second=number % 50)
            )
    return events


def follow(path: Path, repository: Path, make: Make = FastImport, omit: frozenset[str] = frozenset()) -> Tip:
    made = Repository(repository)
    made.prepare()
    follower = Follower(made, make, omit)
    try:
        with History(path) as history:
            follower.follow(history)
    finally:
        follower.close()
    return made.tip()


def git(repository: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", repository, *arguments], capture_output=True, check=True, text=True).stdout


class Killed(Exception):
    """In the place of kill -9."""


def dying(make: Make, after: int) -> Make:
    """A writer that dies after so many commits, without a word to whom it leaves behind."""

    def made(repository: Repository, tip: str) -> Writer:
        return _Dying(make(repository, tip), after)

    return made


class _Dying:
    def __init__(self, writer: Writer, left: int) -> None:
        self._writer, self._left = writer, left

    def commit(self, commit: Commit) -> None:
        self._left -= 1
        if not self._left:
            raise Killed
        self._writer.commit(commit)
        if self._left % 3 == 0:
            self._writer.publish()

    def publish(self) -> None:
        self._writer.publish()

    def expect(self, commits: Sequence[Commit]) -> None:
        self._writer.expect(commits)

    def let_go(self) -> None:
        self._writer.let_go()

    def close(self) -> None:
        if isinstance(self._writer, FastImport):
            self._writer._process.kill()
        self._writer.close()


@pytest.mark.parametrize("make", WRITERS)
def test_whoever_is_killed_wherever_the_ids_are_those_of_a_calm_run(path: Path, tmp_path: Path, make: Make) -> None:
    keep(path, life())
    calm = follow(path, tmp_path / "calm.git")
    repository = tmp_path / "killed.git"
    for after in (1, 2, 5, 9, 4, 11, 7):
        with pytest.raises(Killed):
            follow(path, repository, dying(make, after))
    assert follow(path, repository, make) == calm
    git(repository, "fsck", "--full", "--strict")
    assert git(repository, "log", "--format=%(trailers:key=Eventbus-Transaction,valueonly,separator=)").split() == [
        f"t{number}" for number in range(39, -1, -1)
    ]


@pytest.mark.parametrize("make", WRITERS)
def test_the_tree_is_what_the_records_are(path: Path, tmp_path: Path, make: Make) -> None:
    keep(path, life())
    repository = tmp_path / "history.git"
    tip = follow(path, repository, make)
    files = {flat(name) for name in git(repository, "ls-tree", "-r", "--name-only", "main").split() if "/" in name}
    with History(path) as history:
        assert files == {each.path for each in past.records(history, tip.position)}
        for name in files:
            shown = git(repository, "show", f"main:{path_of(name)}")
            assert shown.encode() == history.record(name).document
    arguments = ["verify", "--git", "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(command, arguments, env={"EVENTBUS_HISTORY_GIT": str(repository)}, standalone_mode=False)
    assert (done.return_value, done.output) == (0, "the history is whole\n")


def test_both_ways_to_write_make_the_same_commits_of_a_history_that_grows(path: Path, tmp_path: Path) -> None:
    events = life()
    for end in (10, 11, 50, len(events)):
        keep(path, events[:end])
        tips = {follow(path, tmp_path / f"{make.__name__}.git", make).id for make in WRITERS}
        assert len(tips) == 1
    assert follow(path, tmp_path / "fresh.git").id in tips


def test_verify_finds_a_tree_that_is_not_what_the_records_give(path: Path, tmp_path: Path) -> None:
    keep(path, life())
    repository = path.parent / "history.git"
    follow(path, repository)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "-b", "main", str(repository), str(clone))
    name = path_of("crm/contact/r1.json")
    (clone / name).write_text("{}")
    trailers = git(repository, "log", "-1", "--format=%B")
    git(clone, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qam", trailers)
    git(clone, "push", "-q", "origin", "main")
    done = CliRunner().invoke(command, ["verify", "--git", "--data-dir", str(tmp_path)], standalone_mode=False)
    assert done.return_value == 1
    assert f"{name}: not what the history gives" in done.output


def test_nothing_forges_an_author_or_a_trailer(path: Path, tmp_path: Path) -> None:
    evil = "a <root@x>\nEventbus-Position: 99\n\x00"
    notes = {"reason": "x\n\nEventbus-Position: 77"}
    keep(path, [Event("t1\nEventbus-Position: 88", "r", 10, "c", {"n": 1}, ("n",), author=evil, notes=notes)])
    repository = tmp_path / "history.git"
    assert follow(path, repository).position == 1
    assert git(repository, "log", "--format=%an|%ae").strip() == (
        "a %3Croot@x%3E%0AEventbus-Position: 99%0A%00|a %3Croot@x%3E%0AEventbus-Position: 99%0A%00@crm"
    )


def test_a_late_change_is_a_commit_that_says_so_and_takes_nothing_back(path: Path, tmp_path: Path) -> None:
    first = Event("t1", "r", 10, "c", {"email": "a", "phone": "1"}, ("email", "phone"))
    keep(path, [first, Event("t3", "r", 30, "u", {"email": "b", "phone": "1"}, ("email",))])
    repository = tmp_path / "history.git"
    early = follow(path, repository)
    keep(path, [Event("t2", "r", 20, "u", {"email": "a", "phone": "2"}, ("email", "phone"))])
    follow(path, repository)
    assert git(repository, "rev-parse", "main~1").strip() == early.id
    message = git(repository, "log", "-1", "--format=%B")
    assert "Eventbus-Late: yes" in message
    assert "Eventbus-Superseded: crm/contact/r.json" in message
    shown = git(repository, "show", f"main:{path_of('crm/contact/r.json')}")
    assert '"email": "b"' in shown
    assert '"phone": "2"' in shown  # nobody changed it later
    assert follow(path, tmp_path / "fresh.git") == Repository(repository).tip()


def test_dates_of_committers_never_fall(path: Path, tmp_path: Path) -> None:
    events = [
        Event(f"t{n}", "r", 10 + n, "u", {"n": n}, ("n",), second=second) for n, second in enumerate((30, 10, 20, 40))
    ]
    keep(path, events)
    repository = tmp_path / "history.git"
    follow(path, repository)
    dates = git(repository, "log", "--reverse", "--format=%at %ct").splitlines()
    authors, committers = zip(*(map(int, line.split()) for line in dates), strict=True)
    assert [each - min(authors) for each in authors] == [20, 0, 10, 30]
    assert [each - min(authors) for each in committers] == [20, 20, 20, 30]


def test_what_is_to_stay_out_of_git_stays_out(path: Path, tmp_path: Path) -> None:
    keep(path, [
        Event("t1", "r", 10, "c", {"n": 1, "notes": "secret words"}, ("n", "notes"), size=2),
        Event("t1", "p", 10, "c", {"n": "a person"}, ("n",), size=2, entity="person"),
    ])  # fmt: skip
    repository = tmp_path / "history.git"
    follow(path, repository, omit=frozenset({"crm.contact.notes", "crm.person"}))
    assert git(repository, "ls-tree", "-r", "--name-only", "main").split() == ["README", path_of("crm/contact/r.json")]
    assert "secret" not in git(repository, "log", "-p")


def test_a_repository_of_another_history_is_refused(path: Path, tmp_path: Path) -> None:
    keep(path, life(3))
    repository = tmp_path / "history.git"
    follow(path, repository)
    other = tmp_path / "other.sqlite3"
    keep(other, life(5))
    with pytest.raises(GitFailed, match="another history"):
        follow(other, repository)


def test_an_exported_stream_makes_the_same_repository(path: Path, tmp_path: Path) -> None:
    keep(path, life())
    done = CliRunner().invoke(command, ["export", "--fast-import", "--data-dir", str(tmp_path)])
    repository = tmp_path / "mine.git"
    git(tmp_path, "init", "-q", "--bare", str(repository))
    subprocess.run(["git", "-C", repository, "fast-import", "--quiet", "--done"], input=done.stdout_bytes, check=True)
    assert git(repository, "rev-parse", "main").strip() == follow(path, tmp_path / "calm.git").id


def test_what_a_person_has_set_stays_where_the_repository_is_made_anew(path: Path, tmp_path: Path) -> None:
    keep(path, life())
    repository = tmp_path / ".eventbus" / "history.git"
    tip = follow(path, repository, PackWriter)
    git(repository, "remote", "add", "origin", "https://example.test/history.git")
    git(repository, "config", "--add", "remote.origin.fetch", "+refs/notes/*:refs/notes/*")
    git(repository, "config", "user.name", 'Ann\nB "C"')
    git(repository, "config", "eventbus.erasures", "of the one before")
    before = git(repository, "config", "--list").splitlines()
    made = Repository(repository)
    made.remove()
    made.prepare()  # killed afterwards, or in the middle of it, before all was put back
    made.remove()
    assert not repository.exists()
    assert follow(path, repository, PackWriter) == tip
    after = git(repository, "config", "--list").splitlines()
    assert after.count("remote.origin.fetch=+refs/notes/*:refs/notes/*") == 1
    assert set(before) - set(after) == {"eventbus.erasures=of the one before"}
    assert [each.name for each in repository.parent.iterdir() if "history.git" in each.name] == ["history.git"]


@pytest.mark.parametrize("spoilt", ["[remote", "[core]\n\tlogAllRefUpdates = perhaps\n"])
def test_settings_that_git_cannot_work_with_are_left_out_and_told(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: str
) -> None:
    keep(path, life())
    repository = tmp_path / ".eventbus" / "history.git"
    tip = follow(path, repository)
    with (repository / "config").open("a") as file:
        file.write(spoilt)
    Repository(repository).remove()
    assert follow(path, repository) == tip
    assert "settings of the repository" in caplog.text


def test_a_follower_that_is_stopped_ends_at_its_next_publication_and_the_next_goes_on(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.history.git.follower.EVERY", 3)
    keep(path, life())
    repository = Repository(tmp_path / "history.git")
    repository.prepare()
    follower, stop = Follower(repository, PackWriter), threading.Event()
    stop.set()
    with History(path) as history:
        assert follower.follow(history, stop) == 3
        assert repository.tip().position == 3
        assert follower.follow(history) == 37
    follower.close()
    assert repository.tip() == follow(path, tmp_path / "calm.git")


@pytest.mark.parametrize("make", WRITERS)
def test_packs_stay_few(path: Path, tmp_path: Path, make: Make) -> None:
    repository = Repository(tmp_path / "history.git")
    repository.prepare()
    assert repository.tip() == NOTHING
    follower = Follower(repository, make)
    events = life()
    for end in range(1, 40):
        keep(path, [event for event in events if int(event.transaction[1:]) == end])
        with History(path) as history:
            assert follower.follow(history) == 1
            give_up = time.monotonic() + 60
            while repository.packs > 11:
                assert time.monotonic() < give_up
                assert follower.follow(history) == 0
    follower.close()
    git(repository.path, "fsck", "--full", "--strict")
    assert repository.tip().position == 39
