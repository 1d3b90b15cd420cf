"""Programs of real use of other people's packages, in environments of their own, bare and with the bus.

    python -m tests.guests.programs mlflow_store prefect_server
    python -m tests.guests.programs --rounds 5

What a program's user sees must be the same in both runs, and with the bus (outbox, embedded broker, mirror) every row
of its tables must be in the mirror's files as it is in the table, and no other. Ends with 1 where it is not. Each is
run alternately; the fewest seconds of the processor stand beside each other, of all threads of the process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, Final

from tests.guests.environments import ROOT, python_of, versions

LIMIT: Final = 600.0
"""Seconds that one run of a program may take."""


@dataclass(frozen=True)
class Program:
    """A module of `uses`: the environment it runs in, and the packages it is about."""

    environment: str
    packages: Sequence[str]


PROGRAMS: Final[Mapping[str, Program]] = {
    "optuna_study": Program("optuna", ("optuna", "SQLAlchemy")),
    "mlflow_store": Program("mlflow", ("mlflow", "SQLAlchemy")),
    "prefect_server": Program("prefect", ("prefect", "SQLAlchemy")),
    "alchemy_repositories": Program("advanced-alchemy", ("advanced-alchemy", "SQLAlchemy")),
    "flask_shop": Program("various", ("Flask-SQLAlchemy", "Flask-Security-Too", "Flask-Admin")),
    "layered_models": Program(
        "various", ("SQLAlchemy-Continuum", "sqlalchemy-mixins", "sqlalchemy-json", "factory_boy")
    ),
    "async_users": Program("various", ("fastapi-users", "fastapi-users-db-sqlalchemy")),
    "background_work": Program("various", ("celery", "dogpile.cache", "alembic")),
}


@dataclass(frozen=True)
class Compared:
    """What a program's user saw, bare and with the bus: how much of it, where it differs; rows unlike their files."""

    seen: int
    rows: int
    differences: Sequence[str]
    known: Mapping[str, str]
    bare: float
    bus: float

    def __str__(self) -> str:
        return (
            f"{self.seen} answers, {self.rows} rows, {len(self.differences)} differences, "
            f"{len(self.known)} known; "
            f"bare {self.bare:.2f} s, with the bus {self.bus:.2f} s: {self.bus / self.bare:.2f} times"
        )


def compared(name: str, rounds: int = 1) -> Compared:
    """Run one program so many times bare and with the bus, alternately."""
    python = python_of(PROGRAMS[name].environment)
    runs = [(_run(name, python), _run(name, python, "--bus")) for _ in range(rounds)]
    bare, bus = runs[0]
    return Compared(
        seen=len(bare["seen"]),
        rows=bus["rows"],
        differences=[*_otherwise(bare["seen"], bus["seen"]), *bus["differences"]],
        known=bus["known"],
        bare=min(each["seconds"] for each, _ in runs),
        bus=min(each["seconds"] for _, each in runs),
    )


def _run(name: str, python: str, *options: str) -> Any:
    with TemporaryDirectory() as place:
        told = output_of([python, "-m", "tests.guests.driver", name, place, *options], " ".join([name, *options]))
    return json.loads(told.splitlines()[-1])


def output_of(command: Sequence[str], called: str, limit: float = LIMIT) -> str:
    """What a program printed, which is ended with all that it has started.

    A server that it leaves behind may hold its output, which is therefore a file: nobody waits for the end of it.
    Raises RuntimeError if it fails, or has not ended after `limit` seconds.
    """
    with TemporaryFile("w+") as out, TemporaryFile("w+") as log:
        program = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=log, start_new_session=True)
        try:
            ending = f"ended with {program.wait(limit)}"
        except subprocess.TimeoutExpired:
            ending = f"has not ended within {limit:g} s and was killed"
        finally:
            with suppress(ProcessLookupError):  # it left nothing
                os.killpg(program.pid, signal.SIGKILL)
            code = program.wait()
        for each in (out, log):
            each.seek(0)
        if code:
            raise RuntimeError(f"{called} {ending}:\n{log.read()[-4000:]}")
        return out.read()


def _otherwise(bare: Sequence[str], bus: Sequence[str]) -> Iterator[str]:
    if len(bare) != len(bus):
        yield f"{len(bare)} answers bare, {len(bus)} with the bus"
    for each, other in zip(bare, bus, strict=False):
        if each != other:
            yield f"bare {each}, with the bus {other}"


def main(arguments: Iterable[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m tests.guests.programs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("programs", nargs="*", default=list(PROGRAMS), metavar="PROGRAM", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    options = parser.parse_args(None if arguments is None else list(arguments))
    found = []
    for name in options.programs:
        program = PROGRAMS[name]
        result = compared(name, options.rounds)
        print(f"{name} ({versions(program.packages, python_of(program.environment))}): {result}", flush=True)
        for each, why in result.known.items():
            print(f"  known: {each} ({why})")
        for each in result.differences:
            print(f"  {each}")
        found += result.differences
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
