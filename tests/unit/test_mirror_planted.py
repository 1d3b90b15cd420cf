"""What somebody put into DATA_DIR is never followed, never waited for, never read past a bound, and told in a line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumers.base import DONE, ConsumerSettings
from consumers.json_mirror import command
from consumers.json_mirror.disk import files as disk
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.disk.lock import Lock
from consumers.json_mirror.heartbeat import Heartbeat
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import STATE_FILE, State
from consumers.json_mirror.upkeep import comparison
from consumers.json_mirror.upkeep.comparison import Fault, compare, confirm, repair
from eventbus.errors import ConfigurationError
from tests.support.mirroring import apply, contents, delivery, make_private, mirror
from tests.support.planting import make_socket, make_sparse

PRECIOUS = b"somebody else's\n" * 100


def victim(path: Path) -> Path:
    """A file of somebody else's, beside DATA_DIR."""
    made = next(parent for parent in path.parents if parent.name == "data").parent / "victim"
    made.write_bytes(PRECIOUS)
    return made


PLANTED: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to(victim(path)),
    "a dangling link": lambda path: path.symlink_to(victim(path).with_name("nowhere")),
    "a second name": lambda path: path.hardlink_to(victim(path)),
    "a FIFO": os.mkfifo,
    "a socket": make_socket,
    "a directory": Path.mkdir,
}
OWN = ["lock", "heartbeat", STATE_FILE, f"{STATE_FILE}-wal", f"{STATE_FILE}-shm", f"{STATE_FILE}-journal"]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    make_private(made)
    return made


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("name", OWN)
def test_what_is_planted_before_the_first_start_is_refused(name: str, kind: str, data_dir: Path) -> None:
    planted = make_private(data_dir) / name
    PLANTED[kind](planted)
    settings = MirrorSettings(data_dir=data_dir, consumer=ConsumerSettings(url="memory://"))
    with pytest.raises(ConfigurationError, match=rf"{name} is .*Remove it"), command.open_mirror(settings):
        pass
    assert not (data_dir.parent / "nowhere").exists()
    if kind in ("a link", "a second name"):
        assert (data_dir.parent / "victim").read_bytes() == PRECIOUS


@pytest.mark.parametrize("kind", PLANTED)
def test_nothing_of_the_mirrors_own_is_opened_through_what_is_planted_later(kind: str, data_dir: Path) -> None:
    private = make_private(data_dir)
    for name in OWN[:3]:
        PLANTED[kind](private / name)
    with pytest.raises(ConfigurationError):
        Lock(private / "lock")
    for read_only in (False, True):
        if kind == "a dangling link" and read_only:
            continue  # there is no state
        with pytest.raises(ConfigurationError):
            State(private / STATE_FILE, read_only=read_only)
    heartbeat = Heartbeat(private / "heartbeat")
    heartbeat.beat("trouble")
    assert heartbeat.trouble() is None
    if kind in ("a link", "a second name"):
        assert (data_dir.parent / "victim").read_bytes() == PRECIOUS


def test_a_heartbeat_does_not_touch_what_a_link_leads_to(data_dir: Path) -> None:
    planted = make_private(data_dir) / "heartbeat"
    PLANTED["a link"](planted)
    os.utime(planted, (1, 1))
    Heartbeat(planted).beat()
    assert planted.stat().st_mtime == 1


# --- in the place of files ------------------------------------------------------------------------------------------

IN_PLACE: dict[str, Callable[[Path], object]] = {**PLANTED, "a sparse file of a terabyte": make_sparse}
IN_PLACE["a device"] = lambda path: os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))


def put_in_place(kind: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        IN_PLACE[kind](path)
    except PermissionError:
        pytest.skip("making a device needs root")


def findings(data_dir: Path) -> dict[str, Fault]:
    with State(make_private(data_dir) / STATE_FILE, read_only=True) as state, Files(data_dir) as files:
        found = {finding.path: finding.fault for finding in compare(state, files)}
        assert {each.path: each.fault for each in confirm(compare(state, files), state, files, tries=1)} == found
        return found


@pytest.mark.parametrize("kind", IN_PLACE)
def test_what_stands_in_the_place_of_a_file_is_told_and_replaced(kind: str, data_dir: Path) -> None:
    apply(data_dir, [delivery("a", 1, {"n": 1})])
    before = contents(data_dir)
    put_in_place(kind, data_dir / "crm/contact/a.json")
    assert findings(data_dir) == {"crm/contact/a.json": Fault.BROKEN if kind == "a second name" else Fault.MISSING}
    with State(make_private(data_dir) / STATE_FILE) as state, Files(data_dir) as files:
        blocked = repair(compare(state, files), state, files).blocked
    assert blocked == (["crm/contact/a.json"] if kind == "a directory" else [])
    if not blocked:
        assert contents(data_dir) == before
        assert not findings(data_dir)


@pytest.mark.parametrize("kind", sorted(IN_PLACE.keys() - {"a directory"}))
def test_what_the_state_does_not_know_is_foreign_and_left_alone(kind: str, data_dir: Path) -> None:
    apply(data_dir, [delivery("a", 1, {"n": 1})])
    place = data_dir / "crm/contact/b.json"
    put_in_place(kind, place)
    before = os.lstat(place)
    assert findings(data_dir) == {"crm/contact/b.json": Fault.FOREIGN}
    with State(make_private(data_dir) / STATE_FILE) as state, Files(data_dir) as files:
        repair(compare(state, files), state, files)
        assert state.get("crm/contact", "b.json") is None
    assert os.lstat(place) == before


def test_a_name_that_is_no_unicode_is_foreign(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apply(data_dir, [delivery("a", 1, {"n": 1})])
    strange = os.fsencode(data_dir) + b"/crm/\xff\x1b[2J"
    os.mkdir(strange)
    for place in (strange + b"/a.json", os.fsencode(data_dir) + b"/crm/contact/\xfe\x1b[2J.json"):
        Path(os.fsdecode(place)).write_bytes((data_dir / "crm/contact/a.json").read_bytes())
    assert set(findings(data_dir).values()) == {Fault.FOREIGN}
    for options in (["--verify"], ["--verify", "--repair"], ["--rebuild"]):
        assert command.main([*options, "--data-dir", str(data_dir)]) == 0
    shown = capsys.readouterr().out
    assert r"foreign: crm/contact/\udcfe\u001b[2J.json" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    with mirror(data_dir) as handle:
        assert handle([delivery("b", 2, {})]) == [DONE]


def test_a_file_that_is_larger_than_any_of_ours_is_not_read(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(data_dir, [delivery("a", 1, {"text": "x" * 2000})])
    (data_dir / "crm/contact/b.json").write_bytes((data_dir / "crm/contact/a.json").read_bytes())
    monkeypatch.setattr(disk, "LARGEST_FILE", 1000)
    assert findings(data_dir) == {"crm/contact/b.json": Fault.FOREIGN}, "a record's own size counts as well"


# --- what cannot be replaced ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["crm/contact", "crm"])
def test_a_start_goes_on_without_the_files_that_something_stands_in_the_place_of(place: str, data_dir: Path) -> None:
    apply(data_dir, [delivery("a", 1, {"n": 1}), delivery("x", 1, {}, model="crm.other")])
    before = contents(data_dir)
    (data_dir / "crm").rename(data_dir.parent / "away")
    obstacle = data_dir / place
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_bytes(b"")
    with mirror(data_dir) as handle:
        assert handle([delivery("y", 1, {}, model="billing.invoice")]) == [DONE]
        assert "crm/contact/a.json" in handle._unwritten._blocked
        handle.turned()
    with mirror(data_dir) as handle:
        obstacle.unlink()
        handle._next_try = 0
        handle.turned()
        assert not handle._unwritten._blocked
    assert before.items() <= contents(data_dir).items()
    assert not findings(data_dir)


def test_a_repair_tells_what_stands_in_the_way(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apply(data_dir, [delivery("a", 1, {"n": 1}), delivery("b", 2, {"n": 2})])
    before = contents(data_dir)
    put_in_place("a directory", data_dir / "crm/contact/a.json")
    (data_dir / "crm/contact/b.json").unlink()
    for options in (["--verify", "--repair"], ["--rebuild"]):
        assert command.main([*options, "--data-dir", str(data_dir)]) == 1
        assert "something foreign stands in the place of 1 file" in capsys.readouterr().out
    assert contents(data_dir) == {"crm/contact/b.json": before["crm/contact/b.json"]}


def test_too_many_obstacles_are_one_error(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_BLOCKED", 3)
    apply(data_dir, [delivery(number, 1, {}) for number in range(9)])
    (data_dir / "crm").rename(data_dir.parent / "away")
    (data_dir / "crm").write_bytes(b"")
    with pytest.raises(command.DirectoryUnusable, match="more than 3 files"), mirror(data_dir):
        pass


def test_what_is_blocked_is_remembered_by_name_alone(data_dir: Path) -> None:
    (data_dir / "crm/contact/a.json").mkdir(parents=True)
    with mirror(data_dir) as handle:
        handle([delivery("a", 1, {"text": "x" * 10_000})])
        handle([delivery("a", 2, {"text": "y"})])
        held: Any = handle._unwritten._blocked
        assert held == {"crm/contact/a.json": None}
    with mirror(data_dir) as handle:
        assert handle._unwritten._blocked == {"crm/contact/a.json": None}, "the next start knows of it"
        (data_dir / "crm/contact/a.json").rmdir()
        handle._next_try = 0
        handle.turned()
    assert not findings(data_dir)
