"""When files of a directory appear or change. Linux only (inotify)."""

from __future__ import annotations

import ctypes
import os
import select
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import Final

_INOTIFY: Final = Struct("iIII")
_CREATED, _MOVED_HERE = 0x100, 0x80

Sightings = dict[str, list[float]]
"""File names, and when each was seen."""


@contextmanager
def watching(directory: Path) -> Iterator[Sightings]:
    """Grows as long as the context lasts; the directory is made."""
    libc = ctypes.CDLL(None, use_errno=True)
    directory.mkdir(parents=True)
    seen: Sightings = defaultdict(list)
    over = threading.Event()
    with open(libc.inotify_init1(os.O_CLOEXEC), "rb", buffering=0) as events:
        assert libc.inotify_add_watch(events.fileno(), os.fsencode(directory), _CREATED | _MOVED_HERE) >= 0

        def read() -> None:
            while not over.is_set():
                if not select.select([events], [], [], 0.1)[0]:
                    continue
                data, now, at = events.read(1 << 16), time.monotonic(), 0
                while at < len(data):
                    *_, length = _INOTIFY.unpack_from(data, at)
                    at += _INOTIFY.size + length
                    seen[os.fsdecode(data[at - length : at].rstrip(b"\0"))].append(now)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield seen
        finally:
            over.set()
            reader.join()
