"""Git objects written by hand: one pack a publication, trees kept as bytes and edited in place.

To change a record its name is looked up in the bytes of its directory's tree, and 20 bytes are overwritten. A tree is
written whole, or as the delta against its form before, which needs no search: copy, 20 bytes, copy. That makes the same
ids as `git fast-import`, 1.7 times as fast, and more than twice as fast for large transactions.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from consumers.history.errors import GitFailed
from consumers.history.git.commits import Commit
from consumers.history.git.pack import BLOB, COMMIT, TREE, Pack, copy_of, object_id, varint, write_durably
from consumers.history.git.repository import ANEW, REF, Repository

_CHAIN: Final = 50
"""Deltas that lean on one another at most."""
_FILE: Final = b"100644 "
_DIRECTORY: Final = b"40000 "
_ASKED: Final = 64
"""Names that git is asked at once: they fit into the smallest pipe, so nobody waits for who waits for him."""
_MOST_TREES: Final = 50_000
"""Trees kept in memory; beyond them all are read again as they are needed."""


class PackWriter:
    """Adds commits behind `tip`; what is published is in the branch and on the disk. Raises GitFailed."""

    def __init__(self, repository: Repository, tip: str) -> None:
        self._repository = repository
        self._tip = tip
        self._pack = Pack(repository.path)
        self._trees = _Trees(repository, tip)

    def expect(self, commits: Sequence[Commit]) -> None:
        """These come next."""
        self._trees.expect({path.rpartition("/")[0] for commit in commits for path, _ in commit.files})

    def commit(self, commit: Commit) -> None:
        """Add one."""
        root = self._trees.change(self._pack, _by_directory(self._pack, commit))
        author, made, committed = commit.signature
        parent = b"parent %s\n" % self._tip.encode() if self._tip else b""
        body = b"tree %s\n%sauthor %s %d +0000\ncommitter eventbus <> %d +0000\n\n%s" % (
            root.hex().encode(), parent, author, made, committed, commit.message,
        )  # fmt: skip
        self._tip = self._pack.add(COMMIT, body).hex()

    def publish(self) -> None:
        """Put what was added into the branch, durably: first the pack, then the branch."""
        if not self._pack.entries:
            return
        keep = self._pack.finish()
        self._pack = Pack(self._repository.path)
        target = self._repository.path / REF
        target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(target, [self._tip.encode() + b"\n"], Path(f"{target}.lock"))
        keep.unlink()
        self._trees.published(self._tip)

    def let_go(self) -> None:
        """Hold no file of the repository open: some are gone."""
        self._trees.close()

    def close(self) -> None:
        """Let go of what is not published; the next makes it again."""
        self._pack.drop()
        self._trees.close()


def _by_directory(pack: Pack, commit: Commit) -> dict[str, dict[bytes, bytes | None]]:
    """The ids of the new files, or None, by directory and name."""
    found: dict[str, dict[bytes, bytes | None]] = {}
    for path, document in commit.files:
        directory, _, name = path.rpartition("/")
        id = None if document is None else pack.add(BLOB, document)
        found.setdefault(directory, {})[name.encode()] = id
    return found


class _Tree:
    """A directory as git has it; `base` is its place in `pack`, `chain` how many deltas lead there."""

    __slots__ = ("base", "chain", "data", "pack")

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.pack: Pack | None = None
        self.base = self.chain = 0


class _Trees:
    """The directories that were met, those that are not at hand read from the repository."""

    def __init__(self, repository: Repository, tip: str) -> None:
        self._repository = repository
        self._git: subprocess.Popen[bytes] | None = None
        self._trees: dict[str, _Tree] = {}
        self._tip = tip

    def close(self) -> None:
        """End the git that reads."""
        if self._git is not None:
            with suppress(OSError):
                self._git.communicate()
            self._git = None

    def expect(self, directories: Iterable[str]) -> None:
        """Read those that are not at hand, and the ones above them, level by level: each is one question to git."""
        levels: dict[int, set[str]] = {}
        for directory in directories:
            above: str | None = directory
            while above is not None and above not in self._trees:
                levels.setdefault(_depth(above), set()).add(above)
                above = above.rpartition("/")[0] if above else None
        for depth in sorted(levels):
            wanted = list(levels[depth])
            names = [self._name(path) for path in wanted]
            found = iter(self._objects([name for name in names if name]))
            for path, name in zip(wanted, names, strict=True):
                self._trees[path] = _Tree(next(found) if name else b"")

    def change(self, pack: Pack, files: Mapping[str, Mapping[bytes, bytes | None]]) -> bytes:
        """Put these into the tree, and write every directory above them; the id of the root."""
        pending: dict[str, dict[bytes, tuple[bytes, bytes | None]]] = {
            directory: {name: (_FILE, id) for name, id in names.items()} for directory, names in files.items()
        }
        pending.setdefault("", {})
        while True:  # the deepest first
            depth = max(map(_depth, pending))
            for directory in [each for each in pending if _depth(each) == depth]:
                id = self._write(pack, directory, pending.pop(directory))
                if not directory:
                    assert id is not None
                    return id
                parent, _, name = directory.rpartition("/")
                pending.setdefault(parent, {})[name.encode()] = _DIRECTORY, id

    def published(self, tip: str) -> None:
        """Everything can be read from the repository now."""
        self._tip = tip
        if len(self._trees) > _MOST_TREES:
            self._trees.clear()

    def _write(self, pack: Pack, path: str, names: Mapping[bytes, tuple[bytes, bytes | None]]) -> bytes | None:
        """The directory with these entries; its id, or None where nothing is left in it."""
        tree = self._load(path)
        edits: list[int] | None = []
        for name, (mode, id) in names.items():
            at = tree.data.find(mode + name + b"\0")  # with its mode: a short name alone may be found inside an id
            if id is not None and at >= 0:
                at += len(mode) + len(name) + 1
                tree.data[at : at + 20] = id
                if edits is not None:
                    edits.append(at)
            else:
                edits = None
                if id is not None:
                    _insert(tree.data, mode, name, id)
                elif at >= 0:
                    del tree.data[at : at + len(mode) + len(name) + 21]
        if not tree.data and path:
            return None
        return _put(pack, tree, edits)

    def _load(self, path: str) -> _Tree:
        if path not in self._trees:
            self.expect([path])
        return self._trees[path]

    def _name(self, path: str) -> bytes:
        """What git calls this directory; empty where the repository has none of it. Those above it are at hand."""
        if not path:
            return f"{self._tip}^{{tree}}".encode() if self._tip else b""
        parent, _, name = path.rpartition("/")
        data, mark = self._trees[parent].data, _DIRECTORY + name.encode() + b"\0"
        at = data.find(mark)
        return b"" if at < 0 else bytes(data[at + len(mark) : at + len(mark) + 20]).hex().encode()

    def _objects(self, names: Sequence[bytes]) -> Iterator[bytes]:
        if names and self._git is None:
            self._git = self._repository.start("cat-file", "--batch", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for start in range(0, len(names), _ASKED):
            yield from self._some_objects(names[start : start + _ASKED])

    def _some_objects(self, names: Sequence[bytes]) -> Iterator[bytes]:
        assert self._git is not None
        assert self._git.stdin is not None
        assert self._git.stdout is not None
        try:
            self._git.stdin.write(b"".join(name + b"\n" for name in names))
            self._git.stdin.flush()
            for _ in names:
                head = self._git.stdout.readline().split()
                yield self._git.stdout.read(int(head[2]) + 1)[:-1]
        except (OSError, IndexError) as error:
            raise GitFailed(
                f"{self._repository.path}: a tree of {self._tip or 'it'} cannot be read; if it is damaged, {ANEW}"
            ) from error


def _put(pack: Pack, tree: _Tree, edits: list[int] | None) -> bytes:
    id = object_id(TREE, tree.data)
    if id in pack.entries:
        tree.pack = None  # it is again what it was, or what another is: its last form is no base of the next
        return id
    at = pack.at
    if edits and tree.pack is pack and tree.chain < _CHAIN and len(tree.data) > 60 * len(edits):
        pack.add_delta(id, tree.base, _difference(tree.data, sorted(edits)))
        tree.chain += 1
    else:
        pack.add(TREE, bytes(tree.data))
        tree.chain = 0
    tree.pack, tree.base = pack, at
    return id


def _difference(data: bytearray, edits: list[int]) -> bytes:
    """The delta in which only the ids at these places are new."""
    size = varint(len(data))
    parts, last = [size, size], 0
    for at in edits:
        if at > last:
            parts.append(copy_of(last, at - last))
        parts.append(b"\x14" + bytes(data[at : at + 20]))
        last = at + 20
    if last < len(data):
        parts.append(copy_of(last, len(data) - last))
    return b"".join(parts)


def _insert(data: bytearray, mode: bytes, name: bytes, id: bytes) -> None:
    """Put in a new entry; git orders a directory as if its name ended with a slash."""
    mine = name + (b"/" if mode == _DIRECTORY else b"")
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        end = data.index(b"\0", space)
        if bytes(data[space + 1 : end]) + (b"/" if data[at : at + 1] == b"4" else b"") > mine:
            break
        at = end + 21
    data[at:at] = mode + name + b"\0" + id


def _depth(path: str) -> int:
    return path.count("/") if path else -1
