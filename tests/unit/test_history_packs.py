"""Packs written by hand against `git fast-import`: whatever comes and goes, the same ids, and objects git can read."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.history.git.commits import Commit
from consumers.history.git.fastimport import FastImport
from consumers.history.git.layout import path_of
from consumers.history.git.message import Signature
from consumers.history.git.pack import BLOB, Pack
from consumers.history.git.packs import PackWriter
from consumers.history.git.repository import Repository

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

NAMES = [path_of(f"crm/{entity}/{n}.json") for entity in ("contact", "invoice") for n in range(12)]
Files = list[tuple[str, bytes | None]]


def write(path: Path, commits: Sequence[Files], make: type[FastImport | PackWriter], every: int) -> str:
    """Make these commits, publish after so many, and go on with another writer at every second publication."""
    repository = Repository(path)
    repository.prepare()
    tip, writer = "", None
    for number, files in enumerate(commits, 1):
        if writer is None:
            writer = make(repository, tip)
        message = b"crm: something\n\nEventbus-Position: %d\n" % number
        writer.commit(Commit(number, Signature(b"ann <ann@crm>", number, number), message, files))
        if number % every == 0 or number == len(commits):
            writer.publish()
            if number % (2 * every) == 0 or number == len(commits):
                writer.close()
                tip, writer = head(path), None
    assert git(path, "fsck", "--full", "--strict").stderr == ""
    return head(path)


def head(path: Path) -> str:
    return git(path, "rev-parse", "main").stdout.strip()


def git(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", path, *arguments], capture_output=True, text=True, check=True)


def test_a_directory_that_is_again_what_it_was_can_be_changed_afterwards(tmp_path: Path) -> None:
    first: Files = [(name, b"first") for name in NAMES]
    commits = [first]
    for n, name in enumerate(NAMES):
        new = path_of(f"crm/contact/new{n}.json")
        commits += [
            [(new, b"new")],
            [(new, None)],
            [(name, b"changed")],
            [(name, b"first")],
            [(name, b"changed again")],
        ]
    assert write(tmp_path / "hand.git", commits, PackWriter, 1000) == write(
        tmp_path / "git.git", commits, FastImport, 1000
    )


def test_a_pack_in_the_making_is_on_the_disk_not_in_memory(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "history.git")
    repository.prepare()
    made = Pack(repository.path)
    tracemalloc.start()
    try:
        for _ in range(40):
            made.add(BLOB, os.urandom(500_000))
        assert made.at > 20_000_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    made.drop()
    assert list((repository.path / "objects" / "pack").iterdir()) == []


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(NAMES), st.sampled_from([b"1", b"2", b"3" * 5000, None])),
            max_size=8,
            unique_by=lambda each: each[0],
        ),
        min_size=2,
        max_size=40,
    ),
    st.integers(1, 20),
)
def test_whatever_comes_and_goes_the_ids_are_those_of_git(commits: list[Files], every: int) -> None:
    commits[0].append(("README", b"so that there is a tree"))
    with tempfile.TemporaryDirectory() as made:
        hand, git = Path(made, "hand.git"), Path(made, "git.git")
        assert write(hand, commits, PackWriter, every) == write(git, commits, FastImport, every)
