"""Runs somebody else's test suite bare and with the bus on every Session, and tells what fails only with the bus."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.guests.environments import ROOT, cache, version

_PLUGINS: Final = Path(__file__).parent / "plugins"
_RESULT, _ONLY, LOOSE = "EVENTBUS_GUEST_RESULT", "EVENTBUS_GUEST_ONLY", "EVENTBUS_GUEST_LOOSE"
"""What the plugins read in the environment; LOOSE: no notice is taken of assertions about the SQL that was sent."""


def source(package: str, python: str = sys.executable) -> Path:
    """The unpacked source package of what is installed, fetched with pip where it is not in the cache."""
    installed = version(package, python)
    place = cache() / "sources" / f"{package}-{installed}"
    if not place.exists():
        with TemporaryDirectory() as temporary:
            command = ["-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
            options = ["--no-binary", package, "--dest", temporary, f"{package}=={installed}"]
            subprocess.run([python, *command, *options], check=True)
            (archive,) = Path(temporary).iterdir()
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
            (unpacked,) = (each for each in Path(temporary).iterdir() if each.is_dir())
            place.parent.mkdir(parents=True, exist_ok=True)
            _copy(unpacked, place)
    return place


def _copy(unpacked: Path, place: Path) -> None:
    """Whole or not at all; another process may have been as quick."""
    beside = place.with_name(f"{place.name}.{os.getpid()}")
    subprocess.run(["cp", "-r", unpacked, beside], check=True)
    try:
        beside.rename(place)
    except OSError:
        if not place.exists():
            raise


@dataclass(frozen=True)
class Outcomes:
    """What became of each test, by its id, and how many seconds of the processor it all took."""

    of: Mapping[str, str]
    seconds: float
    output: str

    def count(self, outcome: str) -> int:
        return list(self.of.values()).count(outcome)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.count(each)} {each}" for each in ("passed", "failed", "skipped"))
        return f"{counts} in {self.seconds:.0f} s"


@dataclass(frozen=True)
class Suite:
    """A suite in `directory`, run by `python -m pytest` with `options`."""

    directory: Path
    options: Sequence[str]
    python: str = sys.executable

    def run(
        self, paths: Sequence[str], *, bus: bool, only: Iterable[str] | None = None, environment: Mapping[str, str] = {}
    ) -> Outcomes:
        """Raises RuntimeError where pytest could not run the suite."""
        with TemporaryDirectory() as temporary:
            result = Path(temporary) / "result"
            # Without the marks of a run this one is part of: to the plugins they would be those of an xdist worker.
            own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
            surroundings = {**own, **environment, _RESULT: str(result)}
            surroundings["PYTHONPATH"] = f"{ROOT}{os.pathsep}{_PLUGINS}"
            surroundings["PYTHONDONTWRITEBYTECODE"] = "1"
            # As `-s`, for workers and other processes too: SQLAlchemy's suite takes its own source instead without it.
            surroundings["PYTHONNOUSERSITE"] = "1"
            if only is not None:
                chosen = Path(temporary) / "only"
                chosen.write_text("\n".join(only))
                surroundings[_ONLY] = str(chosen)
            plugins = ["-p", "guest_outcomes", *(("-p", "guest_bus") if bus else ())]
            begin = _spent()
            done = subprocess.run(
                [self.python, "-m", "pytest", "-q", *plugins, *self.options, *paths],
                cwd=self.directory, env=surroundings, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                check=False,
            )  # fmt: skip
            if done.returncode not in (0, 1) or not result.exists():
                raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-4000:]}")
            lines = (line.split(" ", 1) for line in result.read_text().splitlines())
            return Outcomes({name: outcome for outcome, name in lines}, _spent() - begin, done.stdout)


def _spent() -> float:
    """Seconds of the processor that children have used: on a busy machine the clock tells nothing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def only_with_the_bus(bare: Outcomes, bus: Outcomes) -> list[str]:
    """The tests that became something else with the bus."""
    return sorted(name for name, outcome in bus.of.items() if outcome != bare.of.get(name))
