"""After `erase` no byte of the record is left, in no file and no git object, and nothing brings it back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from consumers.base import DONE, Delivery
from consumers.history.assembly.assembly import Tempo
from consumers.history.command import command
from consumers.history.errors import HistoryUnavailable
from consumers.history.git.follower import Follower
from consumers.history.git.packs import PackWriter
from consumers.history.git.repository import Repository
from consumers.history.historian import Historian
from consumers.history.journal.reader import JournalReader
from consumers.history.reading.history import History
from consumers.history.store.archive import Archive
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.errors import DirectoryLocked
from consumers.json_mirror.settings import MirrorSettings
from eventbus.errors import EventBusError
from eventbus.events import envelope
from tests.support.histories import Event

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

SECRETS = [b"zz-first-word", b"zz-second-word", b"zz-person"]
LIFE = [
    Event("t1", "zz-person", 10, "c", {"name": "zz-first-word"}, ("name",), author="ann"),
    Event("t2", "other", 20, "c", {"name": "somebody else"}, ("name",), author="ann"),
    Event("t3", "zz-person", 30, "u", {"name": "zz-second-word"}, ("name",), author="bob"),
    Event("t4", "other", 40, "u", {"name": "still here"}, ("name",), author="bob"),
]
OPEN = Event("t5", "zz-person", 50, "u", {"name": "zz-second-word"}, ("name",), size=2)
"""Half of a transaction: it is in the journal, and the historian waits for the rest."""


def mirror(data_dir: Path, *events: Event, history: str = "git") -> None:
    settings = MirrorSettings(data_dir=data_dir, history=history)
    with open_mirror(settings) as mirroring:
        for event in events:
            delivery = Delivery(event.body)
            delivery.event = envelope.decode(event.body)
            assert mirroring([delivery]) == [DONE]


def history(data_dir: Path) -> None:
    """Historian and git follower, once."""
    private = data_dir / ".eventbus"
    with JournalReader(private / "state.sqlite3") as journal, Archive(private / "history.sqlite3") as archive:
        historian = Historian(journal, archive, Tempo(settle=0, patience=3600))
        historian.step(1e10)
        historian.step(1e10 + 1)
    repository = Repository(private / "history.git")
    repository.prepare()
    follower = Follower(repository, PackWriter)
    with History(private / "history.sqlite3") as opened:
        follower.follow(opened)
    follower.close()


def run(data_dir: Path, *arguments: str) -> str:
    done = CliRunner().invoke(
        command, [*arguments, "--data-dir", str(data_dir)], catch_exceptions=False, standalone_mode=False
    )
    assert not done.exception, done.output
    return done.output


def traces(data_dir: Path) -> list[str]:
    """Where anything of the person is, in files as they are and in all objects of git."""
    found = []
    for path in (each for each in data_dir.rglob("*") if each.is_file()):
        content = path.read_bytes() + str(path).encode()
        found += [f"{path.name}: {word!r}" for word in SECRETS if word in content]
    repository = data_dir / ".eventbus" / "history.git"
    if not repository.exists():
        return found
    listed = subprocess.run(
        ["git", "-C", repository, "cat-file", "--batch", "--batch-all-objects"], capture_output=True, check=True
    )
    return found + [f"git: {word!r}" for word in SECRETS if word in listed.stdout]


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
    repository = data_dir / ".eventbus" / "history.git"
    listed = subprocess.run(
        ["git", "-C", repository, "cat-file", "--batch", "--batch-all-objects"], capture_output=True, check=True
    )
    assert b"bob" not in listed.stdout
    for path in (data_dir / ".eventbus").glob("*.sqlite3*"):
        assert b"bob" not in path.read_bytes()
    assert "whole" in run(data_dir, "verify", "--git")


def test_it_is_refused_while_the_mirror_runs(data_dir: Path) -> None:
    with open_mirror(MirrorSettings(data_dir=data_dir, history="git")), pytest.raises(DirectoryLocked, match="mirror"):
        run(data_dir, "erase", "crm.contact", "zz-person", "--yes")
    assert traces(data_dir)
