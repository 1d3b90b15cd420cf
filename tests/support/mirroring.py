"""Mirrors, and what to feed them, for tests."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from consumers.base import DONE, Delivery, Outcome
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.disk.filesystem import FileSystem
from consumers.json_mirror.service import Mirror
from consumers.json_mirror.state import STATE_FILE, State
from consumers.json_mirror.upkeep.recovery import recover
from eventbus.events import envelope, naming

MODEL: Final = "crm.contact"


def body(
    pk: Any,
    version: int,
    fields: Mapping[str, Any] | None = None,
    *,
    op: str | None = None,
    model: str = MODEL,
    **more: Any,
) -> bytes:
    """A sealed event; without `fields` a deletion. `more` stands in its data, such as `stub`."""
    operation = op or ("d" if fields is None else "u")
    service, _, entity = model.partition(".")
    transaction = f"transaction-{version}"
    return envelope.seal(
        envelope.encode(
            id=f"{transaction}-0",
            source=f"/{service}",
            type=f"{model}.{naming.OPERATIONS[operation]}",
            subject=naming.subject(entity, pk),
            time="2026-11-23T08:00:00.123456Z",
            transaction=transaction,
            data={
                "op": operation,
                "model": model,
                "pk": pk,
                "before": None,
                "after": fields,
                "changed": [],
                "author": None,
                "transaction": {"id": transaction, "index": 0, "size": 1},
                **more,
            },
        ),
        version,
    )


def delivery(pk: Any, version: int, fields: Mapping[str, Any] | None = None, **options: Any) -> Delivery:
    """What the handler is given for `body` of the same arguments."""
    made = Delivery(body(pk, version, fields, **options))
    made.event = envelope.decode(made.body)
    return made


@contextmanager
def mirror(data_dir: Path, filesystem: FileSystem | None = None, **options: Any) -> Iterator[Mirror]:
    """A mirror without a broker: opened, recovered, and closed as the command does it."""
    with Files(data_dir, filesystem or QuickFileSystem()) as files, State(make_private(data_dir) / STATE_FILE) as state:
        recover(state, files)
        made = Mirror(state, files, **options)
        try:
            yield made
        finally:
            made.close()


def apply(data_dir: Path, *batches: Sequence[Delivery], **options: Any) -> None:
    """A mirror's whole life: start, these batches, end. All must be done at once."""
    with mirror(data_dir, **options) as handle:
        for batch in batches:
            assert handle(batch) == [DONE] * len(batch)


def make_private(data_dir: Path) -> Path:
    """The mirror's own directory, made if missing."""
    private = data_dir / PRIVATE
    private.mkdir(parents=True, exist_ok=True)
    return private


def contents(data_dir: Path) -> dict[str, bytes]:
    """Every file under the directory but the mirror's own, by its path; links are read as `link to …`."""
    found = {}
    for directory, names, filenames in os.walk(data_dir):
        if Path(directory) == data_dir and PRIVATE in names:
            names.remove(PRIVATE)
        for name in filenames:
            path = Path(directory) / name
            found[path.relative_to(data_dir).as_posix()] = (
                f"link to {path.readlink()}".encode() if path.is_symlink() else path.read_bytes()
            )
    return found


def unfinished(data_dir: Path) -> list[str]:
    """Names of temporary files."""
    return os.listdir(data_dir / PRIVATE / "making")


def fields(data_dir: Path, path: str) -> Any:
    """The fields of the record in this file."""
    return orjson.loads((data_dir / path).read_bytes())["fields"]


def all_done(outcomes: Sequence[Outcome]) -> bool:
    return all(outcome == DONE for outcome in outcomes)


class QuickFileSystem(FileSystem):
    """The real calls, but none that waits for the disk: tests of this process's life have no power loss to fear."""

    def sync(self, file: int) -> None:
        """Later."""

    def sync_all(self, directory: int) -> None:
        """Later."""


class FailingFileSystem(QuickFileSystem):
    """The real calls, until the `nth` that changes something: that one fails, `times` times in a row.

    `number` is the error; a failing `write` has written half before. `calls` counts the calls so far.
    """

    def __init__(self, nth: int = 0, number: int = errno.ENOSPC, times: int = 1) -> None:
        self.nth = nth
        self.number = number
        self.times = times
        self.calls = 0
        self.failed: list[str] = []

    def _call(self, name: str) -> None:
        self.calls += 1
        if self.nth and self.nth <= self.calls < self.nth + self.times:
            self.failed.append(name)
            raise OSError(self.number, os.strerror(self.number), name)

    def make_directory(self, name: str, parent: int) -> None:
        self._call("make_directory")
        super().make_directory(name, parent)

    def open_directory(self, name: str, parent: int) -> int:
        self._call("open_directory")
        return super().open_directory(name, parent)

    def create(self, name: str, directory: int) -> int:
        self._call("create")
        return super().create(name, directory)

    def create_unnamed(self, directory: int) -> int | None:
        self._call("create_unnamed")
        return super().create_unnamed(directory)

    def give_name(self, file: int, name: str, directory: int) -> None:
        self._call("give_name")
        super().give_name(file, name, directory)

    def write(self, file: int, content: bytes) -> None:
        try:
            self._call("write")
        except OSError:
            super().write(file, content[: len(content) // 2])
            raise
        super().write(file, content)

    def close(self, file: int) -> None:
        super().close(file)  # the kernel frees the descriptor also where close fails
        self._call("close")

    def rename(self, name: str, directory: int, to_name: str, to_directory: int) -> None:
        self._call("rename")
        super().rename(name, directory, to_name, to_directory)

    def remove(self, name: str, directory: int) -> None:
        self._call("remove")
        super().remove(name, directory)

    def sync_all(self, directory: int) -> None:
        self._call("sync_all")
        super().sync_all(directory)
