"""The files that are not yet as the state has them: to be written, blocked by something foreign, or not yet synced.

The state keeps a note of each until it is known to be on the disk: whatever happens between, a start finds it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple, final

from consumers.json_mirror.disk.files import MAX_BLOCKED, OBSTACLES, Files
from consumers.json_mirror.state import State, Written
from consumers.json_mirror.upkeep.syncing import Syncer

log = logging.getLogger(__name__)


class _File(NamedTuple):
    """What a file should be, and whether it was there before."""

    directory: str
    filename: str
    document: bytes | None
    existed: bool


@final
class Unwritten:
    """The files of one mirror; its methods raise OSError, StateUnavailable and StateDamaged."""

    def __init__(self, state: State, files: Files) -> None:
        self._state = state
        self._files = files
        self._syncer = Syncer(files.sync_all)
        self._failures = 0
        self._batch = self._settled = state.last_batch
        self._waiting: dict[str, _File | None] = {}  # None: as it stands in the state
        # By path alone: what the file should be stands in the state. Some may be left from the last run.
        self._blocked = dict.fromkeys(state.pending())

    @property
    def blocked(self) -> int:
        """How many files something foreign stands in the place of."""
        return len(self._blocked)

    def settled(self) -> int:
        """The batch up to which the state may take notes off with its next commit.

        While files are blocked, only `settle` may: it keeps theirs.
        """
        self._look_for_failures()
        return 0 if self._blocked else self._syncer.synced

    def add(self, batch: int, written: Iterable[Written], settled: int) -> None:
        """Take over the files that a commit has changed, after which batches up to `settled` are off the notes."""
        self._settled = max(self._settled, settled)
        self._batch = batch or self._batch
        for directory, filename, _, document, existed in written:
            path = f"{directory}/{filename}"
            earlier = self._waiting.get(path)
            self._waiting[path] = _File(directory, filename, document, existed or earlier is not None)
            self._blocked.pop(path, None)

    def write(self) -> None:
        """Write all that waits; what is blocked stays so."""
        if not self._waiting:
            return
        self._files.begin()
        for path, file in list(self._waiting.items()):
            self._write_file(path, file or self._as_it_should_be(path))
            del self._waiting[path]
        self._syncer.written(self._batch, self._failures)

    def settle(self) -> None:
        """Note in the state what has reached the disk since the last batch."""
        if self._look_for_failures():
            self.write()
        synced = self._syncer.synced
        if synced > self._settled:
            self._state.settle(synced, self._blocked)
            self._settled = synced

    def unblock(self) -> None:
        """Try again to write the files that are blocked."""
        self._files.begin()
        free = [path for path in self._blocked if self._put(self._as_it_should_be(path)) is None]
        if free:
            # Their batches may be settled already: nothing else waits for these files to reach the disk.
            self._files.sync_all()
        for path in free:
            del self._blocked[path]
        if free:
            self._state.settle(self._settled, self._blocked)

    def sync(self) -> None:
        """Flush what is written to the disk, and flush no more."""
        self._syncer.close()

    def _write_file(self, path: str, file: _File | None) -> None:
        obstacle = self._put(file)
        if obstacle is None:
            return
        if len(self._blocked) >= MAX_BLOCKED:
            raise obstacle
        log.error(
            "something foreign stands in the place of %s: %s",
            path,
            obstacle.strerror,
            extra={"path": path, "reason": obstacle.strerror},
        )
        self._blocked[path] = None

    def _as_it_should_be(self, path: str) -> _File | None:
        directory, _, filename = path.rpartition("/")
        record = self._state.get(directory, filename)
        if record is None or record.sound is False:
            return None  # --verify tells of what is damaged
        return _File(directory, filename, record.document, existed=True)

    def _put(self, file: _File | None) -> OSError | None:
        """Write the file; an obstacle in its place is returned, any other trouble raised."""
        if file is None:
            return None  # a tombstone that was forgotten meanwhile
        try:
            self._files.put(file.directory, file.filename, file.document, existed=file.existed)
        except OSError as error:
            # The call may have known the file by a descriptor or a temporary name.
            error.filename, error.filename2 = f"{file.directory}/{file.filename}", None
            if error.errno not in OBSTACLES:
                raise
            return error
        return None

    def _look_for_failures(self) -> bool:
        """After a flush that failed, nothing written since the last one is sure: all of it waits again."""
        failures = self._syncer.failures
        if failures == self._failures:
            return False
        for path in self._state.pending():
            self._waiting.setdefault(path, None)
        self._failures = failures
        return True
