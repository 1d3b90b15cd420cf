"""The bare repository: made, asked for its tip, and kept in shape. git itself does the work."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, NamedTuple

from consumers.history.errors import GitFailed
from consumers.history.git.configuration import Configuration
from consumers.history.git.message import HISTORY, POSITION, TRANSACTION
from consumers.history.settings import git_environment
from consumers.json_mirror.disk.directories import PRIVATE

BRANCH: Final = "main"
ANEW: Final = "`eventbus history git --fresh` makes it anew"
REF: Final = f"refs/heads/{BRANCH}"
_BOOKMARK: Final = (POSITION, HISTORY, TRANSACTION)
_ERASURES: Final = "eventbus.erasures"
_CONFIG: Final = {
    "fastimport.unpackLimit": "0",  # loose objects are files, one for each
    "gc.auto": "0",  # only the follower repacks: a pack whose ref is not set yet would lose its objects
    "core.commitGraph": "true",
    # git takes as much memory as there is, for each processor, and maps packs as a whole: joining them is to be small.
    "pack.threads": "1",
    "pack.windowMemory": "16m",
    "pack.deltaCacheSize": "8m",
    "core.deltaBaseCacheLimit": "8m",
    "core.packedGitWindowSize": "1m",
    "core.packedGitLimit": "32m",
    "core.bigFileThreshold": "4m",
}


_STALE: Final = (
    *("*.lock", "refs/heads/*.lock", "objects/info/commit-graphs/*.lock", "objects/pack/*.lock"),
    *("objects/pack/tmp_*", "objects/pack/.tmp-*", "objects/pack/*.keep", "objects/??/tmp_obj_*"),
)
"""What a writer leaves that was killed, git in the midst of joining packs included; only one writes at a time."""
_MARK: Final = b"[eventbus]"
"""Stands in the configuration of a repository that was made here."""


class Tip(NamedTuple):
    """The newest commit: its id, position and transaction, and the identity of the history it was made of."""

    id: str
    position: int
    identity: str
    transaction: str


NOTHING: Final = Tip("", 0, "", "")


def is_there(path: Path) -> bool:
    """Whether there is a repository, or what is left of one that was being removed."""
    return path.exists() or _gone(path).exists()


def _gone(path: Path) -> Path:
    return path.with_name(f"{path.name}.gone")


class Repository:
    """The bare repository at `path`. One process writes it. Raises GitFailed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._git = require_git()
        self._configuration = Configuration(path, self.run)

    def prepare(self) -> None:
        """Make it if there is none, and clear away what a killed writer left."""
        if _gone(self.path).exists():
            shutil.rmtree(_gone(self.path))
        if not (self.path / "HEAD").exists():
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._run("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(self.path), inside=False)
        for stale in (each for pattern in _STALE for each in self.path.glob(pattern)):
            stale.unlink(missing_ok=True)
        known = self.run("config", "--null", "--list").split("\0")
        for key, value in _CONFIG.items():
            if f"{key.lower()}\n{value}" not in known:
                self.run("config", key, value)
        self._configuration.put_back(_CONFIG)

    def remove(self) -> None:
        """Take it away, to be made anew by `prepare`, in whatever state it is; what a person has set there is kept.

        Raises GitFailed where it is none of ours.
        """
        if _gone(self.path).exists():
            shutil.rmtree(_gone(self.path))
        if not self.path.exists():
            return
        if not self._is_ours():
            raise GitFailed(f"{self.path} is not a repository of the history: remove it yourself, or name another")
        self._configuration.save()
        self.path.rename(_gone(self.path))  # at once: what is left of it after a crash is no repository
        shutil.rmtree(_gone(self.path))

    def _is_ours(self) -> bool:
        config = self.path / "config"
        if self.path.parent.name == PRIVATE or not any(self.path.iterdir()):
            return True
        is_marked = config.exists() and _MARK in config.read_bytes()
        if is_marked and {each.name for each in self.path.glob("refs/heads/*")} <= {BRANCH, f"{BRANCH}.lock"}:
            return True  # also where git cannot read it any more
        return self.tip() != NOTHING

    def tip(self) -> Tip:
        """Where it stands; NOTHING where no commit is in it."""
        form = "--format=%H" + "".join(f"%x00%(trailers:key={key},valueonly)" for key in _BOOKMARK)
        if not self.run("rev-parse", "--quiet", "--verify", REF, check=False).strip():
            return NOTHING
        id, *told = self.run("log", "-1", form, REF).split("\0")
        try:
            position, identity, transaction = told
            return Tip(id, int(position), identity.strip(), transaction.strip())
        except ValueError:
            raise GitFailed(f"the newest commit of {self.path} is not one of the history: {id}") from None

    @property
    def erasures(self) -> str:
        """What `History.erasures` was when the commits were made."""
        return self.run("config", "--get", _ERASURES, check=False).strip()

    def note_erasures(self, erasures: str) -> None:
        """Nothing of what was erased until now is in the commits."""
        self.run("config", _ERASURES, erasures)

    def rewind(self, position: int) -> list[str]:
        """Go back to the commit of this position, or the last one before it, or to none.

        What else leads to later commits goes, so that no object of them stays: tags, other branches, and what a push
        has noted of a remote. Their names are returned.
        """
        self._go_back(position)
        names = "--format=%(refname)"
        kept = self.run("for-each-ref", names, f"--merged={REF}").split() if self.tip().id else []
        gone = [name for name in self.run("for-each-ref", names).split() if name not in kept]
        for name in gone:
            self.run("update-ref", "-d", name)
        return gone

    def _go_back(self, position: int) -> None:
        form = f"--format=%H %(trailers:key={POSITION},valueonly,separator=)"
        for line in self.run("log", form, REF).splitlines():
            id, _, number = line.partition(" ")
            if number.isdecimal() and int(number) <= position:
                self.run("update-ref", REF, id)
                return
        self.run("update-ref", "-d", REF)

    def run(self, *arguments: str, check: bool = True, **options: Any) -> str:
        """git's standard output."""
        return self._run(*arguments, check=check, **options)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """A git that goes on running."""
        return subprocess.Popen(  # noqa: S603  git, found in PATH; no word of it comes from an event
            [self._git, "-C", str(self.path), *arguments], env=git_environment(), bufsize=1 << 20, **options
        )

    def hashes(self, blobs: Iterable[bytes]) -> list[str]:
        """The ids that git gives these files."""
        return [sha1(b"blob %d\0%s" % (len(blob), blob), usedforsecurity=False).hexdigest() for blob in blobs]

    def _run(self, *arguments: str, check: bool = True, inside: bool = True, both: bool = False, **options: Any) -> str:
        where = ["-C", str(self.path)] if inside else []
        done = subprocess.run(  # noqa: S603  as above
            [self._git, *where, *arguments], capture_output=True, env=git_environment(), check=False, **options
        )
        if check and done.returncode:
            raise self.failure(arguments[0], done.stderr)
        return str((done.stdout + done.stderr if both else done.stdout).decode(errors="replace"))

    def failure(self, command: str, said: bytes) -> GitFailed:
        """The error of a git that has failed, with its words."""
        words = said.decode(errors="replace").strip()
        return GitFailed(f"git {command} in {self.path}: {words}; if it is damaged, {ANEW}")

    # --- upkeep -------------------------------------------------------------------------------------------------

    @property
    def packs(self) -> int:
        """How many packs there are."""
        return sum(1 for _ in self.path.glob("objects/pack/*.pack"))

    def write_graph(self) -> None:
        """What makes the log of one path eight times as fast."""
        self.run("commit-graph", "write", "--reachable", "--changed-paths", "--split")

    def repack_all(self) -> None:
        """One pack, with nothing in it that no commit reaches."""
        self.run("reflog", "expire", "--expire=now", "--all")
        shutil.rmtree(self.path / "objects" / "info" / "commit-graphs", ignore_errors=True)
        self.run("repack", "-a", "-d", "--quiet")
        self.run("prune", "--expire=now")


def require_git() -> str:
    """The path of git. Raises GitFailed where it is not installed."""
    found = shutil.which("git")
    if found is None:
        raise GitFailed("git is not installed: install it, or set EVENTBUS_HISTORY=sqlite")
    return found
