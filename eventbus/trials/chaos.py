"""Kill a service at a failpoint, let it recover, and compare what the mirror has with the rows."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, final

import orjson
from sqlalchemy import inspect

from eventbus import cli
from eventbus.dumpdata import dumpdata
from eventbus.outbox.tables import outbox
from eventbus.process import failpoints
from eventbus.trials.chain import Filed, Mirror

_SHOWN: Final = 20

Records = dict[tuple[str, str], Any]
"""The fields of a record by its entity and key."""


@final
class Chaos:
    """What `eventbus_chaos` is, for one failpoint. `point` is its name."""

    def __init__(self, point: str, directory: Path) -> None:
        self.point = point
        self._directory = directory
        self._mirror = Mirror(directory)

    def run(
        self,
        command: Sequence[str],
        *,
        database: str,
        models: Any,
        drive: Callable[[], object] | None = None,
        kills: int = 1,
        exclude: Sequence[str] = (),
        timeout: float = 60.0,
        **environment: str,
    ) -> None:
        """Start the service, have it killed at the failpoint, start it again undisturbed, and compare.

        `command` is one process that finds the embedded broker in EVENTBUS_URL and `database` in DATABASE_URL; it makes
        its tables, writes, and may be run again. One that serves until SIGTERM needs `drive`, which sends it requests
        once it answers; what `drive` raises counts only if the process lives. `kills`: so many runs are killed, at the
        first, second … pass of the point. `models` are a declarative base, or its name as `package.module:Base`.
        `exclude` leaves models or fields (`contact.photo`) out of the comparison.

        Raises AssertionError where a committed row has no equal file, a file no row, or the point is never passed.
        """
        self._mirror.prepare()
        self._kill(command, drive, kills, timeout, {"DATABASE_URL": database, **environment})
        ended = self._start(command, drive, timeout, {"DATABASE_URL": database, **environment})
        assert ended in (0, -signal.SIGTERM, 128 + signal.SIGTERM), f"undisturbed, the service ended with {ended}"
        if has_outbox(database):
            self._mirror.call("eventbus.relay", "--database", database, "--once")
        lost = differences(rows(database, models, exclude), filed(self._mirror.drain()))
        told = "\n".join(lost[:_SHOWN])
        assert not lost, f"killed at {self.point}, {len(lost)} records are not what was committed:\n{told}"

    def _kill(self, command: Sequence[str], drive: Any, kills: int, timeout: float, environment: Any) -> None:
        for count in range(1, kills + 1):
            point = {failpoints.VARIABLE: f"{self.point}={count}"}
            ended = self._start(command, drive, timeout, {**environment, **point})
            if ended == -signal.SIGKILL:
                continue
            assert ended in (0, -signal.SIGTERM, 128 + signal.SIGTERM), f"the service ended with {ended}"
            assert count > 1, f"the service never came to {self.point}, so nothing was tried: does it write and commit?"
            return

    def _start(self, command: Sequence[str], drive: Any, timeout: float, environment: dict[str, str]) -> int:
        with subprocess.Popen(command, env=self._mirror.environment(**environment)) as process:  # noqa: S603  # theirs
            try:
                if drive is not None:
                    self._drive(process, drive)
                return process.wait(timeout)
            finally:
                process.kill()

    def _drive(self, process: subprocess.Popen[bytes], drive: Callable[[], object]) -> None:
        try:
            drive()
        except Exception:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)  # the connection breaks a moment before the process is gone
            if process.poll() != -signal.SIGKILL:
                raise
        process.terminate()


def has_outbox(database: str) -> bool:
    """Whether a service has made its outbox there; one that publishes in direct mode has none."""
    engine = cli.make_engine(database)
    with cli.disposing(engine):
        return inspect(engine).has_table(outbox.name)


def rows(database: str, models: Any, exclude: Sequence[str] = ()) -> Records:
    """What the tables say, as events would."""
    found = cli.models_named(models) if isinstance(models, str) else [models]
    stream = io.BytesIO()
    engine = cli.make_engine(database)
    with cli.disposing(engine):
        dumpdata(engine, stream, models=found, format="jsonl", published=True, exclude=exclude)
    records = [orjson.loads(line) for line in stream.getvalue().splitlines() if line]  # nothing is one empty line
    return {_key(each["model"].rpartition(".")[2], each["pk"]): each["fields"] for each in records}


def filed(files: Sequence[Filed]) -> Records:
    """What the files say."""
    return {_key(each.entity, each.pk): each.fields for each in files}


def differences(rows: Records, files: Records) -> list[str]:
    """One line a record whose row and file do not agree in the fields that both have."""
    entities = {entity for entity, _ in rows}
    found = [f"{_name(key)}: the row has no file" for key in rows.keys() - files.keys()]
    found += [f"{_name(key)}: the file has no row" for key in files.keys() - rows.keys() if key[0] in entities]
    for key in rows.keys() & files.keys():
        row, file = rows[key], files[key]
        other = [name for name in row if name in file and row[name] != file[name]]
        found += [f"{_name(key)}: {name} is {row[name]!r} in the row, {file[name]!r} in the file" for name in other]
    return sorted(found)


def _key(entity: str, pk: Any) -> tuple[str, str]:
    return entity, orjson.dumps(pk).decode()


def _name(key: tuple[str, str]) -> str:
    return f"{key[0]}/{key[1]}"
