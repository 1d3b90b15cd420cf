"""Packs are joined beside whoever makes commits: no object is lost or comes back, whoever is killed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.history.errors import GitFailed
from consumers.history.git.commits import Commit
from consumers.history.git.joining import Joining, out_of_proportion
from consumers.history.git.layout import path_of
from consumers.history.git.message import Signature
from consumers.history.git.packs import PackWriter
from consumers.history.git.repository import Repository

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


class House:
    """A repository of packs, each a publication of some commits."""

    def __init__(self, path: Path, text: str = "") -> None:
        self.text = text.encode()
        self.repository = Repository(path)
        self.repository.prepare()
        self.writer = PackWriter(self.repository, "")
        self.count = 0

    def publish(self, commits: int) -> None:
        for _ in range(commits):
            self.count += 1
            files = [
                (path_of(f"crm/contact/{n}.json"), b"%s%d in %d" % (self.text, n, self.count))
                for n in range(self.count % 7)
            ]
            self.writer.commit(Commit(self.count, Signature(b"ann <ann@crm>", 1, 1), b"crm: %d\n" % self.count, files))
        self.writer.publish()

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", self.repository.path, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout

    @property
    def directory(self) -> Path:
        return self.repository.path / "objects" / "pack"

    @property
    def packs(self) -> set[str]:
        return {each.name for each in self.directory.glob("pack-*")}

    def objects(self) -> list[str]:
        """All there are, whole."""
        assert self.git("fsck", "--full", "--strict") == ""
        listed = self.git("cat-file", "--batch-check=%(objectname)", "--batch-all-objects", "--unordered")
        return sorted(listed.split())

    def commits(self) -> int:
        return int(self.git("rev-list", "--count", "main"))


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path / "history.git")
    for commits in (9, 3, 3, 1, 1, 1):
        made.publish(commits)
    return made


def test_packs_become_one_with_the_same_objects_once_it_is_ended(house: House) -> None:
    before, packs = house.objects(), house.packs
    joining = Joining(house.repository)
    joining.begin()
    assert house.packs == packs
    assert joining.end(wait=True)
    house.writer.let_go()
    assert house.repository.packs == 1
    assert house.objects() == before
    assert {each.name for each in house.directory.iterdir()} == house.packs
    joining.begin()
    assert not joining.end(wait=True)  # there is nothing to join


def test_what_is_published_meanwhile_stays(house: House) -> None:
    joining = Joining(house.repository)
    joining.begin()
    house.publish(2)
    assert joining.end(wait=True)
    house.publish(2)
    house.writer.let_go()
    assert house.repository.packs == 3
    assert house.commits() == 22
    house.objects()


def objects_of(index: Path) -> int:
    return index.stat().st_size // 28


def test_large_packs_are_joined_with_no_other_and_no_join_is_of_more_than_makes_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising = sorted(house.directory.glob("*.idx"), key=objects_of)
    monkeypatch.setattr("consumers.history.git.joining.LARGE", objects_of(rising[-1]))
    before = house.objects()
    joining = Joining(house.repository)
    assert joining.small() == 5
    joining.begin()
    assert joining.end(wait=True)
    assert rising[-1].exists()
    assert rising[-2].exists()
    assert not rising[-3].exists()
    assert house.repository.packs == 3
    assert house.objects() == before


def blobs_as_deltas(house: House) -> int:
    found = 0
    for index in house.directory.glob("*.idx"):
        lines = [line.split() for line in house.git("verify-pack", "-v", str(index)).splitlines()]
        found += sum(len(line) == 7 and line[1] == "blob" for line in lines)
    return found


def test_what_objects_have_in_common_is_looked_for_once_when_a_pack_becomes_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path / "history.git", "a long text that stays as it is, version after version; " * 9)
    for _ in range(3):
        house.publish(3)
    joining = Joining(house.repository)
    joining.begin()
    assert joining.end(wait=True)
    house.writer.let_go()
    assert house.repository.packs == 1
    assert blobs_as_deltas(house) == 0
    before = house.objects()
    (made,) = house.directory.glob("*.idx")
    monkeypatch.setattr("consumers.history.git.joining.LARGE", objects_of(made) + 1)
    house.publish(6)
    joining.begin()
    assert joining.end(wait=True)
    house.writer.let_go()
    assert house.repository.packs == 1
    assert blobs_as_deltas(house) > 10
    assert set(before) < set(house.objects())


def test_a_git_that_outlives_its_follower_puts_nothing_in_place(house: House) -> None:
    before, packs = house.objects(), house.packs
    joining = Joining(house.repository)
    joining.begin()
    assert joining._git is not None
    joining._git.wait()  # its follower was killed: nobody ends the join
    house.repository.prepare()
    assert {each.name for each in house.directory.iterdir()} == packs
    assert house.objects() == before
    joining.stop()


def test_a_join_that_is_given_up_changes_nothing_and_leaves_no_process(house: House) -> None:
    before, packs = house.objects(), house.packs
    joining = Joining(house.repository)
    joining.begin()
    assert joining._git is not None
    pid = joining._git.pid
    joining.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    assert house.packs == packs
    assert not joining.end(wait=True)
    house.repository.prepare()
    assert house.objects() == before
    joining.begin()
    assert joining.end(wait=True)


def test_it_is_not_waited_for_unless_asked(house: House) -> None:
    joining = Joining(house.repository)
    joining.begin()
    assert joining._git is not None
    os.killpg(joining._git.pid, signal.SIGSTOP)
    assert not joining.end()
    joining.begin()  # not a second one
    os.killpg(joining._git.pid, signal.SIGCONT)
    assert joining.end(wait=True)


_NICE = """
import os, sys
from pathlib import Path
from consumers.history.git.joining import Joining
from consumers.history.git.repository import Repository
joining = Joining(Repository(Path(sys.argv[1])))
joining.begin()
print(os.getpriority(os.PRIO_PROCESS, joining._git.pid))
joining.stop()
"""


@pytest.mark.parametrize("more", [3, 19])
def test_git_is_never_less_nice_than_its_follower_which_needs_a_right(house: House, more: int) -> None:
    """The follower of a mirror is at 19 already."""
    command = ["nice", "-n", str(more), sys.executable, "-c", _NICE, str(house.repository.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + more + 10)


def test_a_pack_that_git_cannot_read_is_told_and_every_pack_stays(house: House) -> None:
    spoilt = max(house.directory.glob("*.pack"), key=lambda each: each.stat().st_size)
    packs = house.packs
    content = bytearray(spoilt.read_bytes())
    content[40:400] = bytes(360)
    spoilt.chmod(0o600)
    spoilt.write_bytes(content)
    joining = Joining(house.repository)
    joining.begin()
    with pytest.raises(GitFailed, match=r"(?s)git pack-objects in .*history\.git: .*`eventbus history git --fresh`"):
        joining.end(wait=True)
    assert house.packs == packs


def test_a_list_of_packs_that_somebody_had_made_does_not_outlive_them(house: House) -> None:
    house.git("multi-pack-index", "write")
    before = house.objects()
    joining = Joining(house.repository)
    joining.begin()
    assert joining.end(wait=True)
    assert house.objects() == before


@given(st.lists(st.integers(1, 10_000), max_size=30))
def test_after_a_join_each_pack_is_at_least_twice_the_next(numbers: list[int]) -> None:
    sizes = {f"p{index}": size for index, size in enumerate(numbers)}
    joined = out_of_proportion(sizes)
    assert len(joined) != 1
    left = [size for name, size in sizes.items() if name not in joined]
    rising = sorted([*left, sum(sizes[name] for name in joined)] if joined else left)
    assert all(2 * smaller <= larger for smaller, larger in pairwise(rising))
    assert not out_of_proportion({str(size): size for size in rising})
