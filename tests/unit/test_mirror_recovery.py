"""Files and state agree again after whatever ended the last run, and the newer side is believed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from consumers.json_mirror.disk import documents
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.errors import StateDamaged
from consumers.json_mirror.service import Mirror
from consumers.json_mirror.state import State
from consumers.json_mirror.upkeep import comparison
from consumers.json_mirror.upkeep.comparison import Fault, compare, confirm, repair
from consumers.json_mirror.upkeep.recovery import open_or_renew, rebuild
from tests.support.mirroring import QuickFileSystem, apply, contents, delivery, fields, make_private, mirror, unfinished

A, B, C = (f"crm/contact/{name}.json" for name in "abc")


def state_file(data_dir: Path) -> Path:
    return make_private(data_dir) / "state.sqlite3"


def filled(data_dir: Path) -> dict[str, bytes]:
    """Three records and a deleted one, everything settled."""
    apply(data_dir, [delivery(name, 5, {"name": name}) for name in "abc"], [delivery("d", 5, {}), delivery("d", 6)])
    return contents(data_dir)


def check(data_dir: Path) -> Counter[Fault]:
    with State(state_file(data_dir)) as state, Files(data_dir, QuickFileSystem()) as files:
        return Counter(finding.fault for finding in compare(state, files))


def put_right(data_dir: Path) -> Counter[Fault]:
    with State(state_file(data_dir)) as state, Files(data_dir, QuickFileSystem()) as files:
        return rebuild(state, files)


def lose_state(data_dir: Path) -> None:
    for beside in ("", "-wal", "-shm"):
        state_file(data_dir).with_name(f"state.sqlite3{beside}").unlink(missing_ok=True)


# --- a start ----------------------------------------------------------------------------------------------------


def test_a_crash_after_the_commit_loses_no_file(tmp_path: Path) -> None:
    """The messages may be acknowledged by then: the next start writes what the last one did not."""
    with State(state_file(tmp_path)) as state, Files(tmp_path, QuickFileSystem()) as files:
        crashing = Mirror(state, files)
        crashing._unwritten.write = lambda: None  # type: ignore[method-assign]
        crashing([delivery("a", 1, {"n": 1}), delivery("b", 1, {}), delivery("b", 2)])
    assert contents(tmp_path) == {}
    with mirror(tmp_path):
        assert fields(tmp_path, A) == {"n": 1}


@pytest.mark.parametrize("torn", [b"", b'{"fields": {', None])
def test_files_that_had_not_reached_the_disk_are_written_again(tmp_path: Path, torn: bytes | None) -> None:
    with State(state_file(tmp_path)) as state, Files(tmp_path, QuickFileSystem()) as files:
        Mirror(state, files)([delivery("a", 1, {"n": 1})])
    whole = contents(tmp_path)
    (tmp_path / A).unlink()
    if torn is not None:
        (tmp_path / A).write_bytes(torn)  # what a power loss may leave
    with mirror(tmp_path):
        assert contents(tmp_path) == whole


def test_a_removal_that_had_not_reached_the_disk_is_repeated(tmp_path: Path) -> None:
    with State(state_file(tmp_path)) as state, Files(tmp_path, QuickFileSystem()) as files:
        handle = Mirror(state, files)
        handle([delivery("a", 1, {})])
        before = (tmp_path / A).read_bytes()
        handle([delivery("a", 2)])
    (tmp_path / A).write_bytes(before)
    with mirror(tmp_path):
        assert contents(tmp_path) == {}


def test_a_settled_start_looks_at_no_file(tmp_path: Path) -> None:
    filled(tmp_path)
    with State(state_file(tmp_path)) as state:
        assert state.pending() == []


def test_unfinished_files_are_swept(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / ".eventbus/making/77-1").write_bytes(b"half")
    with mirror(tmp_path):
        assert unfinished(tmp_path) == []


def test_a_lost_state_is_made_again_before_anything_is_applied(tmp_path: Path) -> None:
    before = filled(tmp_path)
    lose_state(tmp_path)
    with mirror(tmp_path) as handle:
        handle([delivery("a", 4, {"name": "late"}), delivery("b", 6, {"name": "new"})])
    assert contents(tmp_path)[A] == before[A]
    assert fields(tmp_path, B) == {"name": "new"}


def test_a_lost_directory_is_written_again(tmp_path: Path) -> None:
    before = filled(tmp_path)
    (tmp_path / "crm").rename(tmp_path.parent / f"{tmp_path.name}-lost")
    with mirror(tmp_path):
        assert contents(tmp_path) == before


# --- verify and rebuild -----------------------------------------------------------------------------------------------


def test_equal_sides_are_equal(tmp_path: Path) -> None:
    filled(tmp_path)
    assert not check(tmp_path)


def test_every_fault_is_found_put_right_and_gone(tmp_path: Path) -> None:
    before = filled(tmp_path)
    contact = tmp_path / "crm/contact"
    (tmp_path / A).unlink()
    (tmp_path / B).write_bytes(b"{")
    (tmp_path / C).write_bytes(documents.encode("crm.contact", "c", 4, {"name": "older"}))
    (contact / "d.json").write_bytes(documents.encode("crm.contact", "d", 5, {}))
    (contact / "e.json").write_bytes(documents.encode("crm.contact", "e", 9, {"name": "unknown"}))
    (contact / "notes.json").write_bytes(b"[1, 2]")
    (contact / "README").write_bytes(b"not looked at")
    expected = {
        Fault.MISSING: 1,
        Fault.BROKEN: 1,
        Fault.DIFFERENT: 1,
        Fault.LEFT_OVER: 1,
        Fault.UNKNOWN: 1,
        Fault.FOREIGN: 1,
    }
    assert check(tmp_path) == expected
    assert put_right(tmp_path) == expected
    assert check(tmp_path) == {Fault.FOREIGN: 1}
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert sorted(after.keys() - before.keys()) == [
        "crm/contact/README",
        "crm/contact/e.json",
        "crm/contact/notes.json",
    ]
    with mirror(tmp_path) as handle:
        handle([delivery("e", 8, {"name": "late"})])
    assert fields(tmp_path, "crm/contact/e.json") == {"name": "unknown"}


def test_a_state_from_an_old_backup_believes_the_newer_files(tmp_path: Path) -> None:
    apply(tmp_path, [delivery("a", 1, {"n": 1})])
    with State(state_file(tmp_path)) as state:
        state._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = state_file(tmp_path).read_bytes()
    apply(tmp_path, [delivery("a", 2, {"n": 2}), delivery("b", 2, {"n": 2})])
    after = contents(tmp_path)
    lose_state(tmp_path)
    state_file(tmp_path).write_bytes(backup)
    assert check(tmp_path) == {Fault.NEWER: 1, Fault.UNKNOWN: 1}
    put_right(tmp_path)
    assert contents(tmp_path) == after
    assert not check(tmp_path)


def test_a_stub_stays_one_when_the_state_was_lost(tmp_path: Path) -> None:
    apply(tmp_path, [delivery("a", 1, {"id": "a"}, stub={"reason": "EventTooLarge", "field": None})])
    before = contents(tmp_path)
    state_file(tmp_path).unlink()
    with mirror(tmp_path):
        assert not check(tmp_path)
    assert contents(tmp_path) == before
    assert b'"stub"' in before["crm/contact/a.json"]


def test_a_copy_of_a_record_under_another_name_is_foreign(tmp_path: Path) -> None:
    before = filled(tmp_path)
    (tmp_path / "crm/contact/copy.json").write_bytes(before[A])
    (tmp_path / "crm/other").mkdir()
    (tmp_path / "crm/other/a.json").write_bytes(before[A])
    assert check(tmp_path) == {Fault.FOREIGN: 2}
    put_right(tmp_path)
    assert contents(tmp_path).keys() - before.keys() == {"crm/contact/copy.json", "crm/other/a.json"}


def test_a_file_that_says_the_same_in_other_bytes_is_made_canonical(tmp_path: Path) -> None:
    before = filled(tmp_path)
    (tmp_path / A).write_bytes(before[A].replace(b"  ", b"\t"))
    assert put_right(tmp_path) == {Fault.DIFFERENT: 1}
    assert contents(tmp_path) == before


def test_a_lost_state_comes_back_whole_however_many_files(tmp_path: Path) -> None:
    apply(tmp_path, [delivery(number, number + 1, {"n": number}, model=f"crm.e{number % 3}") for number in range(1500)])
    before = contents(tmp_path)
    lose_state(tmp_path)
    assert put_right(tmp_path) == {Fault.UNKNOWN: 1500}
    assert not check(tmp_path)
    assert contents(tmp_path) == before
    with State(state_file(tmp_path)) as state:
        assert [figures.live for figures in state.figures()] == [500, 500, 500]
        assert state.pending() == []


def cut_short(data_dir: Path, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """A start that is ended after so many chunks of its repairs."""
    chunks = iter(range(after))
    whole = comparison._repair

    def some(*arguments: Any) -> Any:
        if next(chunks, None) is None:
            raise KeyboardInterrupt
        return whole(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(comparison, "_repair", some)
        with pytest.raises(KeyboardInterrupt), mirror(data_dir):
            pass


def test_making_a_lost_state_again_goes_on_where_a_start_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else files that the state does not know would be overwritten by whatever comes late."""
    apply(tmp_path, [delivery(number, 5, {"n": number}) for number in range(1200)])
    before = contents(tmp_path)
    lose_state(tmp_path)
    cut_short(tmp_path, monkeypatch, after=1)
    with mirror(tmp_path) as handle:
        handle([delivery(number, 4, {"late": True}) for number in range(1200)])
    assert contents(tmp_path) == before
    assert not check(tmp_path)


def test_writing_lost_directories_again_goes_on_where_a_start_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(tmp_path, [delivery(number, 5, {"n": number}) for number in range(1200)])
    before = contents(tmp_path)
    (tmp_path / "crm").rename(tmp_path.parent / f"{tmp_path.name}-lost")
    cut_short(tmp_path, monkeypatch, after=1)
    assert 0 < len(contents(tmp_path)) < 1200
    with mirror(tmp_path):
        assert contents(tmp_path) == before


def test_a_damaged_state_is_moved_aside_and_made_again(tmp_path: Path) -> None:
    before = filled(tmp_path)
    state_file(tmp_path).write_bytes(b"\xff" * 50_000)
    with pytest.raises(StateDamaged):
        check(tmp_path)
    with open_or_renew(state_file(tmp_path)) as state, Files(tmp_path, QuickFileSystem()) as files:
        rebuild(state, files)
    assert not check(tmp_path)
    assert contents(tmp_path) == before
    (kept,) = state_file(tmp_path).parent.glob("state.sqlite3.damaged-*")
    assert kept.read_bytes() == b"\xff" * 50_000


def test_links_are_not_followed_when_files_are_compared(tmp_path: Path) -> None:
    data_dir, outside = tmp_path / "data", tmp_path / "outside"
    before = filled(data_dir)
    (outside / "contact").mkdir(parents=True)
    (outside / "contact/z.json").write_bytes(documents.encode("crm.contact", "z", 9, {}))
    (data_dir / A).unlink()
    (data_dir / A).symlink_to(outside / "contact/z.json")
    (data_dir / "linked").symlink_to(outside)
    assert check(data_dir) == {Fault.MISSING: 1}
    put_right(data_dir)
    after = contents(data_dir)
    assert {path: after[path] for path in before} == before
    assert len(list(outside.rglob("*.json"))) == 1


def test_findings_of_a_running_mirror_are_looked_at_twice(tmp_path: Path) -> None:
    before = filled(tmp_path)
    (tmp_path / A).unlink()
    (tmp_path / B).unlink()
    with State(state_file(tmp_path)) as state, Files(tmp_path, QuickFileSystem()) as files:
        findings = list(compare(state, files))
        (tmp_path / A).write_bytes(before[A])  # the mirror caught up
        assert [finding.path for finding in confirm(findings, state, files, tries=2)] == [B]
        assert repair(findings, state, files) == {Fault.MISSING: 2}
    assert contents(tmp_path) == before
