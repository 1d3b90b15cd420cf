"""Files are whole at any instant, and nothing outside the directory, and nothing foreign inside it, is touched."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.json_mirror.disk import documents
from consumers.json_mirror.disk.directories import Directories
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.disk.filesystem import FileSystem
from consumers.json_mirror.errors import DirectoryGone
from eventbus.errors import ConfigurationError
from tests.support.mirroring import FailingFileSystem, QuickFileSystem, contents, unfinished

PLACE = ("crm/contact", "ab12.json")
PATH = "crm/contact/ab12.json"


class WithoutUnnamedFiles(FileSystem):
    """A file system without O_TMPFILE, as NFS is."""

    unnamed = False


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(params=[FileSystem, WithoutUnnamedFiles])
def files(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Files]:
    with Files(data_dir, request.param()) as opened:
        yield opened


def test_a_file_is_made_changed_and_removed(files: Files, data_dir: Path) -> None:
    files.put(*PLACE, b"one", existed=False)
    assert contents(data_dir) == {PATH: b"one"}
    files.put(*PLACE, b"two")
    assert contents(data_dir) == {PATH: b"two"}
    files.put(*PLACE, None)
    files.put(*PLACE, None)
    assert contents(data_dir) == {}


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_wrong_guess_about_what_exists_does_no_harm(files: Files, data_dir: Path, existed: bool, there: bool) -> None:
    if there:
        files.put(*PLACE, b"before")
    files.put(*PLACE, b"after", existed=existed)
    assert contents(data_dir) == {PATH: b"after"}


def test_who_has_the_old_file_open_reads_the_old_file(files: Files, data_dir: Path) -> None:
    files.put(*PLACE, b"old content")
    with (data_dir / PATH).open("rb") as reader:
        files.put(*PLACE, b"new")
        assert reader.read() == b"old content"


def test_files_are_not_for_everybody(files: Files, data_dir: Path) -> None:
    files.put(*PLACE, b"{}", existed=False)
    assert stat.S_IMODE((data_dir / PATH).stat().st_mode) & 0o137 == 0
    assert stat.S_IMODE((data_dir / "crm").stat().st_mode) & 0o027 == 0


def test_a_link_in_a_files_place_is_replaced_and_its_target_stays(files: Files, data_dir: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_bytes(b"outside")
    (data_dir / "crm/contact").mkdir(parents=True)
    (data_dir / PATH).symlink_to(outside)
    assert files.read(*PLACE) is None
    files.put(*PLACE, b"inside", existed=False)
    assert contents(data_dir) == {PATH: b"inside"}
    assert outside.read_bytes() == b"outside"


@pytest.mark.parametrize("link", ["crm", "crm/contact"])
def test_a_link_in_a_directorys_place_is_not_followed(files: Files, data_dir: Path, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    (outside / "contact").mkdir(parents=True)
    (outside / "ab12.json").write_bytes(b"outside")
    (data_dir / link).parent.mkdir(parents=True, exist_ok=True)
    (data_dir / link).symlink_to(outside)
    files.put(*PLACE, None)
    assert files.read(*PLACE) is None
    files.put(*PLACE, b"inside", existed=False)
    assert contents(data_dir) == {PATH: b"inside"}
    assert contents(outside) == {"ab12.json": b"outside"}


def test_a_directory_swapped_for_a_link_between_two_batches_is_noticed(
    files: Files, data_dir: Path, tmp_path: Path
) -> None:
    files.put(*PLACE, b"one")
    (data_dir / "crm/contact").rename(tmp_path / "moved")
    (data_dir / "crm/contact").symlink_to(tmp_path / "moved")
    files.begin()
    files.put(*PLACE, b"two")
    assert contents(data_dir) == {PATH: b"two"}
    assert (tmp_path / "moved/ab12.json").read_bytes() == b"one"


def test_a_directory_that_was_removed_is_made_again(files: Files, data_dir: Path) -> None:
    files.put(*PLACE, b"one", existed=False)
    (data_dir / PATH).unlink()
    (data_dir / "crm/contact").rmdir()
    files.begin()
    files.put(*PLACE, b"two", existed=False)
    assert contents(data_dir) == {PATH: b"two"}


def test_a_file_in_a_directorys_place_is_foreign_and_stays(files: Files, data_dir: Path) -> None:
    (data_dir / "crm").write_bytes(b"a note")
    with pytest.raises(NotADirectoryError):
        files.put(*PLACE, b"{}")
    assert contents(data_dir) == {"crm": b"a note"}


def test_a_directory_in_a_files_place_is_foreign_and_stays(files: Files, data_dir: Path) -> None:
    (data_dir / PATH).mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        files.put(*PLACE, b"{}")
    files.put(*PLACE, None)
    assert files.read(*PLACE) is None
    assert (data_dir / PATH).is_dir()
    assert unfinished(data_dir) == []


def test_the_private_directory_must_not_lead_elsewhere(data_dir: Path, tmp_path: Path) -> None:
    data_dir.mkdir()
    (data_dir / ".eventbus").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="symbolic link"):
        Files(data_dir)


def test_the_directory_itself_may_be_a_link(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    data_dir.symlink_to(tmp_path / "volume")
    with Files(data_dir) as files:
        files.begin()
        files.put(*PLACE, b"{}")
    assert contents(tmp_path / "volume") == {PATH: b"{}"}


@pytest.mark.parametrize("again", [True, False])
def test_a_directory_replaced_under_the_mirror_ends_it(data_dir: Path, tmp_path: Path, again: bool) -> None:
    with Files(data_dir) as files:
        data_dir.rename(tmp_path / "elsewhere")
        if again:
            data_dir.mkdir()
        with pytest.raises(DirectoryGone):
            files.begin()


def test_pipes_and_other_oddities_are_no_files_of_ours(files: Files, data_dir: Path) -> None:
    (data_dir / "crm/contact").mkdir(parents=True)
    os.mkfifo(data_dir / PATH)
    assert files.document(*PLACE) is None


def test_what_a_killed_process_left_is_swept(files: Files, data_dir: Path) -> None:
    files.sweep()
    for name in ("1f-1", "1f-2"):
        (data_dir / ".eventbus/making" / name).write_bytes(b"half")
    assert files.sweep() == 2
    assert unfinished(data_dir) == []


@pytest.mark.parametrize("directory", ["crm/entity{}", "service{}/entity", "s{}/e{}"])
def test_many_directories_need_few_descriptors(files: Files, data_dir: Path, directory: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(2):
        files.begin()
        for number in range(140):
            files.put(directory.format(number, number % 7), "a.json", b"%d" % min(turn, 1))
    assert len(os.listdir("/proc/self/fd")) - before < 200
    assert set(contents(data_dir).values()) == {b"1"}
    assert len(files.directories()) == 140


def test_a_directory_whose_parent_was_closed_for_want_of_room_is_found_again(data_dir: Path) -> None:
    filesystem = QuickFileSystem()
    directories = Directories(data_dir, filesystem)
    directories.get("a/b", make=True)
    for number in range(126):
        directories.get(f"c/{number}", make=True)
    directories.begin()
    descriptor = directories.get("a/b", make=False)  # opening a takes the room of a/b
    assert filesystem.identity_of(descriptor)[1] == (data_dir / "a/b").stat().st_ino
    directories.close()


def test_a_document_counts_only_under_its_own_name(files: Files) -> None:
    content = documents.encode("crm.contact", "ab12", 7, {"name": "é"})
    files.put(*PLACE, content)
    document = files.document(*PLACE)
    assert document == documents.Document("crm.contact", "ab12", 7, {"name": "é"})
    files.put("crm/contact", "other.json", content)
    assert files.document("crm/contact", "other.json") is None
    files.put("crm/person", "ab12.json", content)
    assert files.document("crm/person", "ab12.json") is None


def test_each_file_is_on_the_disk_before_it_appears_where_that_is_asked_for(data_dir: Path) -> None:
    calls: list[str] = []

    class Recording(FileSystem):
        def sync(self, file: int) -> None:
            calls.append("sync directory" if stat.S_ISDIR(os.fstat(file).st_mode) else "sync file")
            super().sync(file)

        def give_name(self, file: int, name: str, directory: int) -> None:
            calls.append("appear")
            super().give_name(file, name, directory)

        def rename(self, name: str, directory: int, to_name: str, to_directory: int) -> None:
            calls.append("appear")
            super().rename(name, directory, to_name, to_directory)

    with Files(data_dir, Recording(), durable=True) as files:
        files.put(*PLACE, b"one", existed=False)
        files.put(*PLACE, b"two")
    assert calls == ["sync file", "appear", "sync directory"] * 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("unnamed", [True, False])
def test_the_old_file_stays_whichever_call_fails(data_dir: Path, number: int, existed: bool, unnamed: bool) -> None:
    """The Nth call fails, for N = 1, 2, 3 … until none is left to fail."""
    with Files(data_dir) as files:
        files.put("crm/contact", "other.json", b"other")
        if existed:
            files.put(*PLACE, b"old")
    before = contents(data_dir)
    for nth in range(1, 100):
        filesystem = FailingFileSystem(nth, number)
        filesystem.unnamed = unnamed
        try:
            with Files(data_dir, filesystem) as files:
                files.put(*PLACE, b"new content", existed=existed)
        except OSError as error:
            assert error.errno == number  # noqa: PT017  most rounds raise, the last does not
            # Where only closing failed, the file may have appeared already: whole, as always.
            assert contents(data_dir) in (before, before | {PATH: b"new content"})
            with Files(data_dir) as files:
                files.sweep()
                files.put(*PLACE, before.get(PATH))
        else:
            if not filesystem.failed:
                break
    assert nth > 3
    assert contents(data_dir) == before | {PATH: b"new content"}
    assert unfinished(data_dir) == []
