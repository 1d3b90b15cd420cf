"""Commits written by `git fast-import`, one long-lived process."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

from consumers.history.errors import GitFailed
from consumers.history.git.commits import Commit
from consumers.history.git.repository import Repository
from consumers.history.git.stream import encode

_PUBLISHED: Final = b"progress published\n"


class FastImport:
    """Adds commits behind `tip`; what is published is in the branch and on the disk. Raises GitFailed."""

    def __init__(self, repository: Repository, tip: str) -> None:
        self._repository = repository
        self._begin(tip)

    def _begin(self, tip: str) -> None:
        self._parent = tip
        # --done: the end of a feeder that was killed is no end of the stream, and publishes nothing.
        self._process = self._repository.start(
            "-c", "core.fsync=all", "fast-import", "--quiet", "--done", "--date-format=raw",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def expect(self, commits: Sequence[Commit]) -> None:
        """These come next; git reads what it needs by itself."""

    def commit(self, commit: Commit) -> None:
        """Add one."""
        self._send(encode(commit, self._parent))
        self._parent = ""

    def publish(self) -> None:
        """Put what was added into the branch, durably."""
        self._send(b"checkpoint\n" + _PUBLISHED)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = b""
        if answer != _PUBLISHED:
            self._fail()

    def let_go(self) -> None:
        """End it, and begin with another."""
        self.close()
        self._begin(self._repository.tip().id)

    def close(self) -> None:
        """End it; what was not published may be, or is made again by the next."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            self._process.stdin.write(b"done\n")
        self._process.communicate()

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except OSError:
            self._fail()

    def _fail(self) -> NoReturn:
        self._process.kill()
        with suppress(OSError, ValueError):
            self._process.stdin.close()  # type: ignore[union-attr]
        _, said = self._process.communicate()
        raise GitFailed(f"git fast-import in {self._repository.path}: {said.decode(errors='replace').strip()[:500]}")
