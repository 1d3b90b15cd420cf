"""Packs joined to one by git, beside a follower that goes on making commits.

An object is joined several times, each time into a pack twice as large, and is only copied there: 2 µs, 140 bytes of
memory. Once a pack becomes large it is joined no more. Only then does git look for what objects have in common: that
takes 22 µs and 280 bytes an object, and makes a change half as large.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from consumers.base.companion import give_way
from consumers.history.git.pack import sync_directory
from consumers.history.git.repository import Repository

LARGE: Final = 150_000
"""Objects from which on a pack is joined with no other. So no join has more than twice as many, and git little memory.
"""
_INDEXED: Final = 28
"""Bytes an object has in the index of its pack."""
_FAN: Final = struct.Struct(">8x1020xI")
"""The head of an index: the last number of its table is how many objects there are. Their ids follow."""
_MADE: Final = ".tmp-join"
"""How files begin that git has in the making; `Repository.prepare` clears them away."""


class Joining:
    """Joins packs, one join at a time. git makes the new pack; only `end` puts it in the place of the old ones.

    So a git that outlives its follower changes nothing: what was erased meanwhile does not come back. Raises GitFailed.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._directory = repository.path / "objects" / "pack"
        self._git: subprocess.Popen[bytes] | None = None
        self._packs: Sequence[str] = ()

    def begin(self) -> None:
        """Begin with packs that are out of proportion, if there are any and none are being joined."""
        if self._git is not None:
            return
        sizes = self._sizes()
        self._packs = self._to_join(sizes)
        if not self._packs:
            return
        becomes_large = sum(sizes[name] for name in self._packs) >= LARGE
        with tempfile.TemporaryFile(dir=self._directory) as listed:
            if becomes_large:
                listed.writelines(
                    b"%s%s.pack\n" % (b"" if name in self._packs else b"^", name.encode()) for name in sizes
                )
            else:
                listed.writelines(map(self._objects, self._packs))
            listed.seek(0)
            self._git = self._repository.start(
                "pack-objects", "--delta-base-offset", "--quiet", "--stdin-packs" if becomes_large else "--window=0",
                str(self._directory / _MADE),
                stdin=listed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
            )  # fmt: skip
        give_way(self._git.pid)

    def _to_join(self, sizes: dict[str, int]) -> list[str]:
        """The smallest of those that are out of proportion, until they make a large one."""
        joined: list[str] = []
        total = 0
        for name in out_of_proportion({name: size for name, size in sizes.items() if size < LARGE}):
            if total >= LARGE:
                break
            joined.append(name)
            total += sizes[name]
        return joined

    def _objects(self, pack: str) -> bytes:
        """The ids of its objects, a line each."""
        with (self._directory / f"{pack}.idx").open("rb") as index:
            (count,) = _FAN.unpack(index.read(_FAN.size))
            return index.read(20 * count).hex("\n", 20).encode() + b"\n"

    def end(self, *, wait: bool = False) -> bool:
        """Once git is done, put its pack in the place of those it was made of, durably. Tells whether it did."""
        if self._git is None or (not wait and self._git.poll() is None):
            return False
        git, self._git = self._git, None
        made, said = git.communicate()
        if git.returncode:
            raise self._repository.failure("pack-objects", said)
        self._replace(made.decode().strip())
        return True

    def stop(self) -> None:
        """Give up what is not done: the packs stay as they are."""
        if self._git is None:
            return
        git, self._git = self._git, None
        with suppress(ProcessLookupError):
            os.killpg(git.pid, signal.SIGTERM)
        git.communicate()

    def small(self) -> int:
        """How many packs there are that may be joined."""
        return sum(size < LARGE for size in self._sizes().values())

    def _sizes(self) -> dict[str, int]:
        """Packs and their objects, as far as the size of an index says it."""
        return {each.stem: each.stat().st_size // _INDEXED for each in self._directory.glob("pack-*.idx")}

    def _replace(self, id: str) -> None:
        name = f"pack-{id}"
        # git sees a pack by its index: that comes last, and goes first.
        for each in sorted(self._directory.glob(f"{_MADE}-{id}.*"), key=_is_index):
            each.rename(self._directory / f"{name}{each.suffix}")
        sync_directory(self._directory)
        for each in self._directory.glob("multi-pack-index*"):
            each.unlink()  # somebody's `git maintenance` made it: it names packs that go
        for former in self._packs:
            if former != name:
                for each in sorted(self._directory.glob(f"{former}.*"), key=_is_index, reverse=True):
                    each.unlink()


def _is_index(path: Path) -> bool:
    return path.suffix == ".idx"


def out_of_proportion(sizes: dict[str, int]) -> list[str]:
    """Those to join, so that each pack is at least twice as large as the next; none where it is so."""
    rising = sorted(sizes, key=sizes.__getitem__)
    first = len(rising) - 1
    while first > 0 and sizes[rising[first]] >= 2 * sizes[rising[first - 1]]:
        first -= 1
    if first <= 0:
        return []
    joined = sum(sizes[name] for name in rising[: first + 1])
    for name in rising[first + 1 :]:
        if sizes[name] >= 2 * joined:
            break
        joined += sizes[name]
        first += 1
    return rising[: first + 1]
