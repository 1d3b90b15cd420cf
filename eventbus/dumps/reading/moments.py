"""`--at`, `--tx` and `--position` of loaddata: records as a mirror's history has them, instead of files.

A history is read by whoever keeps it: a package names the function in the entry-point group `eventbus.moments`, which
gives the records of a directory as they were, for `at=`, `tx=` or `position=`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import click
import orjson

from eventbus.errors import ConfigurationError

GROUP: Final = "eventbus.moments"

Records = Callable[..., Iterable[Mapping[str, Any]]]
"""Called with the directory, and one of `at`, `tx`, `position`."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Which one is meant, as it was said; none at all where nothing was."""

    at: str | None = None
    tx: str | None = None
    position: int | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What was said of it."""
        found = {"at": self.at, "tx": self.tx, "position": self.position}
        return {name: value for name, value in found.items() if value is not None}


def moment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--at`, `--tx` and `--position`."""
    position = click.option(
        "--position", type=click.IntRange(0), metavar="N", help="PATH is a mirror's DATA_DIR: load what was at N."
    )
    tx = click.option("--tx", metavar="ID", help="PATH is a mirror's DATA_DIR: load what was after this transaction.")
    at = click.option("--at", metavar="TIME", help="PATH is a mirror's DATA_DIR: load what its history has of TIME.")
    return at(tx(position(command)))


@contextmanager
def paths_of(paths: tuple[str, ...], moment: Moment) -> Iterator[tuple[str, ...]]:
    """The paths to load: those that were named, or a file with the records of the moment, which goes afterwards.

    A file, since a load that has to sort its records reads them twice.
    """
    if not moment.said:
        yield paths
        return
    if len(moment.said) > 1 or len(paths) != 1 or not os.path.isdir(paths[0]):
        raise ConfigurationError("--at, --tx and --position: say one of them, and one mirror's DATA_DIR as PATH")
    with tempfile.TemporaryDirectory(prefix="eventbus-") as directory:
        path = Path(directory, "history.jsonl")
        with path.open("wb") as file:
            for record in _records()(Path(paths[0]), **moment.said):
                file.write(orjson.dumps(record) + b"\n")
        yield (str(path),)


def _records() -> Records:
    for entry in entry_points(group=GROUP):
        found: Records = entry.load()
        return found
    raise ConfigurationError(f"nothing here can read a history: no package names an entry point {GROUP}")
