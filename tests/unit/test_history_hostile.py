"""A history of what strangers said: nothing stops the historian, and nothing drives the terminal of who asks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest

from consumers.base import DONE
from consumers.history.command import command
from consumers.history.git import message
from consumers.history.reading.history import History
from consumers.json_mirror.command import open_mirror
from consumers.json_mirror.settings import MirrorSettings
from eventbus.commands import run
from tests.support.histories import Event, keep, mirror

EVIL = "\x1b[2J\u009b31m\u202e\x07 a\u2028b"
USUAL: dict[str, Any] = {
    "transaction": "tx-1",
    "pk": "a",
    "version": 1_700_000_000_000_000,
    "op": "u",
    "fields": {"id": "a", "n": 1},
    "changed": ["n"],
}
HOSTILE: dict[str, dict[str, Any]] = {
    "a size beyond 63 bits": {"more": {"transaction": {"id": "t", "size": 9_999_999_999_999_999_999}}},
    "a size of 63 bits": {"size": 2**63 - 1},
    "a size of another kind": {"more": {"transaction": {"id": "t", "size": [1]}}},
    "an id": {"more": {"transaction": {"id": EVIL, "size": 1}}},
    "a long id": {"more": {"transaction": {"id": "x" * 500_000, "size": 1}}},
    "an author": {"author": EVIL},
    "a long author": {"author": "x" * 500_000},
    "a trace": {"trace": EVIL},
    "a long trace": {"trace": "x" * 500_000},
    "notes": {"notes": {EVIL: EVIL}},
    "notes of other kinds": {"more": {"transaction": {"id": "t", "size": 1, "notes": {"a": {"b": [1]}, "c": None}}}},
    "many notes": {"notes": {f"note{n}": "x" * 1_000 for n in range(500)}},
    "fields": {"fields": {"id": "a", "n": EVIL, EVIL: 1}, "changed": ["n", EVIL]},
    "a key": {"pk": EVIL},
}
MOMENTS = [
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z", "1950-01-01T00:00:00Z"),
    *("0001-01-01", "9999-12-31T23:59:59.999999", "20261123T080000Z", "soon", "2026-13-45T99:00:00Z"),
]


class Printed(list[str]):
    """What goes to the terminal, as it stands: a test's runner would strip what drives it."""

    def __call__(self, said: Any = "", **_: Any) -> None:
        self.append(said)


class Told:
    """An event of these bytes."""

    def __init__(self, body: bytes) -> None:
        self.body = body


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Printed:
    made = Printed()
    monkeypatch.setattr(click, "echo", made)
    return made


def ask(data_dir: Path, body: bytes, printed: Printed, capfd: pytest.CaptureFixture[str]) -> str:
    (data_dir / ".eventbus").mkdir()
    keep(data_dir / ".eventbus" / "history.sqlite3", [Told(body)])  # type: ignore[list-item]
    for arguments in (
        ["log"],
        ["log", "--json"],
        ["log", "crm.contact"],
        ["show", "#1"],
        ["why", "crm.contact", "a", "n"],
        ["why", "crm.contact", "a", "n", "--json"],
        ["diff", "crm.contact", "a"],
        ["at", "2040-01-01"],
        ["verify"],
    ):
        # 1 is what it ends with where there is no such record or field.
        assert run(command, [*arguments, "--data-dir", str(data_dir)], "eventbus history") in (0, 1), arguments
    found = "\n".join(printed) + capfd.readouterr().out
    assert all(line.isprintable() for line in found.split("\n"))
    assert len(found) < 20_000
    return found


@pytest.mark.parametrize("case", HOSTILE)
def test_whatever_an_event_says_of_itself_is_taken_in_cut_and_shown_as_escapes(
    tmp_path: Path, printed: Printed, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    found = ask(tmp_path, Event(**{**USUAL, **HOSTILE[case]}).body, printed, capfd)
    assert "#1" in found


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_time_may_be_anything(
    tmp_path: Path, printed: Printed, capfd: pytest.CaptureFixture[str], moment: str
) -> None:
    body = Event(**USUAL).body.replace(b"2025-11-23T12:00:00.000000Z", moment.encode())
    assert moment.encode() in body
    ask(tmp_path, body, printed, capfd)
    with History(tmp_path / ".eventbus" / "history.sqlite3") as history:
        signed = message.sign(history.transaction(1), history.transaction(1).time // 10**6)
    assert min(signed.author_time, signed.committer_time) >= 0


@pytest.mark.parametrize("asked", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "x" * 1_000])
def test_a_moment_that_is_none_is_told_in_words(tmp_path: Path, capfd: pytest.CaptureFixture[str], asked: str) -> None:
    (tmp_path / ".eventbus").mkdir()
    keep(tmp_path / ".eventbus" / "history.sqlite3", [Event(**USUAL)])
    for arguments in (["log", "--since", asked], ["at", asked]):
        assert run(command, [*arguments, "--data-dir", str(tmp_path)], "eventbus history") == 2
    told = capfd.readouterr().err
    assert "is no time" in told
    assert len(told) < 600


SPOILT = {
    "a document that is no JSON": ("UPDATE record SET document = x'7b'", "the newest version of crm/contact/a.json"),
    "a document of another kind": ("UPDATE record SET document = '[1]'", "its document is '[1]'"),
    "a delta that is no JSON": ("UPDATE change SET body = x'7b22'", "cannot be read"),
    "a delta that does not unpack": ("UPDATE change SET body = x'789c00'", "cannot be read"),
    "a delta of another kind": ("UPDATE change SET body = x'5b315d'", "crm/contact/a.json at position 2"),
    "a delta from nothing": ("UPDATE record SET document = NULL", "leads back from a content that is not there"),
    "a time that is none": ("UPDATE tx SET time = 'noon'", "the row of position 2"),
    "an author that is a number": ("UPDATE tx SET author = x'01'", "the row of position 2"),
    "an id that is too short": ("UPDATE tx SET id = x'01'", "transaction #2 in"),
    "an id that is none": ("UPDATE tx SET id = 7", "the row of position 2"),
    "notes that are no JSON": ("UPDATE tx SET notes = '{'", "transaction #2 in"),
    "notes of another kind": ("UPDATE tx SET notes = '[1]'", "transaction #2 in"),
    "a key that is no JSON": ("UPDATE record SET key = x'7b'", "the key of crm/contact/a.json"),
    "a key of another kind": ("UPDATE record SET key = '7'", "its key is '7'"),
    "a key without a model": ("UPDATE record SET key = x'5b372c375d'", "the key of crm/contact/a.json"),
    "a path that names nothing": ("UPDATE record SET path = 'crm/contact/%%.json'", "the key of crm/contact/%%.json"),
    "names that are no JSON": ("UPDATE change SET changed = 9; INSERT INTO names VALUES (9, '{')", "at position 2"),
    "a change of another kind": ("UPDATE change SET op = 'x'", "its op is 'x'"),
    "a version of another kind": ("UPDATE change SET version = 'x' WHERE position = 2", "its version is 'x'"),
    "a change that is gone": ("DELETE FROM change", "no change tells of it"),
    "a record that is gone": ("DELETE FROM record", "has changes and no row"),
    "a transaction that is gone": ("DELETE FROM tx WHERE position = 1", "has changes and no transaction"),
    "a note that is gone": ("DELETE FROM meta WHERE key = 'identity'", "the note `identity`"),
    "a note of another kind": ("UPDATE meta SET value = 'x' WHERE key = 'position'", "the note `position`"),
    "a text that is none": ("UPDATE tx SET author = cast(x'ff' AS TEXT)", "UTF-8"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_file_that_is_spoilt_is_told_in_words(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    statement, words = SPOILT[case]
    path = tmp_path / ".eventbus" / "history.sqlite3"
    path.parent.mkdir()
    keep(
        path,
        [Event(**USUAL), Event(**{**USUAL, "transaction": "t2", "version": USUAL["version"] + 1, "fields": {"n": 2}})],
    )
    with closing(sqlite3.connect(path)) as db:
        db.executescript(statement)
        db.commit()
    asked = [["show", "#2"], ["why", "crm.contact", "a", "n", "--all"], ["log", "--json"], ["verify"]]
    codes = [run(command, [*arguments, "--data-dir", str(tmp_path)], "eventbus history") for arguments in asked]
    assert set(codes) <= {0, 1}
    assert codes[-1] == 1
    told = capfd.readouterr()
    assert words in told.err + told.out


def test_a_spoilt_file_is_named_with_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ".eventbus" / "history.sqlite3"
    path.parent.mkdir()
    keep(path, [Event(**USUAL)])
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE change SET version = 'x'")
        db.commit()
    assert run(command, ["show", "#1", "--data-dir", str(tmp_path)], "eventbus history") == 1
    told = capfd.readouterr().err
    assert "the row of path crm/contact/a.json, position 1" in told
    assert f"{path} is spoilt: `eventbus history verify` tells where; bring back a copy" in told


@pytest.mark.parametrize("spoilt", ["key = CAST(x'ff' AS TEXT)", "floor = 'x'"])
def test_a_mirror_starts_beside_a_history_whose_erasures_are_spoilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: str
) -> None:
    path = tmp_path / ".eventbus" / "history.sqlite3"
    path.parent.mkdir()
    keep(path, [Event(**USUAL)])
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO erased VALUES ('x', 1, '', NULL)")
        db.execute(f"UPDATE erased SET {spoilt}")
        db.commit()
    with open_mirror(MirrorSettings(data_dir=tmp_path, history="sqlite")):
        assert "the history cannot be asked what is erased" in caplog.text


SPOILT_STATE = {
    "an event of another kind": ("UPDATE journal SET body = '{'", "`journal`"),
    "a moment that is none": ("UPDATE journal SET time = 'noon'", "`journal`"),
    "a floor that is no number": ("INSERT INTO erased VALUES ('x', x'01')", "`erased`"),
    "figures that are no numbers": ("UPDATE entity SET live = 'x'", "`entity`"),
    "a version that is none": ("UPDATE record SET version = 'x'", "its row in the state is spoilt"),
    "a document that is none": (
        "UPDATE record SET document = x'7b', checksum = NULL",
        "its row in the state is spoilt",
    ),
}


@pytest.mark.parametrize("case", SPOILT_STATE)
def test_a_spoilt_state_is_told_in_words_with_what_to_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("EVENTBUS_URL", f"sqlite:///{tmp_path}/broker.db")
    monkeypatch.setenv("EVENTBUS_HISTORY", "sqlite")
    assert mirror(tmp_path, [Event(**USUAL)], history="off") == [DONE]
    with open_mirror(MirrorSettings(data_dir=tmp_path, history="sqlite")):
        pass  # the record is of before the journal: a snapshot stands for it
    statement, words = SPOILT_STATE[case]
    with closing(sqlite3.connect(tmp_path / ".eventbus" / "state.sqlite3")) as db:
        db.execute(statement)
        db.commit()
    assert run(command, ["follow", "--watched", "--data-dir", str(tmp_path)], "eventbus history") == 1
    told = capfd.readouterr().err
    assert words in told
    assert "run the mirror with --" in told
    keep(tmp_path / ".eventbus" / "history.sqlite3", [Event(**USUAL)])
    for erased in (["--author", "ann"], ["crm.contact", "a"]):
        code = run(command, ["erase", *erased, "--yes", "--data-dir", str(tmp_path)], "eventbus history")
        assert code == 0 or "run the mirror with --rebuild" in capfd.readouterr().err
