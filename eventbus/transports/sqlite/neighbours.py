"""Other embedded brokers that are in use on this machine: who means one broker and has two waits for ever."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote

logger = logging.getLogger(__name__)

_PROCESSES: Final = Path("/proc")


def warn_of_others(url: str) -> None:
    """Say so where a broker of the same file name is open in another directory: both sides took the default, elsewhere.

    Seen are the processes of this user, on Linux; elsewhere nothing is said.
    """
    path = url.partition(":///")[2]
    if not path:
        return
    own = os.path.realpath(unquote(path))
    for other in sorted({found for found in _open_files() if os.path.basename(found) == os.path.basename(own)} - {own}):
        logger.warning(
            "this process uses the embedded broker %s, another one %s: what is sent to one does not arrive at the "
            "other. Give all of them one EVENTBUS_URL, as sqlite:///%s",
            own,
            other,
            other,
        )


def _open_files() -> Iterator[str]:
    with suppress(OSError):
        for process in os.listdir(_PROCESSES):
            if process.isdecimal():
                yield from _files_of(_PROCESSES / process / "fd")


def _files_of(directory: Path) -> Iterator[str]:
    with suppress(OSError):
        for descriptor in os.listdir(directory):
            with suppress(OSError):
                yield os.readlink(directory / descriptor)
