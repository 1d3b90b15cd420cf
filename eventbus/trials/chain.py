"""The whole chain for one test: a bus with its outbox, the embedded broker, and the mirror's directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import orjson

from eventbus import transports
from eventbus.bus import Bus, install
from eventbus.events.naming import DEFAULT_EXCHANGE, DEFAULT_QUEUE
from eventbus.settings import DEFAULT_SERVICE, Settings
from eventbus.transports.mirror_queue import declare_if_missing
from eventbus.trials.instead import arguments_of, standing_aside

_PATIENCE: Final = 120.0
"""Seconds for a command that takes one on an idle machine."""


class Filed(NamedTuple):
    """One file of the mirror."""

    entity: str
    pk: Any
    fields: Mapping[str, Any]
    path: Path


@final
class Mirror:
    """The embedded broker and a mirror's directory below `directory`; nothing of it is there before it is used."""

    def __init__(self, directory: Path) -> None:
        self.url = f"sqlite:///{directory / 'eventbus-broker.sqlite3'}"
        self.data_dir = directory / "eventbus-data"

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a process that is to use this broker: that of the test, without its `EVENTBUS_…`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")}
        return {**kept, "EVENTBUS_URL": self.url, "DATA_DIR": str(self.data_dir), **more}

    def prepare(self) -> None:
        """Make the mirror's queue, as if a mirror had run before: then nothing that is sent is without one."""
        with transports.connection(self.url) as connection:
            channel: Any = connection.channel()
            channel.exchange_declare(DEFAULT_EXCHANGE, type="topic", durable=True, auto_delete=False)
            declare_if_missing(channel, DEFAULT_EXCHANGE, DEFAULT_QUEUE)

    def drain(self) -> list[Filed]:
        """Run the mirror until the queue is empty, and read its files. Raises AssertionError where it fails."""
        self.call("consumers.json_mirror", "--drain")
        return [_filed(path) for path in sorted(self.data_dir.glob("[!.]*/*/*.json"))]

    def call(self, module: str, *arguments: str) -> None:
        """Run a command of this package here. Raises AssertionError where it fails."""
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(  # noqa: S603  # a program of this package
            command, env=self.environment(), capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
        if done.returncode:
            raise AssertionError(f"{module} ended with {done.returncode}:\n{done.stderr}")


def _filed(path: Path) -> Filed:
    record = orjson.loads(path.read_bytes())
    return Filed(record["model"].rpartition(".")[2], record["pk"], record["fields"], path)


@final
class Chain:
    """What `eventbus_chain` is: commit as the application does, then look at the files."""

    def __init__(self, bus: Bus, mirror: Mirror) -> None:
        self.bus = bus
        self.data_dir = mirror.data_dir
        self._mirror = mirror

    def files(self) -> list[Filed]:
        """One `Filed` (entity, pk, fields, path) a record, of all that was committed so far. Takes about a second."""
        self.bus.flush()
        return self._mirror.drain()

    def record(self, entity: str, pk: Any) -> Mapping[str, Any] | None:
        """The fields of one record's file, or None where there is none; `pk` is a list for a composite key."""
        return next((each.fields for each in self.files() if (each.entity, each.pk) == (entity, pk)), None)


@contextmanager
def chain(target: Any, options: Mapping[str, Any], directory: Path) -> Iterator[Chain]:
    """Install on `target` with the broker of `directory`; where it has a bus, with that one's arguments.

    Events are published once their rows are committed, so a Session that is rolled back at the end shows nothing.
    """
    mirror = Mirror(directory)
    with standing_aside(target) as present:
        settings = present.settings if present is not None else Settings(service=DEFAULT_SERVICE)
        given = {
            "settings": replace(settings, url=mirror.url),
            **(arguments_of(present) if present is not None else {}),
        }
        with install(target, **{**given, **options}) as bus:
            yield Chain(bus, mirror)
