"""What a person has set in the repository's configuration, remotes above all: kept where that is made anew."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, final

from consumers.history.errors import GitFailed
from consumers.history.git.pack import write_durably

_MADE: Final = ("core.repositoryformatversion", "core.bare", "core.filemode", "core.worktree")
"""What `git init` says of the files as they are; `extensions.` as well."""
_NOT_TAKEN: Final = ("extensions.", "eventbus.")
"""Of the objects that were there: how they were made, and of what they are free."""

log = logging.getLogger(__name__)


@final
class Configuration:
    """The settings of the repository at `path`, in a file beside it from `save` to `put_back`.

    `run` is git in the repository. Who is killed in between has lost nothing: the next puts them back.
    """

    def __init__(self, path: Path, run: Callable[..., str]) -> None:
        self._current = path / "config"
        self._saved = path.with_name(f"{path.name}.config")
        self._run = run

    def save(self) -> None:
        """Keep them: the repository is about to be removed. What is kept already is of before that was made anew."""
        if self._saved.exists() or not self._current.exists():
            return
        temporary = self._saved.with_name(f"{self._saved.name}.tmp")
        write_durably(self._saved, [self._current.read_bytes()], temporary)

    def put_back(self, ours: Collection[str]) -> None:
        """Set again what was kept, but for `ours`. What git cannot read, or not work with, is left out, and told."""
        if not self._saved.exists():
            return
        plain = self._current.read_bytes()
        try:
            self._add(ours)
            self._run("for-each-ref")
        except GitFailed as error:
            self._current.write_bytes(plain)
            log.warning("the settings of the repository that was there are lost, remotes too: %s", error)
        self._saved.unlink()

    def _add(self, ours: Collection[str]) -> None:
        left_out = {*_MADE, *(name.lower() for name in ours)}
        there = self._run("config", "--null", "--list").split("\0")
        for line in self._run("config", "--null", "--list", "--file", str(self._saved.absolute())).split("\0"):
            name, _, value = line.partition("\n")
            if line and line not in there and name not in left_out and not name.startswith(_NOT_TAKEN):
                self._run("config", "--add", name, value)
