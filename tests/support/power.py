"""A file system of a test's own, from which the power can be taken."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.consuming import wait_for


class Disk:
    """An ext4 in a file. When the power is taken, what was not flushed by then is gone."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._image = place.with_suffix(".0")
        self._cuts = 0
        place.mkdir()
        run("truncate", "-s", "128M", self._image)
        run("mkfs.ext4", "-q", "-F", self._image)
        run("mount", "-o", "loop", self._image, place)

    def cut_power(self, freeze: Callable[[], None], kill: Callable[[], None]) -> None:
        """Those who write end with it. The block device as it was when they froze is what comes back."""
        freeze()
        self._cuts += 1
        now, again = (self._image.with_suffix(f".{self._cuts}{suffix}") for suffix in ("", "x"))
        wait_for(lambda: self._copy(now, again), 60)
        kill()
        again.unlink()
        self.remove()
        run("mount", "-o", "loop", now, self.place)
        self._image = now

    def _copy(self, now: Path, again: Path) -> bool:
        """False where something was written meanwhile."""
        shutil.copyfile(self._image, now)
        shutil.copyfile(self._image, again)
        return filecmp.cmp(now, again, shallow=False)

    def remove(self) -> None:
        """Unmount it, and throw it away."""
        run("umount", "--lazy", self.place)
        self._image.unlink()


def run(*command: str | Path) -> None:
    subprocess.run(command, capture_output=True, check=True)


@contextmanager
def disk_at(place: Path) -> Iterator[Disk]:
    """A disk that is mounted there; the test is skipped where that cannot be."""
    try:
        made = Disk(place)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a disk of the test's own needs root, mkfs.ext4 and loop devices: {error}")
    try:
        yield made
    finally:
        made.remove()
