"""The mirror's side of `eventbus compare`: its state, its files, or its cache. A name is that of a record's file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, final

from consumers.base.reading.moments import moment
from consumers.json_mirror import cache, filenames
from consumers.json_mirror.disk import documents
from consumers.json_mirror.disk.files import Files, is_possible
from consumers.json_mirror.disk.lock import died, ended
from consumers.json_mirror.heartbeat import Heartbeat
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import State
from eventbus.comparison.mirror import Held, Mirror, Place, content_of_document
from eventbus.errors import ConfigurationError

_CHUNK: Final = 1000
_ON_THE_WAY: Final = 1.0
"""Seconds that a message which the broker has confirmed may take to a mirror that waits for it."""
_LOOK: Final = 0.1
"""Seconds between two looks at how far it is."""
_BROKEN: Final = b"not a document of the mirror"
"""The content of what is none: equal to no row."""


class Store(Protocol):
    """Where the documents of records are, by directory and file name. Tombstones have none."""

    def documents(self, directory: str, filenames: Sequence[str]) -> Mapping[str, tuple[int, bytes]]:
        """Version and document of those that are there."""

    def filenames(self, directory: str) -> Iterator[Sequence[str]]:
        """All of them, some at a time."""


@final
class ComparedMirror(Mirror):
    """The records in a store. Where its directory is known, its signs of life say whether it has caught up."""

    def __init__(self, store: Store, settings: MirrorSettings | None) -> None:
        self._store = store
        self._settings = settings
        self._reached = (0.0, 0.0)

    def name(self, pk: Any) -> str:
        return filenames.filename(pk)

    def pk(self, model: str, name: str) -> Any:
        """A name that was too long is a hash: then the document says it. What is no name of ours is left alone."""
        try:
            return filenames.decode_filename(name)
        except filenames.HashedName:
            return self._pk_in_document(model, name)
        except ValueError:
            return None

    def _pk_in_document(self, model: str, name: str) -> Any:
        found = self._store.documents(_directory(model), [name]).get(name)
        try:
            document = None if found is None else documents.decode(found[1])
        except ValueError:
            return None
        return document.pk if document and document.filename == name else None

    def find(self, model: str, names: Sequence[str]) -> Mapping[str, Held]:
        found = self._store.documents(_directory(model), names)
        return {name: Held(version, _content(document)) for name, (version, document) in found.items()}

    def names(self, model: str) -> Iterator[Sequence[str]]:
        return self._store.filenames(_directory(model))

    def is_behind(self, since: float) -> bool:
        """A running mirror has done what was there at a moment once nothing waits for it, or it has taken in an event
        from after that moment: its queue is in order.
        """
        looked, reached = self._reached
        if time.monotonic() - looked > _LOOK:
            reached = _reached(self._settings) if self._settings and not self.is_stopped() else math.inf
            self._reached = (time.monotonic(), reached)
        return reached < since

    def is_stopped(self) -> bool:
        """It has let go of its directory, its process is gone, or a probe would call it dead for want of signs of life.

        One that is only slow, on a busy machine or disk, is not stopped: what it has not done yet is on its way.
        """
        if self._settings is None:
            return False
        age = Heartbeat(self._settings.heartbeat_file).age()
        if age is None or age > self._settings.health_max_age:
            return True
        lock = self._settings.lock_file
        return ended(lock) or died(lock)


def _reached(settings: MirrorSettings) -> float:
    """The latest moment up to which the running mirror is known to have done all, in seconds since 1970."""
    age = Heartbeat(settings.caught_up_file).age()
    with State(settings.state_file, read_only=True) as state:
        last = max((figures.time for figures in state.figures()), default="")
    then = moment(last)
    told = then.timestamp() if then else 0.0
    return max(told, 0.0 if age is None else time.time() - age - _ON_THE_WAY)


def _content(document: bytes) -> bytes:
    try:
        return content_of_document(document)
    except ValueError:
        return _BROKEN


@lru_cache(maxsize=1024)
def _directory(model: str) -> str:
    service, _, entity = model.partition(".")
    return filenames.directory(service, entity)


@final
class _InFiles:
    """The files themselves, read one by one."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def documents(self, directory: str, filenames: Sequence[str]) -> Mapping[str, tuple[int, bytes]]:
        self._files.begin()
        found = {}
        for name in filenames:
            content = self._files.read(directory, name)
            if content is not None:
                found[name] = (_version(content), content)
        return found

    def filenames(self, directory: str) -> Iterator[Sequence[str]]:
        self._files.begin()
        names = filter(is_possible, self._files.filenames(directory))
        while some := list(islice(names, _CHUNK)):
            yield some


def _version(content: bytes) -> int:
    try:
        return documents.decode(content).version
    except ValueError:
        return 0


@contextmanager
def in_state(place: Place) -> Iterator[Mirror]:
    """The state of the mirror in DATA_DIR, also while it runs."""
    settings = _settings(place)
    with State(settings.state_file, read_only=True) as state:
        yield ComparedMirror(state, settings)


@contextmanager
def in_files(place: Place) -> Iterator[Mirror]:
    """The files under DATA_DIR."""
    settings = _settings(place)
    with Files(settings.data_dir) as files:
        yield ComparedMirror(_InFiles(files), settings)


@contextmanager
def in_cache(place: Place) -> Iterator[Mirror]:
    """The cache at EVENTBUS_CACHE_URL."""
    settings = _settings(place, needs_directory=False)
    if not settings.cache_url:
        raise ConfigurationError("--against cache: EVENTBUS_CACHE_URL says which, and is not set")
    with cache.open(settings.cache_url, insecure_tls=settings.consumer.insecure_tls) as opened:
        yield ComparedMirror(opened, settings if settings.state_file.exists() else None)


def _settings(place: Place, *, needs_directory: bool = True) -> MirrorSettings:
    settings = MirrorSettings.from_env()
    if place.data_dir is not None:
        settings = replace(settings, data_dir=Path(place.data_dir))
    if needs_directory and not settings.data_dir.is_dir():
        raise ConfigurationError(f"there is no directory {settings.data_dir} (--data-dir, DATA_DIR)")
    return settings
